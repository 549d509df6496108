"""Taking a commit back, having it again, and finishing either after a crash.

A reversal is looked at first (`reversal`): what stands at each name must be what was left there, else it is
refused and the paths are named. `turn` does it whole or not at all; `recover` runs when the broker starts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from llmos.config import UndoSettings
from llmos.errors import UsageError
from llmos.guard import nodes, slots, standing, undostore
from llmos.guard.commit import cannot, settled_as
from llmos.guard.dirfd import explain_full_disk
from llmos.guard.nodes import ABSENT, Node
from llmos.guard.permit import Permit
from llmos.guard.slots import Conflict, OnStep
from llmos.guard.transaction import Drive, opened
from llmos.guard.undostore import Entry, Header, Manifest, State
from llmos.messages import Caller

log = logging.getLogger(__name__)


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
            moved = standing.moved_on(drive, left)
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
        before, left = fresh.state.settled, undostore.read_left(folder)
        settled: undostore.Settled = "undone" if planned.direction == "back" else "committed"
        with opened(folder, planned.manifest, planned.direction, permit.caller, on_step, left=left) as drive:
            standing.check_room(drive)
            on_step("state")
            undostore.write_state(folder, State(settled, planned.direction))
            try:
                drive.run()
            except (Conflict, OSError) as error:
                _turn_back(folder, planned, permit, before, on_step)
                if isinstance(error, Conflict):
                    raise
                raise cannot(error) from error
            settled_as(folder, drive, settled)
            _relearn(folder, drive)


def _relearn(folder: Path, drive: Drive) -> None:
    """A file that came back is, for the change that had left it there, as it was, but for the time of that.

    Without this, of two changes to one file only the newer could be taken back.
    """
    seen = zip(drive.manifest.changes, standing.left(drive), strict=True)
    now = {drive.shown(change): node for change, node in seen}
    for entry in undostore.entries():
        if (
            entry.is_deed
            or entry.folder == folder
            or entry.state.doing
            or entry.header.uid != drive.caller.uid
        ):
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
        settled_as(folder, drive, settled)


def _caller(header: Header) -> Caller:
    return Caller(uid=header.uid, gid=header.gid)


# --- at the next start -------------------------------------------------------------------------------


def recover(settings: UndoSettings, on_step: OnStep = slots.unheard) -> list[str]:
    """Finish what a crash cut off, forget attempts, and keep the store within bounds; what was finished."""
    finished = []
    with undostore.locked():
        undostore.remove_attempts()
        for entry in undostore.entries():
            if entry.state.doing and not entry.is_deed:
                _finish(entry, on_step)
                finished.append(entry.header.id)
        undostore.prune(settings)
    return finished


def _finish(entry: Entry, on_step: OnStep) -> None:
    header, direction = entry.header, entry.state.doing
    assert direction
    manifest, caller = undostore.read_manifest(entry.folder), _caller(header)
    try:
        keep = entry.state.settled != "removed"
        with opened(entry.folder, manifest, direction, caller, on_step, tolerant=True, keep=keep) as drive:
            drive.run()
            look = standing.left(drive)
            if drive.conflicts:
                log.warning("of %s, these were changed meanwhile and left: %s", header.id, drive.conflicts)
    except OSError as error:
        log.error(
            "change %s cannot be finished yet (%s); it is tried again at the next start", header.id, error
        )
        return
    except Conflict as error:
        log.error("change %s cannot be finished, and is left as it is: %s", header.id, error)
        undostore.write_state(entry.folder, replace(entry.state, doing=""))
        undostore.write_left(entry.folder, [ABSENT] * len(manifest.changes))
        return
    if entry.state.settled == "removed":
        undostore.remove(entry.folder)
        return
    undostore.write_left(entry.folder, look)
    undostore.write_state(entry.folder, State(entry.state.settled))
