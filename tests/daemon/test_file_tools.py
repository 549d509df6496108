"""File and text tools by their effect, in the real sandbox, through one daemon."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .support import Client, Daemon

pytestmark = pytest.mark.sandbox


class Call:
    """call(tool, **args): the result, all questions answered with yes; `status=` is what is expected."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client, self._folder = client, folder

    def __call__(
        self, tool: str, *, status: str = "done", consent: str = "yes", **args: Any
    ) -> dict[str, Any]:
        result = self._client.result("call", tool=tool, args=args, cwd=str(self._folder), consent=consent)
        assert result["status"] == status, result
        return {**result, **result["calls"][0]}

    def error(self, tool: str, **args: Any) -> str:
        told = self._client.error("call", tool=tool, args=args, cwd=str(self._folder), consent="yes")
        return str(told["message"])

    def undo(self, undo_id: str, status: str = "done") -> None:
        result = self._client.result("undo", undo_id=undo_id, consent="yes")
        assert result["status"] == status, result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    return place


@pytest.fixture
def call(start_daemon: Callable[..., Daemon], folder: Path) -> Call:
    return Call(start_daemon().connect(), folder)


def test_what_is_deleted_lies_in_the_trash_and_comes_back_either_way(
    call: Call, folder: Path, isolated_home: Path
) -> None:
    trash = isolated_home / ".local/share/Trash/files"
    (folder / "a").write_text("a")
    deleted = call("file.delete", path="a")
    assert (trash / "a").read_text() == "a" and not (folder / "a").exists()
    call.undo(deleted["undo_id"])
    assert (folder / "a").read_text() == "a" and not (trash / "a").exists()
    call("file.trash", path="a")
    call("file.restore", name="a")
    assert (folder / "a").read_text() == "a"
    call("file.delete", path="a", for_good=True)
    assert not os.listdir(trash) and not os.listdir(folder)


def test_the_trash_is_open_to_these_tools_alone(call: Call, folder: Path, isolated_home: Path) -> None:
    (folder / "a").write_text("a")
    call("file.trash", path="a")
    trash = isolated_home / ".local/share/Trash"
    call("shell.run", status="denied", command=f"rm {trash}/files/a")
    call("shell.run", status="failed", command=f"f=rm; $f {trash}/files/a")
    call("file.copy", status="denied", path="/etc/hostname", to=f"{trash}/files/b")
    assert (trash / "files/a").read_text() == "a"


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


def test_sets_of_files_are_changed_and_taken_back_as_one(call: Call, folder: Path) -> None:
    for name in ("a 1.txt", "a 2.txt", "-x\n3.txt"):
        (folder / name).write_text(name)
    call("file.rename", path="*.txt", find=" ", replace="_", preview=True, consent="none")
    renamed = call("file.rename", path="*.txt", find=" ", replace="_")
    assert renamed["effects"]["changes"]["renamed"] == 2 and (folder / "a_1.txt").read_text() == "a 1.txt"
    call("file.permissions", path="*.txt", consent="none")
    call("file.permissions", path="a_1.txt", mode="600")
    assert (folder / "a_1.txt").stat().st_mode & 0o777 == 0o600
    hard = call("file.link", target="a_1.txt", link="second", hard=True)
    assert (folder / "second").stat().st_nlink == 2
    call.undo(hard["undo_id"])
    assert not (folder / "second").exists()
    call.undo(renamed["undo_id"], status="failed")  # its mode has changed since
    call("file.mkdir", path="sub/deep")
    call("file.link", target="a_1.txt", link="sub/deep/")
    assert (folder / "sub/deep/a_1.txt").read_text() == "a 1.txt"
    (folder / "copy").write_text("a 1.txt")
    assert "2 × 7 B" in call("file.duplicates", consent="none")["stdout"]
    call("file.checksum", path="copy", consent="none", expect="0000", status="failed")


def test_text_tools_look_unasked_in_the_sandbox(call: Call, folder: Path) -> None:
    (folder / "s.csv").write_text("city,amount\nParis,3\nRome,4\nParis,5\n")
    (folder / "t.csv").write_text("city,amount\nParis,3\n")

    def look(tool: str, **args: Any) -> str:
        return str(call(tool, consent="none", **args)["stdout"])

    assert look("text.query", path="s.csv", where="amount > 3", select="city") == "Rome\nParis\n"
    assert look("text.query", path="s.csv", group="city", sum="amount").splitlines()[1].split() == [
        "Paris",
        "8",
    ]
    assert look("text.columns", path="s.csv", columns=["amount"]) == "3\n4\n5\n"
    assert look("text.count", path="s.csv", top=1, what="words", pattern="Paris").splitlines() == ["2  Paris"]
    assert look("text.tail", path="s.csv", lines=1) == "Paris,5\n"
    assert "-Rome,4" in look("text.compare", a="s.csv", b="t.csv")
    assert "watched" in look("text.tail", path="s.csv", follow=True, duration="0.2s")
    assert not list(folder.rglob("*.pyc"))


def test_a_table_made_out_of_another_is_taken_back(call: Call, folder: Path) -> None:
    table = "city,amount\nParis,3\nRome,4\nParis,5\n"
    (folder / "s.csv").write_text(table)
    made = call("text.export", path="s.csv", to="out/paris.json", where="city = Paris")
    assert json.loads((folder / "out/paris.json").read_text())[1] == {"city": "Paris", "amount": 5}
    call.undo(made["undo_id"])
    assert os.listdir(folder) == ["s.csv"]
    thinned = call("text.export", path="s.csv", to="s.csv", where="city != Paris", overwrite=True)
    assert (folder / "s.csv").read_text() == "city,amount\nRome,4\n"
    call.undo(thinned["undo_id"])
    assert (folder / "s.csv").read_text() == table
    call("text.export", status="denied", path="s.csv", to="/etc/s.csv")


def test_cells_that_were_changed_are_taken_back(call: Call, folder: Path) -> None:
    table = "city,amount\nParis,3\nRome,4\n"
    (folder / "s.csv").write_text(table)
    raised = call("text.update", path="s.csv", set="amount = amount * 2", where="city = Rome")
    assert (folder / "s.csv").read_text() == "city,amount\nParis,3\nRome,8\n"
    call.undo(raised["undo_id"])
    assert (folder / "s.csv").read_text() == table
    call("text.update", status="denied", path="/etc/s.csv", set="amount = 1")


def test_what_is_excepted_stays_and_the_others_come_back(call: Call, folder: Path) -> None:
    for name in ("a.log", "b.log", "keep.log"):
        (folder / name).write_text(name)
    gone = call("file.delete", path="*.log", **{"except": ["keep.log"]})
    assert os.listdir(folder) == ["keep.log"]
    call.undo(gone["undo_id"])
    assert len(os.listdir(folder)) == 3
    call("file.delete", status="failed", path="*.log", **{"except": ["kep.log"]})
    moved = call("file.move", path="*", to="old/2025/", **{"except": ["a.log"]})
    assert sorted(os.listdir(folder)) == ["a.log", "old"]
    call.undo(moved["undo_id"])
    call("file.archive", action="create", archive="x.zip", path=".", **{"except": ["a.*"]})
    call("file.archive", action="extract", archive="x.zip", to="out", only=["b.log"])
    assert os.listdir(folder / "out") == ["b.log"]


def test_names_with_newlines_and_missing_files_are_told_plainly(call: Call, folder: Path) -> None:
    (folder / "new\nline").write_text("hello\x0bagain\nhello\n")
    assert call("text.search", pattern="hello", path=".")["stdout"].splitlines()[-1] == "new\\nline:2: hello"
    for tool in ("text.count", "file.list", "file.find", "file.usage", "file.read"):
        assert "No such file" in call(tool, status="failed", path="missing")["stderr"]
    assert call("text.count", path=".")["stdout"].split()[0] == "2"


def test_of_a_sparse_file_of_100_gb_no_more_is_read_than_is_shown(call: Call, folder: Path) -> None:
    with (folder / "sparse").open("wb") as file:
        file.truncate(100 << 30)
    assert "binary" in call("file.read", path="sparse")["stdout"]
    assert "No match" in call("text.search", path="sparse", pattern="x")["stdout"]
    assert "Nothing to replace" in call("text.replace", path="sparse", find="x", replace="y")["stdout"]


def test_a_folder_is_not_copied_into_itself_and_of_too_many_files_none_is_deleted(
    call: Call, folder: Path
) -> None:
    for number in range(21):
        place = folder / f"many/d{number}"
        place.mkdir(parents=True)
        for name in range(1000):
            os.close(os.open(place / str(name), os.O_CREAT | os.O_WRONLY))
    told = call("file.delete", status="failed", path="many", recursive=True)
    assert "more than 20,000 files" in told["stderr"] and "deleted" not in told["stdout"]
    assert "Nothing to replace" in call("text.replace", path=".", find="x", replace="y")["stdout"]
    assert len(os.listdir(folder / "many/d20")) == 1000
    error = call.error("file.copy", path="many/d1", to="many/d1/sub")
    assert "cannot be copied into itself" in error and not (folder / "many/d1/sub").exists()


def test_of_several_files_of_which_one_cannot_be_moved_none_is(call: Call, folder: Path) -> None:
    for name in ("a.jpg", "b.jpg", "pics/b.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    told = call("file.move", status="failed", path="*.jpg", to="pics")
    assert "'pics/b.jpg' exists already" in told["stderr"] and not told["stdout"]
    assert sorted(os.listdir(folder)) == ["a.jpg", "b.jpg", "pics"] and os.listdir(folder / "pics") == [
        "b.jpg"
    ]
    assert "Nothing was changed" in told["answer"]


def test_what_is_denied_for_what_it_did_when_tried_has_no_output_and_no_exit_code(
    call: Call, folder: Path
) -> None:
    denied = call("shell.run", status="denied", command="n=.env; echo x > $n; echo written")
    assert denied["exit_code"] is None and not denied["stdout"] and not os.listdir(folder)
    assert "Nothing it tried was kept" in denied["answer"]


@pytest.mark.root
def test_a_full_or_read_only_file_system_is_named_and_nothing_is_half_done(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    full, fixed = tmp_path / "full", tmp_path / "fixed"
    with ExitStack() as stack:
        for place in (full, fixed):
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
            stack.callback(subprocess.run, ["umount", str(place)], check=True)
            (place / "a.txt").write_text("z" * 1000)
            (place / "all").write_bytes(b"x" * (1900 << 10))
        subprocess.run(["mount", "-o", "remount,ro", str(fixed)], check=True)
        daemon = start_daemon()
        stack.callback(daemon.stop)
        calls = [
            ("file.copy", {"path": "all", "to": "b"}),
            ("text.replace", {"path": "a.txt", "find": "z", "replace": "y" * 300}),
            ("file.archive", {"action": "create", "archive": "x.tar", "path": "all"}),
        ]
        with daemon.connect() as client:
            for place, reason in ((full, "not free"), (fixed, "Read-only file system")):
                for tool, args in calls:
                    told = json.dumps(
                        client.call("call", tool=tool, args=args, cwd=str(place), consent="yes")
                    )
                    assert reason in told or "No space left" in told, told
                    assert "changed a.txt" not in told
                assert sorted(os.listdir(place)) == ["a.txt", "all"]
                assert (place / "a.txt").read_text() == "z" * 1000


def test_what_is_old_goes_from_below_and_comes_back(call: Call, folder: Path, isolated_home: Path) -> None:
    for name, days in (("a", 1), ("b", 40), ("sub/c", 60), (".git/d", 90)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
        os.utime(folder / name, (time.time() - days * 86400,) * 2)
    deleted = call("file.delete", path=".", older_than="30d")
    assert sorted(os.listdir(folder)) == [".git", "a", "sub"] and not os.listdir(folder / "sub")
    assert sorted(os.listdir(isolated_home / ".local/share/Trash/files")) == ["b", "c"]
    call.undo(deleted["undo_id"])
    assert (folder / "sub/c").read_text() == "sub/c" and (folder / "b").read_text() == "b"
    moved = call("file.move", path=".", to="old/", older_than="30d")
    assert (folder / "old/sub/c").is_file() and (folder / "old/b").is_file()
    call.undo(moved["undo_id"])
    copied = call("file.copy", path="*", to="newest.txt", sort="newest", limit=1)
    assert (folder / "newest.txt").read_text() == "a" and copied["effects"]["changes"]["created"] == 1
    call("file.delete", path="*", keep_newest=1, for_good=True)
    assert sorted(os.listdir(folder)) == [".git", "newest.txt", "sub"]
    again = call("file.trash", path="sub", older_than="1y")
    assert "nothing was done" in again["stdout"]
