"""Killed at every step of a commit and of an undo: after the next start it is all old or all new.

A child process does the work and kills itself with SIGKILL before its n-th step; then `recover` runs, itself
killed at its first steps in some of the rounds. The same on one file system, where files are renamed into
place, and between two, where they are copied and of nearly twice as many steps every second one is taken;
`LLMOS_CRASH_ALL=1` takes all, some 300.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llmos.config import UndoSettings
from llmos.guard import changes, commit, slots, staging, turning, undostore
from llmos.guard.commit import Rehearsed
from llmos.guard.permit import Permit
from llmos.guard.slots import OnStep
from llmos.messages import Caller
from tests.guard.boxes import Bench
from tests.guard.rehearsing import Picture, permit, picture

COMMAND = """
echo two >> edited; rm gone; mkdir -p new/deep; echo n > new/deep/file; ln -s x new/link; rm -r tree
chmod 600 mode; ln -sf other link; mv moved there; rm kind; mkdir kind; echo k > kind/k; echo l >> linked
rm turned; echo t > turned; for n in $(seq MANY); do echo $n > many/$n; rm many/old$n; done
chmod 500 new
"""
KILLED = -signal.SIGKILL


class Killer:
    """A step listener that ends the process before the n-th step, as a loss of power would."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __call__(self, step: str) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Lab:
    """A rehearsal made once; each round starts from a copy of the folder, and of the stage or the store."""

    folder: Path
    saved: Path
    bench: Bench
    granted: Permit
    stage: staging.Stage
    far: bool

    def reset(self) -> None:
        for live in (self.folder, staging.stages_dir(), undostore.undo_dir()):
            staging.remove_tree(live)
            if (kept := self.saved / live.name).exists():
                subprocess.run(["cp", "-a", "--reflink=auto", kept, live], check=True)

    def save(self) -> None:
        staging.remove_tree(self.saved)
        self.saved.mkdir()
        for live in (self.folder, staging.stages_dir(), undostore.undo_dir()):
            if live.exists():
                subprocess.run(["cp", "-a", live, self.saved / live.name], check=True)

    def rehearsed(self) -> Rehearsed:
        """What was rehearsed, as of this copy of it."""
        node = commit._lstat(str(self.folder))
        stage = replace(self.stage, root_nodes=(node,))
        return Rehearsed(stage, changes.find(stage), commit.now_ns() + 10**9, {})


@pytest.fixture(params=["near", "far"])
def lab(
    request: pytest.FixtureRequest, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    top = Path(tempfile.mkdtemp(prefix="crash-", dir="/tmp"))
    if os.geteuid() == 0:  # in memory: a process that is killed leaves there what it leaves on a disk
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", top], check=True)
    state = Path(tempfile.mkdtemp(prefix="crash-", dir=top if request.param == "near" else "/dev/shm"))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    assert (os.stat(state).st_dev == os.stat(top).st_dev) == (request.param == "near")
    top.chmod(0o755)
    folder = top / "work"
    folder.mkdir()
    bench = Bench(folder, Caller(uid=os.geteuid(), gid=os.getegid()))
    for name in ("edited", "gone", "tree/a", "tree/in/b", "mode", "moved", "kind", "linked", "turned"):
        bench.make(name, name + "\n")
    many = 12 if request.param == "near" else 1  # between file systems one file is many steps
    for number in range(1, many + 1):
        bench.make(f"many/old{number}")
    os.link(folder / "linked", folder / "other name")
    (folder / "link").symlink_to("edited")
    stage = staging.create("lab", [str(folder)])
    granted = permit(bench, stage, COMMAND.replace("MANY", str(many)))
    outcome = asyncio.run(bench.spawner.run(granted))
    assert outcome.exit_code == 0, outcome
    lab = Lab(folder, top / "saved", bench, granted, stage, request.param == "far")
    lab.save()
    yield lab
    bench.spawner.close()
    if os.geteuid() == 0:
        subprocess.run(["umount", "--lazy", top], check=True)
    for place in (top, state):
        shutil.rmtree(place, ignore_errors=True)


def in_child(work: Callable[[], object]) -> int:
    """Do it in a process of its own; how that ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def recover(kill_at: int) -> None:
    if kill_at:
        assert in_child(lambda: turning.recover(UndoSettings(), Killer(kill_at))) in (0, KILLED)
    turning.recover(UndoSettings())


def look(lab: Lab) -> Picture:
    return picture(lab.folder, inodes=False)


def commit_it(lab: Lab, on_step: OnStep = slots.unheard) -> str:
    return commit.commit(lab.granted, lab.rehearsed(), on_step)


def undo_it(lab: Lab, on_step: OnStep) -> None:
    (entry,) = undostore.entries()
    turning.turn(permit(lab.bench, None), turning.reversal(entry), on_step)


def rounds(
    lab: Lab,
    first: Callable[[Lab], object],
    work: Callable[[Lab, OnStep], object],
    old: Picture,
    new: Picture,
) -> int:
    """Kill at step after step until the work gets through; how often. Old and new must have come of it."""
    killed, seen = 0, {"old": 0, "new": 0}
    stride = 2 if lab.far and os.environ.get("LLMOS_CRASH_ALL", "") != "1" else 1
    while True:
        lab.reset()
        first(lab)
        ended = in_child(lambda: work(lab, Killer(killed * stride + 1)))  # noqa: B023 - it is called right here
        if ended == 0:
            assert look(lab) == new
            assert all(seen.values())
            return killed
        assert ended == KILLED
        killed += 1
        recover(kill_at=killed % 3)
        found = look(lab)
        assert found in (old, new), f"neither old nor new after step {killed}"
        assert not [entry for entry in undostore.entries() if entry.state.doing]
        seen["old" if found == old else "new"] += 1
        if killed % 4 == 0 and undostore.entries():  # and what was finished can be turned once more
            undo_it(lab, slots.unheard)
            assert look(lab) == (new if found == old else old), f"it cannot be turned after step {killed}"


@pytest.mark.sandbox
def test_whatever_step_a_commit_or_an_undo_is_killed_at_it_is_all_old_or_all_new(lab: Lab) -> None:
    old = look(lab)
    commit_it(lab)
    new = look(lab)
    assert old != new
    killed = rounds(lab, lambda lab: None, commit_it, old, new)
    undone = rounds(lab, commit_it, undo_it, new, old)
    print(f"killed at {killed} points of the commit and {undone} of the undo")
    assert killed + undone >= (90 if lab.far else 110)  # 200 together
