"""Rehearsed changes made real and taken back: all that a file is comes back; others' work is never lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmos.errors import CallFailed, DiskFull
from llmos.guard import commit, turning, undostore
from llmos.guard.slots import Conflict
from tests.guard.boxes import Bench
from tests.guard.rehearsing import change, entry, permit, picture, rehearse, turn

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("isolated_home")]

# One command for each way a file can change; the whole of it must come back.
CHANGES = {
    "create": "echo new > new.txt",
    "append": "echo two >> notes.txt",
    "edit": "sed -i s/one/eins/ notes.txt",
    "delete": "rm notes.txt",
    "delete-folder": "rm -r tree",
    "rename": "mv notes.txt other.txt",
    "rename-over": "mv notes.txt plain.txt",
    "rename-folder": "mv tree wood",
    "mode": "chmod 600 notes.txt; chmod 700 tree",
    "times": "touch -d 2001-02-03 notes.txt",
    "xattr": "setfattr -n user.colour -v red notes.txt 2>/dev/null || python3 -c \"import os;"
    "os.setxattr('notes.txt','user.colour',b'red')\"",
    "link": "ln -s notes.txt sym; ln -sf elsewhere link; rm broken",
    "link-to-file": "rm link; echo real > link",
    "file-to-link": "rm notes.txt; ln -s /etc/passwd notes.txt",
    "file-to-folder": "rm notes.txt; mkdir notes.txt; echo x > notes.txt/x",
    "folder-to-file": "rm -r tree; echo flat > tree",
    "folder-to-link": "rm -r tree; ln -s /etc tree",
    "folder-replaced": "rm -r tree; mkdir tree; echo other > tree/other; echo b > tree/b",
    "new-tree": "mkdir -p a/b/c; echo 1 > a/1; echo 2 > a/b/2; chmod 500 a/b; ln a/1 a/hard",
    "odd-names": r"""printf x > $'new\nline'; printf y > $'byte\377'; rm -- "it's" -dash""",
    "read-only-folder": "chmod u+w sealed; rm sealed/in; echo n > sealed/new; chmod u-w sealed",
    "sparse": "truncate -s 100G huge; truncate -s 50G holes; echo end >> holes",
    "nothing": "cat notes.txt > /dev/null; touch -r notes.txt notes.txt",
}  # fmt: skip


def furnish(bench: Bench) -> None:
    bench.make("notes.txt", "one\ntwo\nthree\n", 0o640)
    bench.make("plain.txt", "plain\n")
    for name in ("tree/a", "tree/b", "tree/deep/er/c", "sealed/in", "it's", "-dash"):
        bench.make(name, name + "\n")
    (bench.folder / "link").symlink_to("notes.txt")
    (bench.folder / "broken").symlink_to("nowhere")
    with open(bench.folder / "holes", "wb") as file:
        file.write(b"begin\n")
        file.truncate(100 << 30)
    os.setxattr(bench.folder / "tree/a", "user.kept", b"yes")
    bench.own()
    os.utime(bench.folder / "tree", ns=(1, 2))
    (bench.folder / "sealed").chmod(0o555)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_as_if_the_command_had_run_and_undo_as_if_it_never_had(bench: Bench, name: str) -> None:
    furnish(bench)
    bench.limit(max_file_bytes=1 << 40)
    before = picture(bench.folder)
    undo_id = change(bench, CHANGES[name])
    after = picture(bench.folder)
    assert (after == before) == (name == "nothing")
    turn(bench, undo_id)
    assert picture(bench.folder) == before
    turn(bench, undo_id)
    assert picture(bench.folder) == after
    turn(bench, undo_id)
    assert picture(bench.folder) == before
    (bench.folder / "sealed").chmod(0o755)


def test_sparse_files_are_neither_read_nor_written_whole(own_bench: Bench) -> None:
    furnish(own_bench)
    own_bench.limit(max_file_bytes=1 << 40)
    began = time.monotonic()
    turn(own_bench, change(own_bench, CHANGES["sparse"]))
    assert time.monotonic() - began < 10  # 100 GB are not written in that time
    assert os.stat(own_bench.folder / "holes").st_blocks < 1000


# --- hard links ---------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_file_written_in_place_keeps_its_other_names(own_bench: Bench) -> None:
    file, other = own_bench.make("a", "one\n"), own_bench.folder / "b"
    os.link(file, other)
    before = picture(own_bench.folder)
    undo_id = change(own_bench, "echo two >> a; chmod 600 a")
    assert other.read_text() == "one\ntwo\n" and other.stat().st_ino == file.stat().st_ino
    turn(own_bench, undo_id)
    assert picture(own_bench.folder) == before
    turn(own_bench, undo_id)
    assert other.read_text() == "one\ntwo\n"


def test_a_file_that_is_replaced_leaves_its_other_names_alone(bench: Bench) -> None:
    file, other = bench.make("a", "one\n"), bench.folder / "b"
    os.link(file, other)
    undo_id = change(bench, "sed -i s/one/two/ a")
    assert (file.read_text(), other.read_text()) == ("two\n", "one\n")
    turn(bench, undo_id)
    assert file.read_text() == "one\n" and file.stat().st_ino == other.stat().st_ino
    turn(bench, change(bench, "mkdir in; mv a in"))
    assert file.read_text() == "one\n" and file.stat().st_ino == other.stat().st_ino


# --- others at work -----------------------------------------------------------------------------------

MEANWHILE = {
    "edited": lambda folder: (folder / "notes.txt").write_text("mine\n"),
    "same size and time": lambda folder: rewrite_unseen(folder / "notes.txt"),
    "mode": lambda folder: (folder / "notes.txt").chmod(0o666),
    "replaced": lambda folder: replace_by_copy(folder / "notes.txt"),
    "gone": lambda folder: (folder / "notes.txt").unlink(),
    "link": lambda folder: (
        (folder / "notes.txt").unlink(),
        (folder / "notes.txt").symlink_to("/etc/passwd"),
    ),
    "created": lambda folder: (folder / "new.txt").write_text("mine\n"),
    "in a deleted folder": lambda folder: (folder / "tree/mine").write_text("mine\n"),
}


def rewrite_unseen(file: Path) -> None:
    seen = file.stat()
    file.write_text("x" * seen.st_size)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def replace_by_copy(file: Path) -> None:
    shutil.copy2(file, file.with_name("copy"))
    file.with_name("copy").rename(file)


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_somebody_else_did_meanwhile_is_never_overwritten(bench: Bench, what: str) -> None:
    furnish(bench)
    granted, rehearsed, _ = rehearse(bench, "echo x >> notes.txt; echo x > new.txt; rm -r tree; echo z > zzz")
    MEANWHILE[what](bench.folder)
    before = picture(bench.folder)
    with pytest.raises(Conflict):
        commit.commit(granted, rehearsed)
    assert picture(bench.folder) == before
    assert not undostore.entries() and not [p for p in undostore.undo_dir().iterdir() if p.name != "lock"]


@pytest.mark.parametrize("what", MEANWHILE)
def test_undo_refuses_when_the_world_has_moved_on_and_names_what(bench: Bench, what: str) -> None:
    furnish(bench)
    undo_id = change(bench, "echo x >> notes.txt; echo x > new.txt; rm tree/a; echo z > tree/zzz")
    if what == "in a deleted folder":
        undo_id = change(bench, "mkdir -p made; echo x > made/x; echo x >> notes.txt")
        (bench.folder / "made/mine").write_text("mine")
    else:
        MEANWHILE[what](bench.folder)
    before = picture(bench.folder)
    planned = turning.reversal(entry(undo_id))
    assert len(planned.moved_on) == 1
    with pytest.raises(Conflict):
        turning.turn(permit(bench, None), planned)
    assert picture(bench.folder) == before


def test_what_the_plan_read_and_changed_meanwhile_is_a_conflict(own_bench: Bench) -> None:
    source = own_bench.make("source", "1\n")
    granted, rehearsed, _ = rehearse(own_bench, "cp source target")
    stale = replace(rehearsed, witnesses=commit.witness([str(source)]))
    source.write_text("2\n")
    with pytest.raises(Conflict):
        commit.commit(granted, stale)


def test_a_change_made_while_the_command_ran_is_a_conflict(own_bench: Bench) -> None:
    own_bench.make("log", "1\n")
    granted, rehearsed, _ = rehearse(own_bench, "rm log")
    late = replace(rehearsed, started_ns=os.stat(own_bench.folder / "log").st_ctime_ns)
    with pytest.raises(Conflict):
        commit.commit(granted, late)


# --- swapped under us ---------------------------------------------------------------------------------


def test_a_folder_swapped_for_a_link_leads_nowhere(bench: Bench, tmp_path: Path) -> None:
    furnish(bench)
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (outside / "a").write_text("canary")
    granted, rehearsed, _ = rehearse(bench, "echo x >> tree/a; echo y > tree/new")
    (bench.folder / "tree").rename(bench.folder / "away")
    (bench.folder / "tree").symlink_to(outside)
    with pytest.raises(Conflict):
        commit.commit(granted, rehearsed)
    assert sorted(os.listdir(outside)) == ["a"] and (outside / "a").read_text() == "canary"


def test_a_root_swapped_for_another_folder_is_a_conflict(own_bench: Bench) -> None:
    granted, rehearsed, _ = rehearse(own_bench, "echo y > new")
    own_bench.folder.rename(own_bench.folder.with_name("away"))
    own_bench.folder.mkdir()
    with pytest.raises(Conflict):
        commit.commit(granted, rehearsed)
    assert os.listdir(own_bench.folder) == []


def test_another_folder_in_the_place_of_the_callers_is_a_conflict(bench: Bench) -> None:
    bench.make("mine/keep", "x")
    other = bench.folder / "other"
    other.mkdir()
    granted, rehearsed, _ = rehearse(bench, "echo y > mine/new")
    (bench.folder / "mine").rename(bench.folder / "away")
    other.rename(bench.folder / "mine")
    with pytest.raises(Conflict):
        commit.commit(granted, rehearsed)
    assert os.listdir(bench.folder / "mine") == []


@pytest.mark.root
def test_a_root_broker_commits_with_the_callers_rights_alone(bench: Bench) -> None:
    """Should all else fail: what the caller may not write, he may not have the broker write."""
    bench.make("mine/keep", "x")
    granted, rehearsed, _ = rehearse(bench, "echo y > mine/new")
    os.chown(bench.folder / "mine", 0, 0)
    if bench.caller.uid == 0:
        commit.commit(granted, rehearsed)
        return
    with pytest.raises(CallFailed, match="Permission denied"):
        commit.commit(granted, rehearsed)
    assert os.listdir(bench.folder / "mine") == ["keep"]


@pytest.mark.root
def test_files_of_other_owners_keep_them(bench: Bench) -> None:
    shared = bench.make("shared", "one\n", 0o666)
    os.chown(shared, 4242, 4242)
    if bench.caller.uid == 0:
        return  # the stand-in has root's rights over root's files alone
    undo_id = change(bench, "echo two >> shared")
    assert (shared.stat().st_uid, shared.read_text()) == (4242, "one\ntwo\n")
    turn(bench, undo_id)
    assert (shared.stat().st_uid, shared.read_text()) == (4242, "one\n")


# --- between file systems -----------------------------------------------------------------------------

FAR = r"""echo two >> notes.txt; rm plain.txt; mv tree wood; ln -sf elsewhere link; printf y > $'byte\377'
touch -r "it's" stamp; printf "AB'c\n" > "it's"; touch -r stamp "it's"; rm stamp
rm -- -dash; mkdir -- -dash; echo x > -dash/x
truncate -s 50G holes; mkdir -p a/b; echo 1 > a/b/1"""


@pytest.fixture
def far_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state folder on another file system than the work."""
    state = Path(tempfile.mkdtemp(prefix="far-", dir="/dev/shm"))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    yield state
    shutil.rmtree(state)


@pytest.fixture
def small_store(far_store: Path) -> Iterator[Path]:
    """As `far_store`, on a file system of its own with little room."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", far_store], check=True)
    yield far_store
    subprocess.run(["umount", far_store], check=True)


def test_a_store_on_another_file_system_gives_all_back_as_often_as_asked(
    far_store: Path, own_bench: Bench
) -> None:
    furnish(own_bench)
    own_bench.limit(max_file_bytes=1 << 40)
    assert os.stat(own_bench.folder).st_dev != os.stat(far_store).st_dev
    before = picture(own_bench.folder, inodes=False)
    undo_id = change(own_bench, FAR)
    after = picture(own_bench.folder, inodes=False)
    for wanted in (before, after, before, after, before):
        turn(own_bench, undo_id)
        assert picture(own_bench.folder, inodes=False) == wanted


@pytest.mark.root
def test_a_full_store_is_met_before_anything_is_touched(own_bench: Bench, small_store: Path) -> None:
    own_bench.make("a", "a\n")
    own_bench.make("big", "B" * 1_000_000)
    before = picture(own_bench.folder)
    for command in ("echo x > a; echo small > big", "echo x > a; rm big"):
        with pytest.raises(DiskFull):
            change(own_bench, command)
        assert picture(own_bench.folder) == before
    assert os.listdir(undostore.undo_dir()) == ["lock"]


def test_giving_up_halfway_on_another_file_system_leaves_all_as_it_was(
    far_store: Path, own_bench: Bench
) -> None:
    """A disk that fills up while names change: what was done is taken back without needing room."""
    furnish(own_bench)
    before = picture(own_bench.folder, inodes=False)
    own_bench.limit(max_file_bytes=1 << 40)
    granted, rehearsed, _ = rehearse(own_bench, FAR)
    steps: list[str] = []
    committed = commit.commit(granted, rehearsed, steps.append)
    turn(own_bench, committed)
    assert picture(own_bench.folder, inodes=False) == before
    for at in [number for number, step in enumerate(steps) if step == "copied"][::3]:
        granted, rehearsed, _ = rehearse(own_bench, FAR)
        with pytest.raises(DiskFull):
            commit.commit(granted, rehearsed, Failing(at))
        rehearsed.stage.discard()
        assert picture(own_bench.folder, inodes=False) == before, steps[:at]


class Failing:
    """A step listener at whose n-th step the disk is full."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, -1

    def __call__(self, step: str) -> None:
        self.count += 1
        if self.count == self.at:
            raise OSError(errno.ENOSPC, "No space left on device")
