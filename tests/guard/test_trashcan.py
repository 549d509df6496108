"""What a plan may open beyond the write roots: the caller's own trash and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmos.errors import CallFailed
from llmos.guard import trashcan
from llmos.messages import Caller, Effects, Plan, ToolCall

ME = Caller(uid=os.geteuid(), gid=os.getegid())


def plan(*opens: str) -> Plan:
    call = ToolCall(tool="file.trash", args={"path": "a"})
    return Plan(call=call, command="", effects=Effects(), steps=(), read_only=False, opens=opens)


@pytest.mark.parametrize(
    "asked", ["", "/Trash", "/.local/share/Trash/..", "/.ssh", "/.local/share/Trash/files"]
)
def test_only_the_trash_is_opened(tmp_path: Path, asked: str) -> None:
    home = str(tmp_path)
    trash = f"{home}/.local/share/Trash"
    assert trashcan.opened(plan(f"{home}{asked}", "/etc", "/"), home) == ()
    assert trashcan.opened(plan(f"{home}{asked}", trash), home) == (trash,)
    assert trashcan.opened(plan("/.local/share/Trash"), "/") == ()


def test_a_trash_that_leads_out_of_the_home_is_not(tmp_path: Path) -> None:
    (tmp_path / "home/.local/share").mkdir(parents=True)
    (tmp_path / "home/.local/share/Trash").symlink_to(tmp_path / "elsewhere")
    assert trashcan.opened(plan(f"{tmp_path}/home/.local/share/Trash"), f"{tmp_path}/home") == ()


def test_it_is_made_private_when_it_is_needed_or_that_is_said(isolated_home: Path) -> None:
    trash = isolated_home / ".local/share/Trash"
    trashcan.prepare(plan(), ME)
    assert not trash.exists()
    trashcan.prepare(plan(str(trash)), ME)
    trashcan.prepare(plan(str(trash)), ME)
    assert {entry.name for entry in trash.iterdir()} == {"files", "info"}
    assert trash.stat().st_mode & 0o777 == 0o700
    (trash / "files").rmdir()
    (trash / "info").rmdir()
    trash.rmdir()
    trash.parent.rmdir()
    trash.parent.write_text("no folder")
    with pytest.raises(CallFailed, match="cannot be made") as error:
        trashcan.prepare(plan(str(trash)), ME)
    assert "for_good" in error.value.next_step
