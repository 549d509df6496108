"""What one user's commands may use of the machine together, where several share a daemon.

How many run at a time is counted here; more wait for their turn. Processors, memory and processes are bounded
by a control group of the user's, in which the groups of their calls lie (`cgroups`). Root, and the owner of a
daemon of their own, have no quota: the bounds of single calls hold for everybody.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from llmos.config import QuotaSettings, QuotasSettings
from llmos.errors import Cancelled
from llmos.guard.identity import identity
from llmos.guard.sandbox import Limits, UserLimits
from llmos.messages import Caller
from llmos.waiting import done_or_set

UNBOUNDED = QuotaSettings(running=0)


class Quotas:
    def __init__(self, settings: QuotasSettings) -> None:
        self._settings = settings
        self._places: dict[tuple[int, int], asyncio.Semaphore] = {}  # by user and their number

    def configure(self, settings: QuotasSettings) -> None:
        self._settings = settings

    def of(self, caller: Caller) -> QuotaSettings:
        if caller.uid in (0, os.geteuid()):
            return UNBOUNDED
        return self._settings.of(identity(caller).user, str(caller.uid))

    @asynccontextmanager
    async def place(self, caller: Caller, cancel: asyncio.Event) -> AsyncIterator[None]:
        """A place among those of this user's that run. Raises Cancelled where `cancel` is set first."""
        most = self.of(caller).running
        if not most:
            yield
            return
        places = self._places.setdefault((caller.uid, most), asyncio.Semaphore(most))
        await _taken(places, cancel)
        try:
            yield
        finally:
            places.release()

    def limited(self, limits: Limits, caller: Caller) -> Limits:
        """The limits of a call within those of its user."""
        quota = self.of(caller)
        if not (quota.cpus or quota.memory_bytes or quota.processes):
            return limits
        own = UserLimits(caller.uid, quota.memory_bytes, quota.processes, quota.cpus)
        memory = min(limits.memory_bytes, quota.memory_bytes or limits.memory_bytes)
        return replace(
            limits,
            user=own,
            memory_bytes=memory,
            scratch_bytes=min(limits.scratch_bytes, memory),
            processes=min(limits.processes, quota.processes or limits.processes),
            cpus=min(limits.cpus, quota.cpus or limits.cpus),
            need_group=True,
        )


async def _taken(places: asyncio.Semaphore, cancel: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(places.acquire())
    try:
        if not await done_or_set(waiting, cancel):
            raise Cancelled(
                "the request was cancelled while it waited for others of yours", "Nothing was run."
            )
    except BaseException:
        if waiting.done() and not waiting.cancelled():
            places.release()  # it came in the very moment in which we were given up
        else:
            waiting.cancel()
        raise
