"""The two kinds of change that an undo turns: files, from the store; anything else, by steps of its own.

Both say what they would do (`effects`, `steps`, `told`), what stands in the way (`moved_on`), and do it
under a permit. Nothing here asks or judges: that is `undoing`'s and the gate's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmos.messages import Effects, JsonObject, Outcome, Step

if TYPE_CHECKING:
    from llmos.guard.permit import Permit
    from llmos.guard.spawn import Spawner
    from llmos.guard.undostore import Direction, Entry

Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Turning:
    """One transaction about to be turned.

    `told` gives the exact changes, where they are known before, and reads files for that. `do` turns it,
    whole or not at all, and raises Conflict, DiskFull, CallFailed.
    """

    entry: Entry
    direction: Direction
    moved_on: tuple[str, ...]
    effects: Effects
    steps: tuple[Step, ...]
    told: Callable[[], JsonObject | None]
    do: Callable[[Permit, Spawner, Tell, asyncio.Event], Awaitable[Outcome]]


def look(entry: Entry) -> Turning:
    """How this transaction would be turned now. Raises UsageError when it is in no state for it."""
    return _deed(entry) if entry.is_deed else _files(entry)


def _files(entry: Entry) -> Turning:
    """Files go back to what the store kept of them."""
    from llmos.guard import reversing, turning

    planned = turning.reversal(entry)
    writes, deletes = reversing.paths_of(planned)

    async def do(permit: Permit, spawner: Spawner, tell: Tell, cancel: asyncio.Event) -> Outcome:
        await asyncio.to_thread(turning.turn, permit, planned)
        return Outcome(exit_code=0)

    return Turning(
        entry, planned.direction, planned.moved_on, Effects(writes=writes, deletes=deletes), (),
        lambda: reversing.told(planned), do,
    )  # fmt: skip


def _deed(entry: Entry) -> Turning:
    """What is no file is taken back by the steps that were kept with it."""
    from llmos.guard import deeds
    from llmos.guard.spawn import succeeded

    turn = deeds.turn(entry)

    async def do(permit: Permit, spawner: Spawner, tell: Tell, cancel: asyncio.Event) -> Outcome:
        outcome = await spawner.run(permit, on_output=tell, cancel=cancel)
        if succeeded(permit.plan, outcome):
            await asyncio.to_thread(deeds.turned, turn, outcome.reverse)
        return outcome

    return Turning(entry, turn.direction, turn.moved_on, turn.effects, turn.steps, lambda: None, do)
