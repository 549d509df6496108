"""File and text tools by their effect, in the real sandbox, through one daemon."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .support import Client, Daemon

pytestmark = pytest.mark.sandbox
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    return place


@pytest.fixture
def call(start_daemon: Callable[..., Daemon], folder: Path) -> Call:
    """call(tool, **args): the result, all questions answered with yes; `status=` is what is expected."""
    client: Client = start_daemon().connect()

    def made(tool: str, *, status: str = "done", consent: str = "yes", **args: Any) -> dict[str, Any]:
        result = client.result("call", tool=tool, args=args, cwd=str(folder), consent=consent)
        assert result["status"] == status, result
        return {**result, **result["calls"][0]}

    return made


def test_of_a_file_tool_that_fails_no_change_is_kept(call: Call, folder: Path) -> None:
    result = call("file.archive", status="failed", action="create", archive="a.tar", path="missing")
    assert "Nothing was changed." in result["answer"] and not result["undo_id"]
    assert result["effects"]["changes"]["created"] == 0 and not os.listdir(folder)


def test_set_id_entries_are_extracted_without_their_power(call: Call, folder: Path) -> None:
    info = tarfile.TarInfo("suid")
    info.mode = 0o4755
    with tarfile.open(folder / "a.tar", "w") as packed:
        packed.addfile(info)
    assert "1 entry" in call("file.archive", action="list", archive="a.tar", consent="none")["stdout"]
    assert "set-id" in call("file.archive", action="extract", archive="a.tar", to="out")["stdout"]
    assert (folder / "out/suid").stat().st_mode & 0o7777 == 0o755
    call("shell.run", command="mkdir by-tar; tar -xf a.tar -C by-tar")
    assert (folder / "by-tar/suid").stat().st_mode & 0o6000 == 0
