"""Committing what a rehearsal changed, taking it back, and finishing either after a crash.

    prepare    new content moved from the stage into the store, nothing touched yet
    manifest   on disk: from here on it will be finished, at the next start if need be
    check      every name is still what it was, untouched since before the rehearsal began
    changes    one after another, each atomic (`transaction`)
    state      on disk: committed, with what each name was when we left it

A conflict before the first change leaves everything as it was. One in the middle (somebody changed a file in
these very milliseconds) takes back what was done and then leaves everything as it was.
Not protected against: a program that holds a replaced file open goes on with the old one, as after any
rename.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmos.errors import CallFailed, DiskFull
from llmos.guard import nodes, slots, standing, undostore
from llmos.guard.changes import Found
from llmos.guard.dirfd import (
    explain_full_disk,
)
from llmos.guard.nodes import ABSENT, Node
from llmos.guard.permit import Permit
from llmos.guard.preparing import prepare
from llmos.guard.slots import Conflict, OnStep
from llmos.guard.staging import Stage
from llmos.guard.transaction import Drive, opened
from llmos.guard.undostore import Manifest, State

log = logging.getLogger(__name__)

_CLOCK_REALTIME_COARSE = 5
Witnesses = dict[str, Node]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A stage after the commands have run on it: what they changed, and since when to look for conflicts."""

    stage: Stage
    found: Found
    started_ns: int
    witnesses: Witnesses  # files the plan was known to read, as they were before it ran

    def conflicts(self) -> list[str]:
        """Paths that somebody else touched while the command ran: it may have seen either state of them."""
        late = [
            os.path.join(self.stage.roots[change.root].folder, change.path)
            for change in self.found.changes
            if change.before.kind not in ("absent", "dir") and change.before.ctime_ns >= self.started_ns
        ]
        read = [
            path for path, node in self.witnesses.items() if not nodes.same(_lstat(path), node, strict=True)
        ]
        return late + read


def now_ns() -> int:
    """The clock that inodes are stamped with, which goes in ticks: not the finer one."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def witness(paths: Sequence[str]) -> Witnesses:
    """The plain files among these paths as they are now."""
    seen = {path: _lstat(path) for path in paths}
    return {path: node for path, node in seen.items() if node.kind == "file"}


def _lstat(path: str) -> Node:
    try:
        return nodes.of(os.lstat(path))
    except OSError:
        return ABSENT


# --- commit ------------------------------------------------------------------------------------------


def commit(permit: Permit, rehearsed: Rehearsed, on_step: OnStep = slots.unheard) -> str:
    """Make the changes real; the id that takes them back. Raises Conflict, DiskFull, CallFailed.

    Whatever it raises, nothing has changed.
    """
    assert permit.stage == str(rehearsed.stage.folder), "a permit commits its own stage alone"
    with undostore.locked() as store, explain_full_disk(store):
        if early := rehearsed.conflicts():
            raise Conflict(early[0])
        undo_id, folder = undostore.new_folder(permit.request_id)
        try:
            manifest = prepare(folder, permit, undo_id, rehearsed.stage, rehearsed.found)
            with opened(folder, manifest, "forward", permit.caller, on_step) as drive:
                if moved := standing.moved_on(drive, {}):
                    raise Conflict(moved[0])
                standing.check_room(drive)
                on_step("manifest")
                undostore.write_state(folder, State("committed", "forward"), last=False)
                undostore.write_manifest(folder, manifest)
                _forward_or_not_at_all(folder, manifest, permit, drive)
        except BaseException as error:
            if not _pending(folder):
                undostore.remove(folder)
            if isinstance(error, OSError):
                raise cannot(error) from error
            raise
        return undo_id


def _pending(folder: Path) -> bool:
    """Whether changes have been made that are to be finished later: giving up failed as well."""
    return (folder / "manifest.json").exists()


def _forward_or_not_at_all(folder: Path, manifest: Manifest, permit: Permit, drive: Drive) -> None:
    try:
        drive.run()
    except (Conflict, OSError) as error:
        _give_up(folder, manifest, permit, drive.on_step)
        if isinstance(error, Conflict):
            raise
        raise cannot(error) from error
    try:
        settled_as(folder, drive, "committed")
    except OSError as error:  # all is in place; the next start writes down what could not be written now
        log.error("%s is committed, but not settled: %s", folder.name, error)


def _give_up(folder: Path, manifest: Manifest, permit: Permit, on_step: OnStep) -> None:
    """Take back what was done so far, without keeping any of it: a full disk must not stop that."""
    with contextlib.suppress(OSError):  # without it a crash right here would be finished forward
        undostore.write_state(folder, State("removed", "back"))
    try:
        with opened(folder, manifest, "back", permit.caller, on_step, tolerant=True, keep=False) as back:
            back.run()
    except OSError as error:
        raise unfinished(error) from error
    undostore.remove(folder)


def settled_as(folder: Path, drive: Drive, settled: undostore.Settled) -> None:
    drive.on_step("settle")
    undostore.write_left(folder, standing.left(drive))
    undostore.write_state(folder, State(settled))
    drive.on_step("settled")


def unfinished(error: OSError) -> CallFailed:
    return CallFailed(
        f"the changes could be put in place in part only, and not taken back ({error.strerror})",
        "They are finished when the daemon starts next: make room, and restart it.",
    )


def cannot(error: OSError) -> CallFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            "no space is left to put the changes in place", "Nothing was changed. Make room, and try again."
        )
    return CallFailed(
        f"the changes cannot be put in place ({error.strerror}: {error.filename or 'a file'})",
        "Nothing was changed.",
    )
