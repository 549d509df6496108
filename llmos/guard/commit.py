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
from dataclasses import dataclass, replace
from pathlib import Path

from llmos.config import UndoSettings
from llmos.errors import CallFailed, DiskFull, UsageError
from llmos.guard import nodes, slots, undostore
from llmos.guard.changes import Change, Found
from llmos.guard.dirfd import (
    NOT_CARRIED,
    explain_full_disk,
    mount_id,
    open_beneath,
    open_whole,
    strip_xattrs,
    sync_file_system,
    xattr_path,
)
from llmos.guard.nodes import ABSENT, Node
from llmos.guard.permit import Permit
from llmos.guard.slots import Conflict, OnStep
from llmos.guard.staging import Stage
from llmos.guard.transaction import Drive, opened
from llmos.guard.undostore import Entry, Header, Manifest, State
from llmos.messages import Caller

log = logging.getLogger(__name__)

_CLOCK_REALTIME_COARSE = 5
_MANY = 16  # files: from there on one call for the whole file system is cheaper
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
            manifest = _prepare(folder, permit, undo_id, rehearsed)
            with opened(folder, manifest, "forward", permit.caller, on_step) as drive:
                if moved := drive.moved_on({}):
                    raise Conflict(moved[0])
                on_step("manifest")
                undostore.write_state(folder, State("committed", "forward"), last=False)
                undostore.write_manifest(folder, manifest)
                _forward_or_not_at_all(folder, manifest, permit, drive)
        except BaseException:
            if not _pending(folder):
                undostore.remove(folder)
            raise
        return undo_id


def _pending(folder: Path) -> bool:
    """Whether changes have been made that are to be finished later: giving up failed as well."""
    return (folder / "manifest.json").exists()


def _forward_or_not_at_all(folder: Path, manifest: Manifest, permit: Permit, drive: Drive) -> None:
    try:
        drive.run()
    except (Conflict, OSError) as error:
        undostore.write_state(folder, State("removed", "back"))
        with opened(folder, manifest, "back", permit.caller, drive.on_step, tolerant=True) as back:
            back.run()
        undostore.remove(folder)
        if isinstance(error, Conflict):
            raise
        raise _cannot(error) from error
    _settled(folder, drive, "committed")


def _settled(folder: Path, drive: Drive, settled: undostore.Settled) -> None:
    drive.on_step("settle")
    undostore.write_left(folder, drive.left())
    undostore.write_state(folder, State(settled))
    drive.on_step("settled")


def _cannot(error: OSError) -> CallFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            "no space is left to put the changes in place", "Nothing was changed. Make room, and try again."
        )
    return CallFailed(
        f"the changes cannot be put in place ({error.strerror}: {error.filename or 'a file'})",
        "Nothing was changed.",
    )


# --- prepare -----------------------------------------------------------------------------------------


def _prepare(folder: Path, permit: Permit, undo_id: str, rehearsed: Rehearsed) -> Manifest:
    """Header and new content in the store, on disk."""
    stage, found = rehearsed.stage, rehearsed.found
    objects = folder / "objects"
    objects.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(objects, permit.caller.uid, permit.caller.gid)
    changes = _move_objects(stage, found, objects)
    undostore.write_header(folder, _header(permit, undo_id, stage, found))
    return Manifest(stage.roots, stage.root_nodes, tuple(changes), tuple(found.folders))


def _move_objects(stage: Stage, found: Found, objects: Path) -> list[Change]:
    """New files leave the stage for their slots; each change then knows the file that it will place."""
    changes = []
    with contextlib.ExitStack() as held:
        objects_fd = _held(held, open_whole(str(objects)))
        uppers = [_held(held, open_whole(str(stage.upper(number)))) for number in range(len(stage.roots))]
        near = [mount_id(fd) == mount_id(objects_fd) for fd in uppers]
        assert all(near), "stages and the store are on one mount"
        for number, change in enumerate(found.changes):
            changes.append(_move_object(change, str(number), uppers[change.root], objects_fd))
        _sync_objects(objects_fd)
    return changes


def _sync_objects(objects_fd: int) -> None:
    """The new content onto the disk: a few files one by one, many with everything else there is."""
    names = os.listdir(objects_fd)
    try:
        for name in names if len(names) <= _MANY else ():
            if nodes.read(objects_fd, name).kind == "file":
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=objects_fd)
                os.fsync(fd)
                os.close(fd)
    except PermissionError:  # a mode that keeps its owner out
        names = []
    if 0 < len(names) <= _MANY:
        os.fsync(objects_fd)
    else:
        sync_file_system(objects_fd)


def _move_object(change: Change, slot: str, upper: int, objects_fd: int) -> Change:
    if change.after.kind not in ("file", "link") or change.how == "attributes":
        return change
    parent, name = os.path.split(change.path)
    folder_fd = open_beneath(upper, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        os.rename(name, slot, src_dir_fd=folder_fd, dst_dir_fd=objects_fd)
    finally:
        os.close(folder_fd)
    if change.after.kind == "file":
        fd = os.open(slot, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=objects_fd)
        strip_xattrs(xattr_path(fd), NOT_CARRIED_FROM_STAGE)
        os.close(fd)
    return change


# A label of SELinux or of IMA is the system's to give: what the file was given when it was made, stays.
NOT_CARRIED_FROM_STAGE = tuple(
    name for name in NOT_CARRIED if name not in ("security.selinux", "security.ima")
)


def _held(held: contextlib.ExitStack, fd: int) -> int:
    held.callback(os.close, fd)
    return fd


def _header(permit: Permit, undo_id: str, stage: Stage, found: Found) -> Header:
    changes = found.changes
    return Header(
        id=undo_id,
        request_id=permit.request_id,
        uid=permit.caller.uid,
        gid=permit.caller.gid,
        time=time.time(),
        cwd=permit.cwd,
        tool=permit.plan.call.tool,
        command=permit.plan.command,
        write_roots=stage.write_roots,
        created=sum(change.how == "create" for change in changes),
        modified=sum(change.how in ("replace", "write", "attributes") for change in changes),
        deleted=sum(change.how == "delete" for change in changes),
        kept_bytes=sum(
            change.before.num_bytes for change in changes if change.how in ("replace", "write", "delete")
        ),
    )


# --- undo --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reversal:
    """What taking back (or having again) one transaction would do, and why it cannot be done, if so."""

    entry: Entry
    manifest: Manifest
    direction: undostore.Direction
    moved_on: tuple[str, ...]


def reversal(entry: Entry) -> Reversal:
    """Look at what stands there now. Raises UsageError for a transaction that is in no state for it."""
    direction: undostore.Direction = "back" if entry.state.settled == "committed" else "forward"
    if entry.state.settled == "removed" or entry.state.doing:
        raise UsageError(
            f"{entry.header.id} was not finished", "Restart the daemon: it finishes such changes."
        )
    manifest = undostore.read_manifest(entry.folder)
    left = dict(enumerate(undostore.read_left(entry.folder)))
    try:
        with opened(entry.folder, manifest, direction, _caller(entry.header)) as drive:
            moved = drive.moved_on(left)
    except Conflict as conflict:
        moved = [conflict.path]
    return Reversal(entry, manifest, direction, tuple(moved))


def turn(permit: Permit, planned: Reversal, on_step: OnStep = slots.unheard) -> None:
    """Carry out a reversal, whole or not at all. Raises Conflict, DiskFull, CallFailed."""
    folder = planned.entry.folder
    with undostore.locked() as store, explain_full_disk(store):
        fresh = undostore.Entry(folder, planned.entry.header, undostore.read_state(folder))
        if fresh.state != planned.entry.state:
            raise Conflict(str(folder))
        if moved := reversal(fresh).moved_on:
            raise Conflict(moved[0])
        before = fresh.state.settled
        settled: undostore.Settled = "undone" if planned.direction == "back" else "committed"
        on_step("state")
        undostore.write_state(folder, State(settled, planned.direction))
        with opened(folder, planned.manifest, planned.direction, permit.caller, on_step) as drive:
            try:
                drive.run()
            except (Conflict, OSError) as error:
                _turn_back(folder, planned, permit, before, on_step)
                if isinstance(error, Conflict):
                    raise
                raise _cannot(error) from error
            _settled(folder, drive, settled)
            _relearn(folder, drive)


def _relearn(folder: Path, drive: Drive) -> None:
    """A file that came back is, for the change that had left it there, as it was, but for the time of that.

    Without this, of two changes to one file only the newer could be taken back.
    """
    now = {
        drive.shown(change): node for change, node in zip(drive.manifest.changes, drive.left(), strict=True)
    }
    for entry in undostore.entries():
        if entry.folder == folder or entry.state.doing or entry.header.uid != drive.caller.uid:
            continue
        manifest, left = undostore.read_manifest(entry.folder), undostore.read_left(entry.folder)
        fresh = [
            _same_but_touched(now.get(manifest.shown(c)), n)
            for c, n in zip(manifest.changes, left, strict=True)
        ]
        if fresh != left:
            undostore.write_left(entry.folder, fresh)


def _same_but_touched(now: Node | None, left: Node) -> Node:
    return now if now is not None and now.kind != "absent" and nodes.same(now, left) else left


def _turn_back(
    folder: Path, planned: Reversal, permit: Permit, settled: undostore.Settled, on_step: OnStep
) -> None:
    direction: undostore.Direction = "forward" if planned.direction == "back" else "back"
    undostore.write_state(folder, State(settled, direction))
    with opened(folder, planned.manifest, direction, permit.caller, on_step, tolerant=True) as drive:
        drive.run()
        _settled(folder, drive, settled)


def _caller(header: Header) -> Caller:
    return Caller(uid=header.uid, gid=header.gid)


# --- at the next start -------------------------------------------------------------------------------


def recover(settings: UndoSettings, on_step: OnStep = slots.unheard) -> list[str]:
    """Finish what a crash cut off, forget attempts, and keep the store within bounds; what was finished."""
    finished = []
    with undostore.locked():
        undostore.remove_attempts()
        for entry in undostore.entries():
            if entry.state.doing:
                _finish(entry, on_step)
                finished.append(entry.header.id)
        undostore.prune(settings)
    return finished


def _finish(entry: Entry, on_step: OnStep) -> None:
    header, direction = entry.header, entry.state.doing
    assert direction
    manifest, caller = undostore.read_manifest(entry.folder), _caller(header)
    try:
        with opened(entry.folder, manifest, direction, caller, on_step, tolerant=True) as drive:
            drive.run()
            look = drive.left()
            if drive.conflicts:
                log.warning("of %s, these were changed meanwhile and left: %s", header.id, drive.conflicts)
    except (Conflict, OSError) as error:
        log.error("change %s cannot be finished, and is left as it is: %s", header.id, error)
        undostore.write_state(entry.folder, replace(entry.state, doing=""))
        undostore.write_left(entry.folder, [ABSENT] * len(manifest.changes))
        return
    if entry.state.settled == "removed":
        undostore.remove(entry.folder)
        return
    undostore.write_left(entry.folder, look)
    undostore.write_state(entry.folder, State(entry.state.settled))
