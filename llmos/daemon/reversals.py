"""The two kinds of change that an undo turns: files, from the store; anything else, by steps of its own.

Both say what they would do (`effects`, `steps`, `told`), what stands in the way (`moved_on`), and do it
under a permit. Nothing here asks or judges: that is `undoing`'s and the gate's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmos.messages import Effects, JsonObject, Outcome, Step

if TYPE_CHECKING:
    from llmos.guard.deeds import Turn
    from llmos.guard.permit import Permit
    from llmos.guard.spawn import Spawner
    from llmos.guard.turning import Reversal
    from llmos.guard.undostore import Direction, Entry

Tell = Callable[[str, str], None]


class Turning(Protocol):
    """One transaction about to be turned."""

    @property
    def entry(self) -> Entry: ...
    @property
    def direction(self) -> Direction: ...
    @property
    def moved_on(self) -> tuple[str, ...]: ...
    @property
    def effects(self) -> Effects: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...

    def told(self) -> JsonObject | None:
        """The exact changes, where they are known before; reads files."""

    async def do(self, permit: Permit, spawner: Spawner, tell: Tell, cancel: asyncio.Event) -> Outcome:
        """Turn it, whole or not at all. Raises Conflict, DiskFull, CallFailed."""


def look(entry: Entry) -> Turning:
    """How this transaction would be turned now. Raises UsageError when it is in no state for it."""
    if entry.is_deed:
        from llmos.guard import deeds

        return Deed(deeds.turn(entry))
    from llmos.guard import turning

    return Files(turning.reversal(entry))


@dataclass(frozen=True, slots=True)
class Files:
    """Files go back to what the store kept of them."""

    planned: Reversal

    @property
    def entry(self) -> Entry:
        return self.planned.entry

    @property
    def direction(self) -> Direction:
        return self.planned.direction

    @property
    def moved_on(self) -> tuple[str, ...]:
        return self.planned.moved_on

    @property
    def effects(self) -> Effects:
        from llmos.guard import reversing

        writes, deletes = reversing.paths_of(self.planned)
        return Effects(writes=writes, deletes=deletes)

    @property
    def steps(self) -> tuple[Step, ...]:
        return ()

    def told(self) -> JsonObject | None:
        from llmos.guard import reversing

        return reversing.told(self.planned)

    async def do(self, permit: Permit, spawner: Spawner, tell: Tell, cancel: asyncio.Event) -> Outcome:
        from llmos.guard import turning

        await asyncio.to_thread(turning.turn, permit, self.planned)
        return Outcome(exit_code=0)


@dataclass(frozen=True, slots=True)
class Deed:
    """What is no file is taken back by the steps that were kept with it."""

    turn: Turn

    @property
    def entry(self) -> Entry:
        return self.turn.entry

    @property
    def direction(self) -> Direction:
        return self.turn.direction

    @property
    def moved_on(self) -> tuple[str, ...]:
        return self.turn.moved_on

    @property
    def effects(self) -> Effects:
        return self.turn.effects

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.turn.steps

    def told(self) -> JsonObject | None:
        return None

    async def do(self, permit: Permit, spawner: Spawner, tell: Tell, cancel: asyncio.Event) -> Outcome:
        from llmos.guard import deeds
        from llmos.guard.spawn import succeeded

        outcome = await spawner.run(permit, on_output=tell, cancel=cancel)
        if succeeded(permit.plan, outcome):
            await asyncio.to_thread(deeds.turned, self.turn, outcome.reverse)
        return outcome
