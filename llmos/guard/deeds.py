"""Changes of the running system, kept to be taken back: a started process, a limit, a container.

    undo/ID/header.json, state.json   as of every transaction (`undostore`)
    undo/ID/deed.json                 the steps that did it, those that take it back, and what they are about

No view of the files can stand in for these, so nothing is tried first, and a crash between the deed and its
entry here leaves the deed without an undo. What a step is about may have gone since: a process by its start
time, everything else by what its changer looks at, before it changes anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from llmos.guard import signals, undostore
from llmos.guard.permit import Permit
from llmos.guard.undostore import DEED, Direction, Entry, Header, State
from llmos.messages import Effects, Plan, Signal, Start, Step

_STEPS: TypeAdapter[tuple[Step, ...]] = TypeAdapter(tuple[Step, ...])


@dataclass(frozen=True, slots=True)
class Deed:
    """How it was done and how it is taken back. `about` holds the targets that the policy judges."""

    forward: tuple[Step, ...]
    back: tuple[Step, ...]
    about: Effects


@dataclass(frozen=True, slots=True)
class Turn:
    """What taking back (or doing again) one deed would do, and what of it has gone since."""

    entry: Entry
    deed: Deed
    direction: Direction
    moved_on: tuple[str, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.deed.back if self.direction == "back" else self.deed.forward

    @property
    def effects(self) -> Effects:
        if self.direction == "forward":
            return self.deed.about
        pids = tuple(step.pid for step in self.steps if isinstance(step, Signal))
        programs = tuple(step.argv[0] for step in self.steps if isinstance(step, Start))
        return self.deed.about.model_copy(update={"signals": pids, "programs": programs})


def keep(permit: Permit, back: tuple[Step, ...]) -> str:
    """Keep what was done under this permit; the id that takes it back. Raises OSError, CallFailed."""
    with undostore.locked():
        undo_id, folder = undostore.new_folder(permit.request_id)
        undostore.write_header(folder, _header(permit, undo_id))
        undostore.write_state(folder, State("committed"), last=False)
        _write(folder, Deed(permit.plan.steps, back, _about(permit.plan)))
        return undo_id


def turn(entry: Entry) -> Turn:
    """What turning it would do now."""
    direction: Direction = "back" if entry.state.settled == "committed" else "forward"
    found = Turn(entry, _read(entry.folder), direction, ())
    gone = tuple(
        f"process {step.pid}, which has ended"
        for step in found.steps
        if isinstance(step, Signal) and not signals.is_there(step)
    )
    return Turn(entry, found.deed, direction, gone)


def turned(done: Turn, back: tuple[Step, ...]) -> None:
    """Write down that it was turned; `back` takes back what was just done again."""
    folder = done.entry.folder
    with undostore.locked():
        if done.direction == "forward":
            _write(folder, Deed(done.deed.forward, back, done.deed.about))
        undostore.write_state(folder, State("undone" if done.direction == "back" else "committed"))


def _about(plan: Plan) -> Effects:
    return plan.effects.model_copy(update={"reads": (), "writes": (), "deletes": (), "opaque": ""})


def _header(permit: Permit, undo_id: str) -> Header:
    caller = permit.caller
    return Header(
        id=undo_id, request_id=permit.request_id, uid=caller.uid, gid=caller.gid, time=time.time(),
        cwd=permit.cwd, tool=permit.plan.call.tool, command=permit.plan.command,
        write_roots=permit.write_roots, created=0, modified=0, deleted=0, kept_bytes=0,
    )  # fmt: skip


def _write(folder: Path, deed: Deed) -> None:
    undostore.write_durably(folder, DEED, {
        "forward": _STEPS.dump_python(deed.forward, mode="json"),
        "back": _STEPS.dump_python(deed.back, mode="json"),
        "about": deed.about.model_dump(mode="json"),
    })  # fmt: skip


def _read(folder: Path) -> Deed:
    found: dict[str, Any] = undostore.load(folder / DEED)
    return Deed(
        _STEPS.validate_python(found["forward"]),
        _STEPS.validate_python(found["back"]),
        Effects.model_validate(found["about"]),
    )
