"""What is done without anybody there: requests that wait for a change, or for a time.

A trigger's request runs as the person who set it, unattended: what the policy allows is done, what it would
ask about is put into the inbox. Triggers are files, so they survive the daemon. When a time has come is
systemd's to know: its timer asks for `trigger.run`.

Bounds: one run of a trigger at a time, changes during it lead to one more; so many runs an hour; one that
fails five times in a row is paused. A run's own changes do not fire it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from llmos import paths
from llmos.daemon.filewatch import FileWatch
from llmos.daemon.inbox import Inbox, Waiting
from llmos.errors import LlmosError, UsageError
from llmos.messages import Caller, Message, Pinned, Result, ToolCall
from llmos.shelf import Shelf, check_share

log = logging.getLogger(__name__)

MAX_TRIGGERS = 4000
MAX_TRIGGERS_OF_ONE = 200  # of one user
MAX_FAILURES = 5
MAX_QUIET_WAIT_S = 60.0  # a folder that never comes to rest fires all the same
HOUR_S = 3600.0


class Trigger(Message):
    """A request that is made when something changes, or when systemd's timer says so."""

    id: str
    uid: int
    gid: int
    kind: Literal["watch", "schedule"]
    said: str  # as the person wrote it
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    cwd: str
    write: tuple[str, ...] = ()
    policy: str = ""
    path: str = ""  # of a watch
    recursive: bool = False
    quiet_s: float = Field(default=1.0, ge=0.1, le=3600)
    per_hour: int = Field(default=60, ge=1, le=3600)
    calendar: str = ""  # of a schedule, as systemd has it
    paused: str = ""  # why; empty while it is not
    created: float = 0.0
    runs: int = 0
    failures: int = 0  # in a row
    last_run: float | None = None
    last_status: str = ""


# Makes a trigger's request as its owner; gives the result, and the calls that wait for a person.
Perform = Callable[[Trigger], Awaitable[tuple[Result, tuple[Pinned, ...]]]]


@dataclass
class _Live:
    """What is going on with one watch."""

    last_event: float = 0.0
    first_event: float = 0.0
    during: set[str] = field(default_factory=set)  # paths that changed while it ran
    running: bool = False
    task: asyncio.Task[None] | None = None
    runs: deque[float] = field(default_factory=deque)


class Triggers:
    """All users' triggers and inboxes. Every method is called in the event loop's thread."""

    def __init__(self, perform: Perform, inbox: Inbox) -> None:
        self._perform, self._inbox = perform, inbox
        self._shelf = Shelf(paths.state_dir() / "triggers", Trigger, MAX_TRIGGERS)
        self._known: dict[str, Trigger] = {}
        self._live: dict[str, _Live] = {}
        self._files: FileWatch | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Read what is kept and watch what is to be watched."""
        self._loop = asyncio.get_running_loop()
        self._known = await asyncio.to_thread(self._shelf.all)
        for trigger in self._known.values():
            try:
                await self._arm(trigger)
            except LlmosError as error:
                log.error("trigger %s waits in vain: %s", trigger.id, error)

    async def stop(self) -> None:
        for live in self._live.values():
            if live.task is not None:
                live.task.cancel()
        if self._files is not None:
            await asyncio.to_thread(self._files.stop)

    # --- what a person does with them ---

    async def add(self, trigger: Trigger) -> None:
        """Keep it and begin to watch. Raises UsageError, Overloaded, DiskFull."""
        owners = (other.uid for other in self._known.values())
        check_share("triggers", owners, trigger.uid, MAX_TRIGGERS_OF_ONE)
        await self._arm(trigger)
        try:
            await self._keep(trigger)
        except LlmosError:
            self._disarm(trigger.id)
            raise

    def of(self, caller: Caller) -> list[Trigger]:
        return [trigger for trigger in self._known.values() if caller.uid in (0, trigger.uid)]

    def get(self, trigger_id: str, caller: Caller) -> Trigger:
        found = self._known.get(trigger_id)
        if found is None or caller.uid not in (0, found.uid):
            raise UsageError(
                f"there is no trigger {trigger_id}", "See: llmos watch list; llmos schedule list"
            )
        return found

    async def pause(self, trigger: Trigger, why: str) -> Trigger:
        """Pause it with a reason, or go on with an empty one."""
        self._disarm(trigger.id)
        changed = trigger.model_copy(update={"paused": why, "failures": 0})
        await self._arm(changed)
        await self._keep(changed)
        return changed

    async def remove(self, trigger: Trigger) -> None:
        self._disarm(trigger.id)
        self._known.pop(trigger.id, None)
        await asyncio.to_thread(self._shelf.remove, trigger.id)

    # --- firing ---

    async def run(self, trigger: Trigger) -> Result:
        """Make its request now; what needs a word goes to the inbox. Raises what kept it from being made."""
        try:
            result, asked = await self._perform(trigger)
        except LlmosError as error:
            await self._note(trigger.id, f"failed: {error}", ok=False)
            raise
        if asked and result.status == "needs_approval":
            await self._inbox.put(waiting_item(trigger, result, asked))
        await self._note(trigger.id, result.status, ok=result.status in ("done", "needs_approval"))
        return result

    async def _note(self, trigger_id: str, status: str, *, ok: bool) -> None:
        trigger = self._known.get(trigger_id)
        if trigger is None:  # removed while it ran
            return
        failures = 0 if ok else trigger.failures + 1
        told = {
            "runs": trigger.runs + 1,
            "failures": failures,
            "last_run": time.time(),
            "last_status": status,
        }
        changed = trigger.model_copy(update=told)
        if failures >= MAX_FAILURES and not trigger.paused:
            changed = changed.model_copy(update={"paused": f"it failed {failures} times in a row"})
            self._disarm(trigger_id)
        try:
            await self._keep(changed)
        except LlmosError as error:
            log.error("trigger %s: %s", trigger_id, error)

    async def _keep(self, trigger: Trigger) -> None:
        await asyncio.to_thread(self._shelf.put, trigger.id, trigger)
        self._known[trigger.id] = trigger

    # --- watching ---

    async def _arm(self, trigger: Trigger) -> None:
        if trigger.kind != "watch" or trigger.paused:
            return
        if self._files is None:
            self._files = await asyncio.to_thread(FileWatch, self._event_in_thread)
        caller = Caller(uid=trigger.uid, gid=trigger.gid)
        await asyncio.to_thread(
            self._files.add, trigger.id, trigger.path, caller, recursive=trigger.recursive
        )
        self._live[trigger.id] = _Live()

    def _disarm(self, trigger_id: str) -> None:
        live = self._live.pop(trigger_id, None)
        if live is not None and live.task is not None and not live.running:
            live.task.cancel()
        if self._files is not None:
            self._files.remove(trigger_id)

    def _event_in_thread(self, trigger_id: str, path: str) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._event, trigger_id, path)

    def _event(self, trigger_id: str, path: str) -> None:
        live = self._live.get(trigger_id)
        if live is None:
            return
        live.last_event = time.monotonic()
        if live.running:
            if len(live.during) < 10_000:
                live.during.add(path)
        elif live.task is None or live.task.done():
            live.first_event = live.last_event
            live.task = asyncio.ensure_future(self._settle_and_run(trigger_id, live))

    async def _settle_and_run(self, trigger_id: str, live: _Live) -> None:
        """Wait for quiet, run, and again while others changed something meanwhile."""
        again = True
        while again and self._live.get(trigger_id) is live:
            trigger = self._known[trigger_id]
            await self._quiet(live, trigger.quiet_s)
            await self._not_too_often(live, trigger.per_hour)
            if self._live.get(trigger_id) is not live:
                return
            live.running, live.during = True, set()
            own: set[str] | None = None
            try:
                own = changed_by(await self.run(self._known[trigger_id]))
            except LlmosError as error:
                log.warning("trigger %s: %s", trigger_id, error)
            await asyncio.sleep(trigger.quiet_s)  # its own last events
            live.running = False
            live.first_event = live.last_event
            others = live.during - (own or set()) - {trigger.path}
            again = own is not None and await asyncio.to_thread(_any_there, others)

    async def _quiet(self, live: _Live, quiet_s: float) -> None:
        while (left := live.last_event + quiet_s - time.monotonic()) > 0:
            if time.monotonic() - live.first_event > max(MAX_QUIET_WAIT_S, quiet_s):
                return
            await asyncio.sleep(left)

    async def _not_too_often(self, live: _Live, per_hour: int) -> None:
        now = time.monotonic()
        while live.runs and now - live.runs[0] > HOUR_S:
            live.runs.popleft()
        if len(live.runs) >= per_hour:
            await asyncio.sleep(live.runs[0] + HOUR_S - now)
            live.runs.popleft()
        live.runs.append(time.monotonic())


def _any_there(changed: set[str]) -> bool:
    """Whether any is there still: what came and went again was a program's own."""
    return any(os.path.lexists(path) for path in changed)


def changed_by(result: Result) -> set[str] | None:
    """The paths a request changed, and the folders they lie in; None where that is not known."""
    own: set[str] = set()
    for call in result.calls:
        told = call.effects.get("changes")
        effects = call.effects
        if told is None and (effects.get("writes") or effects.get("deletes") or effects.get("opaque")):
            return None
        for item in (told or {}).get("items", ()):
            for path in (item.get("path"), item.get("from")):
                own.update((str(path), str(Path(path).parent)) if path else ())
        if (told or {}).get("more"):
            return None
    return own


def waiting_item(trigger: Trigger, result: Result, asked: tuple[Pinned, ...]) -> Waiting:
    return Waiting(
        id=os.urandom(4).hex(),
        uid=trigger.uid,
        gid=trigger.gid,
        origin=f"{trigger.kind} {trigger.id}",
        said=trigger.said,
        cwd=trigger.cwd,
        write=trigger.write,
        policy=trigger.policy,
        created=time.time(),
        reason=result.answer or "",
        calls=asked,
    )
