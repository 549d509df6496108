"""Every file tool run for real, judged by what it did to the folder."""

from __future__ import annotations

import os
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from llmos.errors import UsageError
from llmos.messages import ToolCall
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context

from .conftest import Call

ODD = [
    "with blank.txt",
    "-dash.txt",
    "new\nline.txt",
    "日本 語.txt",
    "(paren.txt",
    "!bang.txt",
    "q'uo\"te.txt",
]


@pytest.fixture
def folder(here: Context) -> Path:
    return Path(here.cwd)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# --- looking ---------------------------------------------------------------------------------------


def test_the_three_largest_files_come_largest_first(call: Call, folder: Path) -> None:
    (folder / "deep").mkdir()
    for name, size in (("a", 10), ("b", 5000), ("deep/c", 90000), ("d", 300)):
        (folder / name).write_bytes(b"x" * size)
    lines = call("file.find", type="file", sort="size", limit=3).stdout.splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["deep/c", "b", "d"]
    assert "more" in lines[3]


def test_find_by_size_age_name_and_content(call: Call, folder: Path) -> None:
    (folder / "big.log").write_bytes(b"x" * 20000)
    (folder / "small.log").write_text("needle here")
    (folder / "old.txt").write_text("needle too")
    week_ago = time.time() - 8 * 86400
    os.utime(folder / "old.txt", (week_ago, week_ago))
    assert call("file.find", larger_than="10K", type="file").stdout.split()[-1] == "big.log"
    assert call("file.find", older_than="7d").stdout.split()[-1] == "old.txt"
    assert "old.txt" not in call("file.find", newer_than="7d").stdout
    assert call("file.find", name="*.log", contains="NEEDLE").stdout.split()[-1] == "small.log"
    assert call("file.find", name="*.pdf").stdout == "Nothing found.\n"


def test_list_shows_kinds_and_hides_dotfiles_until_asked(call: Call, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / ".hidden").touch()
    (folder / "a.txt").touch()
    text = call("file.list").stdout
    assert "sub/" in text and "a.txt" in text and ".hidden" not in text and len(text.splitlines()) == 2
    assert ".hidden" in call("file.list", hidden=True).stdout
    assert call("file.list", path="*.txt").stdout.split()[-1] == "a.txt"
    assert call("file.list", type="folder").stdout.split()[-1] == "sub/"


def test_a_missing_folder_is_a_failure_not_an_empty_answer(call: Call) -> None:
    for tool in ("file.list", "file.find", "file.usage"):
        outcome = call(tool, path="nowhere")
        assert outcome.exit_code == 2 and "No such file" in outcome.stderr, tool


def test_odd_names_are_one_line_each(call: Call, folder: Path) -> None:
    for name in ODD:
        (folder / name).touch()
    assert len(call("file.list").stdout.splitlines()) == len(ODD)
    *found, count = call("file.find").stdout.splitlines()
    assert len(found) == len(ODD) and count == f"{len(ODD)} found."
    assert r"new\nline.txt" in call("file.list").stdout


@pytest.mark.parametrize("name", ODD)
def test_odd_names_can_be_written_read_copied_moved_and_deleted(call: Call, folder: Path, name: str) -> None:
    assert call("file.write", path=name, content="hi").exit_code == 0
    assert (folder / name).read_text() == "hi\n"
    assert call("file.read", path=name).stdout == "hi\n"
    assert call("file.copy", path=name, to="copy").exit_code == 0
    assert call("file.move", path=name, to="moved/").exit_code == 0
    assert names(folder) == {"copy", "moved"} and names(folder / "moved") == {name}
    assert call("file.delete", path=f"moved/{name}").exit_code == 0
    assert not names(folder / "moved")


def test_usage_orders_folders_by_size(call: Call, folder: Path) -> None:
    for name, size in (("small", 1000), ("large", 200_000)):
        (folder / name).mkdir()
        (folder / name / "f").write_bytes(b"x" * size)
    lines = call("file.usage").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == [".", "large", "small"]
    assert "K" in lines[1]


def test_read_first_last_data_empty_and_binary(call: Call, folder: Path) -> None:
    (folder / "n").write_text("1\n2\n3\n")
    assert call("file.read", path="n", first=1).stdout == "1\n"
    assert call("file.read", path="n", last=2).stdout == "2\n3\n"
    assert call("file.read", data=b"piped\n").stdout == "piped\n"
    (folder / "empty").touch()
    assert call("file.read", path="empty").stdout == "The file is empty.\n"
    (folder / "bin").write_bytes(b"\x00\x01")
    assert "binary" in call("file.read", path="bin").stdout
    assert call("file.read", path="missing").exit_code == 1
    with pytest.raises(UsageError, match="path"):
        call("file.read")


# --- changing --------------------------------------------------------------------------------------


def test_write_creates_appends_overwrites_and_refuses(call: Call, folder: Path) -> None:
    assert call("file.write", path="deep/er/a", content="one").exit_code == 0
    refused = call("file.write", path="deep/er/a", content="two")
    assert refused.exit_code == 1 and "exists already" in refused.stderr
    call("file.write", path="deep/er/a", content="two", mode="append")
    assert (folder / "deep/er/a").read_text() == "one\ntwo\n"
    call("file.write", path="deep/er/a", content="x", mode="overwrite")
    assert (folder / "deep/er/a").read_text() == "x\n"
    call("file.write", path="data", data=b"\x00raw")
    assert (folder / "data").read_bytes() == b"\x00raw"


@pytest.mark.parametrize("tool", ["file.move", "file.copy"])
def test_nothing_is_overwritten_unless_it_is_said(call: Call, folder: Path, tool: str) -> None:
    (folder / "a").write_text("new")
    (folder / "b").write_text("old")
    kept = call(tool, path="a", to="b")
    assert kept.exit_code == 1 and "exists already" in kept.stderr
    assert (folder / "b").read_text() == "old" and (folder / "a").exists()
    assert call(tool, path="a", to="b", overwrite=True).exit_code == 0
    assert (folder / "b").read_text() == "new"


def test_a_pattern_moves_what_it_matches_and_names_what_it_left(call: Call, folder: Path) -> None:
    for name in ("1.jpg", "-2.jpg", ".h.jpg", "x.txt"):
        (folder / name).write_text(name)
    (folder / "pics").mkdir()
    (folder / "pics/1.jpg").write_text("already")
    outcome = call("file.move", path="*.jpg", to="pics")
    assert outcome.exit_code == 1 and outcome.stderr.count("exists already") == 1
    assert names(folder / "pics") == {"1.jpg", "-2.jpg"} and (folder / "pics/1.jpg").read_text() == "already"
    assert names(folder) == {"1.jpg", ".h.jpg", "x.txt", "pics"}
    assert "Nothing matches" in call("file.move", path="*.png", to="pics/").stderr


def test_copy_takes_folders_whole(call: Call, folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src/f").write_text("x")
    assert call("file.copy", path="src", to="dst").exit_code == 0
    assert (folder / "dst/f").read_text() == "x" and (folder / "src/f").exists()


def test_delete_files_folders_and_patterns(call: Call, folder: Path) -> None:
    (folder / "d").mkdir()
    for name in ("a.tmp", "b.tmp", "keep", "d/x"):
        (folder / name).touch()
    assert call("file.delete", path="d").exit_code == 1 and (folder / "d/x").exists()
    assert call("file.delete", path="d", recursive=True).exit_code == 0
    assert call("file.delete", path="*.tmp").exit_code == 0
    assert names(folder) == {"keep"}
    assert call("file.delete", path="*.tmp").exit_code == 1


def test_brackets_are_part_of_a_name_not_a_pattern(call: Call, folder: Path) -> None:
    for name in ("a[1].txt", "a1.txt", "a[1].log"):
        (folder / name).touch()
    assert call("file.delete", path="a[1].txt").exit_code == 0
    assert call("file.delete", path="a[1].l*").exit_code == 0
    assert names(folder) == {"a1.txt"}


@pytest.mark.parametrize("path", ["/", "~", ".", "..", "./", "../here", "/*", "~/../*", "../h*", "../../*/"])
@pytest.mark.parametrize("tool", ["file.delete", "file.move"])
def test_the_ground_one_stands_on_is_never_taken(call: Call, tool: str, path: str) -> None:
    to = {"to": "elsewhere"} if tool == "file.move" else {"recursive": True}
    with pytest.raises(UsageError):
        call(tool, path=path, **to)


# --- archives --------------------------------------------------------------------------------------


@pytest.mark.parametrize("archive", ["a.tar.gz", "a.tar", "a.tar.xz", "a.zip"])
def test_archives_go_there_and_back(call: Call, folder: Path, archive: str) -> None:
    (folder / "docs").mkdir()
    (folder / "docs/-x y.txt").write_text("text")
    assert call("file.archive", action="create", archive=archive, path="docs").exit_code == 0
    assert "-x y.txt" in call("file.archive", action="list", archive=archive).stdout
    assert call("file.archive", action="extract", archive=archive, to="out").exit_code == 0
    assert (folder / "out/docs/-x y.txt").read_text() == "text"
    again = call("file.archive", action="create", archive=archive, path="docs")
    assert again.exit_code == 1 and "exists already" in again.stderr


@pytest.mark.parametrize("archive", ["c.tar.gz", "c.zip"])
def test_a_pattern_is_archived_and_none_is_said(call: Call, folder: Path, archive: str) -> None:
    for name in ("1.csv", "2 2.csv", "n.txt"):
        (folder / name).write_text(name)
    none = call("file.archive", action="create", archive=archive, path="*.pdf")
    assert none.exit_code == 1 and "Nothing matches" in none.stderr and not (folder / archive).exists()
    assert call("file.archive", action="create", archive=archive, path="*.csv").exit_code == 0
    listing = call("file.archive", action="list", archive=archive).stdout
    assert "2 2.csv" in listing and "n.txt" not in listing
    there = call("file.archive", action="create", archive=archive, path="*.csv")
    assert there.exit_code == 1 and "exists already" in there.stderr


def test_a_hostile_archive_stays_in_its_folder(call: Call, folder: Path) -> None:
    (folder / "payload").write_text("bad")
    with tarfile.open(folder / "evil.tar", "w") as tar:
        tar.add(folder / "payload", "../escaped")
    with zipfile.ZipFile(folder / "evil.zip", "w") as packed:
        packed.writestr("../escaped", "bad")
    for archive in ("evil.tar", "evil.zip"):
        call("file.archive", action="extract", archive=archive, to="out")
    assert not (folder / "escaped").exists() and not (folder.parent / "escaped").exists()


@pytest.mark.parametrize("archive", ["a.tar", "a.zip"])
def test_extracting_replaces_nothing(call: Call, folder: Path, archive: str) -> None:
    (folder / "f").write_text("packed")
    call("file.archive", action="create", archive=archive, path="f")
    (folder / "f").write_text("mine")
    call("file.archive", action="extract", archive=archive)
    assert (folder / "f").read_text() == "mine"


def test_effects_are_absolute_and_complete(tools: Catalog, here: Context) -> None:
    def effects(tool: str, **args: object) -> object:
        return tools.plan(ToolCall(tool=tool, args=args), here).effects

    move = effects("file.move", path="a", to="~/b/../c")
    assert move.writes == (f"{here.cwd}/a", f"{here.home}/c")
    delete = effects("file.delete", path="sub/*.x", for_good=True)
    assert delete.deletes == (f"{here.cwd}/sub/*.x",) and delete.programs == ("/usr/bin/find", "/usr/bin/rm")
    trashed = effects("file.delete", path="sub/*.x")
    assert trashed.deletes == delete.deletes and trashed.writes == (f"{here.home}/.local/share/Trash",)


def test_a_folder_as_a_tree(call: Call, here: Context) -> None:
    root = Path(here.cwd)
    for name in ("src/net/a.py", "src/b.py", "src.txt", ".git/config", "docs/x\ny.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    assert call("file.tree").stdout.splitlines() == [
        ".",
        "├── docs/",
        "│   └── x\\ny.md",
        "├── src/",
        "│   ├── b.py",
        "│   └── net/",
        "│       └── a.py",
        "└── src.txt",
    ]
    assert call("file.tree", path="src", depth=1).stdout.splitlines() == ["src", "├── b.py", "└── net/"]
    assert call("file.tree", folders=True, hidden=True).stdout.count("─ ") == 4
    assert call("file.tree", limit=2).stdout.endswith("… and more; the first 2 are shown.\n")
    assert call("file.tree", path="none").exit_code != 0
