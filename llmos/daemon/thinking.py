"""The broker's side of the planner: one worker process, started when first needed and never trusted.

Requests wait their turn, users going round: the worker thinks about a few at a time. A worker that dies or
sends what is no frame is replaced, and the requests it was on are tried once more: thinking executes
nothing, so trying again is safe. One that hangs is killed. One that keeps dying is started ever more rarely.
After `idle_unload_s` without a request the worker ends, and its memory with it.

What it sends is data: typed by `messages`, judged later by the gate. This module judges nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from llmos.config import THINK_AT_ONCE, ModelSettings
from llmos.daemon import supervisor
from llmos.daemon.fairness import Turns, serving
from llmos.daemon.link import Link, LinkLost
from llmos.errors import Cancelled, LlmosError, PlannerDied
from llmos.messages import Adapt, JsonObject, Stop, Teach, Think, Thought, ToolSpec
from llmos.waiting import done_or_set

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 600.0  # a slow disk, several gigabytes
STOP_GRACE_S = 3.0  # a cancel takes one token; a worker that does not react is killed
BACKOFF_S = 1.0  # doubled by each further crash in a row
MAX_BACKOFF_S = 60.0
FREE_CRASHES = 2  # so many in a row cost no waiting

OnDelta = Callable[[str], None]
OnStart = Callable[[], None]


class Planner:
    """Turns `Think` into `Thought`; owns the worker's whole life."""

    def __init__(
        self, settings: ModelSettings, *, worker_argv: Sequence[str] = supervisor.WORKER_ARGV
    ) -> None:
        self._settings = settings
        self._argv = tuple(worker_argv)
        self._tools: tuple[ToolSpec, ...] | None = None  # not known yet: a worker loads once they are
        self._link: Link | None = None
        self._turn = Turns(THINK_AT_ONCE)
        self._thinking = 0  # requests that the worker is on
        self._quiet = asyncio.Event()  # it is on none
        self._starting = asyncio.Lock()
        self._again = asyncio.Lock()  # second tries: what kills the worker is to kill none but itself
        self._turns: set[asyncio.Task[Thought]] = set()
        self._idle: asyncio.TimerHandle | None = None
        self._waking: asyncio.Task[None] | None = None
        self._outdated = False
        self._crashes = _Crashes()

    # --- what the broker calls ---

    def teach(self, tools: tuple[ToolSpec, ...]) -> None:
        """Set the tools in force; a running worker hears of them before its next request."""
        self._tools = tools
        if link := self._living:
            link.send(Teach(tools=tools))

    def wake(self) -> None:
        """Start a worker, for somebody is about to ask; nothing where there is one, or is about to be."""
        if not (self._living or self._starting.locked() or self._turn.locked()):
            self._waking = asyncio.create_task(self._wake())

    async def _wake(self) -> None:
        try:
            await self._alive()
        except LinkLost as lost:
            self._crashes.count(lost)
        except LlmosError as error:
            log.info("the planner was to be ready early, and is not: %s", error)  # who asks is told
        if not self._thinking:
            await self._at_rest()

    async def think(
        self, think: Think, *, cancel: asyncio.Event, on_start: OnStart, on_delta: OnDelta
    ) -> Thought:
        """One request's thought. Raises Cancelled at once when `cancel` is set, PlannerDied, ModelError.

        The turn outlives a cancelled request: it keeps the next one waiting until the worker has let go.
        """
        turn = asyncio.create_task(self._take_turn(think, cancel, on_start, on_delta))
        self._turns.add(turn)
        turn.add_done_callback(self._finished)
        if not await done_or_set(turn, cancel):
            raise _cancelled()
        return turn.result()

    def configure(self, settings: ModelSettings) -> None:
        """Settings from now on; a worker that was started under others goes, once it has answered."""
        if settings == self._settings:
            return
        same_weights = settings.model_copy(update={"adapter": self._settings.adapter}) == self._settings
        self._settings = settings
        if same_weights and (link := self._living):
            link.send(Adapt(adapter=settings.adapter))
            return
        if self._turn.locked():
            self._outdated = True
        else:
            self._unload_if_idle()

    async def stop(self) -> None:
        """End the worker; waiting requests fail."""
        if self._idle is not None:
            self._idle.cancel()
        if self._waking is not None:
            self._waking.cancel()
        for turn in self._turns:
            turn.cancel()
        await self._unload()

    def status(self) -> JsonObject:
        link = self._living
        ready = link.ready_frame if link else None
        state = "unloaded" if not link else "loading" if ready is None else "ready"
        return {
            "state": "thinking" if state == "ready" and self._turn.locked() else state,
            "pid": link.pid if link else None,
            "model": ready.model if ready else self._settings.name,
            "load_ms": ready.load_ms if ready else None,
            "resident_bytes": ready.resident_bytes if ready else 0,
            "unconfined": list(ready.unconfined) if ready else [],
            "crashes_in_a_row": self._crashes.in_a_row,
            "waiting": len(self._turns),
        }

    # --- one turn ---

    async def _take_turn(
        self, think: Think, cancel: asyncio.Event, on_start: OnStart, on_delta: OnDelta
    ) -> Thought:
        async with self._turn.of(serving.get()):
            if self._idle is not None:
                self._idle.cancel()
            while self._outdated:  # what is being thought about comes to its end under the settings before
                await self._quiet.wait()
            self._thinking += 1
            self._quiet.clear()
            try:
                return await self._try_twice(think, cancel, on_start, on_delta)
            finally:
                self._thinking -= 1
                if not self._thinking:
                    await self._at_rest()

    async def _at_rest(self) -> None:
        if self._outdated:
            await self._unload()
            self._outdated = False
        self._quiet.set()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._settings.idle_unload_s, self._unload_if_idle)

    async def _try_twice(
        self, think: Think, cancel: asyncio.Event, on_start: OnStart, on_delta: OnDelta
    ) -> Thought:
        for last_try in (False, True):
            if cancel.is_set():
                raise _cancelled()
            try:
                async with self._again if last_try else nullcontext():
                    link = await self._alive()
                    on_start()
                    thought = await self._ask(link, think, cancel, on_delta)
            except LinkLost as lost:
                self._crashes.count(lost)
                log.warning("the planner was lost: %s", lost)
                if last_try:
                    raise PlannerDied(
                        f"the planner was lost, twice, while it was on this request: {lost}",
                        "Try again; if it keeps happening, use a smaller model: llmos model use tiny",
                    ) from lost
            else:
                self._crashes.clear()
                return thought
        raise AssertionError("unreachable: the second loss raises")

    async def _ask(self, link: Link, think: Think, cancel: asyncio.Event, on_delta: OnDelta) -> Thought:
        answer = link.submit(think, on_delta)
        timeout_s = self._settings.think_timeout_s
        if await done_or_set(answer, cancel, timeout_s=timeout_s):
            return answer.result()
        await self._let_go(link, think.id, answer)
        if cancel.is_set():
            raise _cancelled()
        raise PlannerDied(
            f"the planner did not finish within {timeout_s:g} s",
            "Ask for less in one request, or raise model.think_timeout_s in the configuration.",
        )

    async def _let_go(self, link: Link, think_id: str, answer: asyncio.Future[Thought]) -> None:
        link.send(Stop(id=think_id))
        await asyncio.wait({answer}, timeout=STOP_GRACE_S)
        if not answer.done():
            log.warning("the planner did not stop within %g s; killing it", STOP_GRACE_S)
            link.kill()
            await link.ended
        answer.exception()  # whatever it was, nobody waits for it any more

    # --- the worker's life ---

    @property
    def _living(self) -> Link | None:
        """The worker that there is, loaded or about to be."""
        return self._link if self._link is not None and not self._link.lost else None

    async def _alive(self) -> Link:
        """A worker that is loaded. Raises LinkLost, ModelError, or PlannerDied while backing off."""
        async with self._starting:
            return self._living or await self._start()

    async def _start(self) -> Link:
        self._crashes.check()
        link = self._link = await Link.start(self._argv, self._settings)
        if self._tools is not None:
            link.send(Teach(tools=self._tools))
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                await link.ready
        except TimeoutError as error:
            raise PlannerDied(
                f"the planner did not load within {LOAD_TIMEOUT_S:g} s", "Run: llmos doctor"
            ) from error
        finally:
            if link.ready_frame is None:
                link.kill()
        return link

    def _unload_if_idle(self) -> None:
        if not self._turn.locked():
            self._unloading = asyncio.ensure_future(self._unload())

    async def _unload(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
            await link.ended

    def _finished(self, turn: asyncio.Task[Thought]) -> None:
        self._turns.discard(turn)
        if not turn.cancelled():
            turn.exception()  # a cancelled request does not ask for it, and asyncio would complain


class _Crashes:
    """Counts losses in a row and says how long to wait before the next start."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._last: LinkLost | None = None
        self._not_before = 0.0

    def clear(self) -> None:
        self.in_a_row = 0

    def count(self, lost: LinkLost) -> None:
        """Once, however many requests the worker was on."""
        if lost is self._last:
            return
        self.in_a_row += 1
        self._last = lost
        extra = self.in_a_row - FREE_CRASHES
        wait_s = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (extra - 1)) if extra > 0 else 0.0
        self._not_before = time.monotonic() + wait_s

    def check(self) -> None:
        """Raises PlannerDied while the wait lasts."""
        left_s = self._not_before - time.monotonic()
        if left_s > 0:
            raise PlannerDied(
                f"the planner was lost {self.in_a_row} times in a row (last: {self._last})",
                f"It may be started again in {left_s:.0f} s; the daemon's log has its last words.",
            )


def _cancelled() -> Cancelled:
    return Cancelled("the request was cancelled", "Nothing was run for it.")
