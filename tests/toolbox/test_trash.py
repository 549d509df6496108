"""The trash: what goes in comes out again, nothing is half in, and what is too much is deleted instead."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

import pytest

from llmos.errors import UsageError
from llmos.messages import ToolCall
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context

from .conftest import Call

ODD = ["with blank", "-dash", "new\nline", "日本 語", "q'uo\"te", "100%25", "a[1].txt", ".hidden"]


@pytest.fixture
def folder(here: Context) -> Path:
    return Path(here.cwd)


@pytest.fixture
def trash(here: Context) -> Path:
    return Path(here.home, ".local/share/Trash")


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize("name", ODD)
def test_what_is_thrown_away_says_where_it_was_and_comes_back(
    call: Call, folder: Path, trash: Path, name: str
) -> None:
    (folder / name).write_text(name)
    assert call("file.trash", path=name).exit_code == 0
    assert not names(folder) and (trash / "files" / name).read_text() == name
    head, path, date = (trash / "info" / f"{name}.trashinfo").read_text().splitlines()
    assert head == "[Trash Info]" and unquote(path) == f"Path={folder / name}"
    assert date.startswith("DeletionDate=2") and len(date) == len("DeletionDate=2024-01-01T00:00:00")
    assert call("file.restore", name=name).exit_code == 0
    assert (folder / name).read_text() == name and not names(trash / "files") | names(trash / "info")


def test_names_that_are_taken_get_a_number_and_the_latest_comes_back_first(
    call: Call, folder: Path, trash: Path
) -> None:
    for text in ("old", "new"):
        (folder / "a.txt").write_text(text)
        call("file.delete", path="a.txt")
    info = trash / "info" / "a.txt.trashinfo"
    info.write_text(info.read_text().replace("DeletionDate=2", "DeletionDate=1"))
    assert names(trash / "files") == {"a.txt", "a.2.txt"}
    assert "1 older one" in call("file.restore", name="a.txt").stdout
    assert (folder / "a.txt").read_text() == "new"
    refused = call("file.restore", name=str(folder / "a.txt"))
    assert refused.exit_code == 1 and "exists by now" in refused.stderr
    assert (folder / "a.txt").read_text() == "new"


def test_folders_patterns_and_broken_links(call: Call, folder: Path, trash: Path) -> None:
    (folder / "d/e").mkdir(parents=True)
    (folder / "d/e/f").write_text("x")
    (folder / "broken.tmp").symlink_to("nowhere")
    (folder / "1.tmp").touch()
    refused = call("file.delete", path="d")
    assert refused.exit_code == 1 and "recursive=true" in refused.stderr and (folder / "d/e/f").exists()
    assert call("file.delete", path="d/", recursive=True).exit_code == 0
    assert call("file.trash", path="*.tmp").exit_code == 0
    assert names(trash / "files") == {"d", "broken.tmp", "1.tmp"} and not names(folder)
    assert os.readlink(trash / "files/broken.tmp") == "nowhere"
    assert call("file.restore", name="d").exit_code == 0 and (folder / "d/e/f").read_text() == "x"
    assert "Nothing matches" in call("file.trash", path="*.none").stderr
    assert "No such file" in call("file.trash", path="none").stderr
    assert "it holds" in call("file.restore", name="none").stderr


def test_too_much_is_deleted_or_refused_and_holes_count(call: Call, folder: Path, trash: Path) -> None:
    with (folder / "sparse").open("wb") as file:
        file.truncate(100 << 30)
    refused = call("file.trash", path="sparse")
    assert (
        refused.exit_code == 1 and "too much for the trash" in refused.stderr and (folder / "sparse").exists()
    )
    told = call("file.delete", path="sparse")
    assert told.exit_code == 0 and "without it" in told.stdout
    (folder / "a").touch()
    assert call("file.delete", path="a", for_good=True).exit_code == 0
    assert not names(folder) | names(trash / "files")


def test_what_cannot_go_whole_stays_whole(call: Call, folder: Path, trash: Path) -> None:
    (folder / "a").mkdir()
    os.mkfifo(folder / "b")
    (trash / "files").mkdir(parents=True)
    (trash / "info").mkdir()
    (trash / "info").chmod(0o500)
    if os.access(trash / "info", os.W_OK):  # root may write all the same
        (trash / "info").rmdir()
        (trash / "info").write_text("no folder")
    assert call("file.trash", path="*").exit_code == 1
    assert names(folder) == {"a", "b"} and not names(trash / "files")


def test_the_trash_itself_and_homeless_people(
    call: Call, tools: Catalog, here: Context, trash: Path, folder: Path
) -> None:
    (folder / "a").touch()
    call("file.delete", path="a")
    assert call("file.delete", path=str(trash / "files/a")).exit_code == 0  # is deleted for good
    assert not names(trash / "files")
    for home in ("/nonexistent", "/"):
        nobody = Context(cwd=here.cwd, home=home, uid=4242)
        assert not tools.plan(ToolCall(tool="file.delete", args={"path": "a"}), nobody).opens
    for tool, args in (("file.trash", {"path": "a"}), ("file.restore", {"name": "a"})):
        with pytest.raises(UsageError, match="no home"):
            tools.plan(ToolCall(tool=tool, args=args), nobody)


@pytest.mark.parametrize(
    "info", ["", "[Trash Info]\n", "[Trash Info]\nPath=relative\n", "x" * 5000, "\0\xff"]
)
def test_what_is_no_description_is_passed_over(call: Call, trash: Path, folder: Path, info: str) -> None:
    (trash / "info").mkdir(parents=True)
    (trash / "info/x.trashinfo").write_text(info)
    outcome = call("file.restore", name="x")
    assert outcome.exit_code == 1 and "it holds nothing" in outcome.stderr
