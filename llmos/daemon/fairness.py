"""Turns: what many users share is given out user by user, not request by request.

The model, the worker threads and the event loop itself are each one thing for all. Somebody who makes a
thousand requests gets as much of them as somebody who makes one: users take turns, and within one user's
turn the oldest goes first. A turn is not cut short: the others wait for as long as one piece of work takes.
The model thinks about a few requests side by side, so that a long one does not keep short ones waiting.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
NOBODY = -1  # the daemon's own work
# For whom the present task works; it goes along into tasks that are made in it.
serving: ContextVar[int] = ContextVar("serving", default=NOBODY)
THREADS = 6
THREADS_OF_ONE = 3


class RoundRobin(Generic[_T]):
    """Items by user. Taken out one of each user in turn, of one user the oldest first."""

    def __init__(self) -> None:
        self._of: OrderedDict[int, deque[_T]] = OrderedDict()

    def put(self, user: int, item: _T) -> None:
        self._of.setdefault(user, deque()).append(item)

    def take(self, may: Callable[[int], bool] = lambda user: True) -> tuple[int, _T] | None:
        """The next one of the users who `may`; None where there is none."""
        user = next((user for user in self._of if may(user)), None)
        if user is None:
            return None
        queue = self._of.pop(user)
        item = queue.popleft()
        if queue:
            self._of[user] = queue  # behind the others
        return user, item


class Turns:
    """A lock that goes round among users; `most` have it at a time."""

    def __init__(self, most: int = 1) -> None:
        self._waiting: RoundRobin[asyncio.Future[None]] = RoundRobin()
        self._most, self._taken = most, 0

    def locked(self) -> bool:
        """Whether anybody has it."""
        return self._taken > 0

    @asynccontextmanager
    async def of(self, user: int) -> AsyncIterator[None]:
        await self._acquire(user)
        try:
            yield
        finally:
            self._hand_on()

    async def _acquire(self, user: int) -> None:
        if self._taken < self._most:
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(user, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._hand_on()  # it came in the same moment
            raise

    def _hand_on(self) -> None:
        while found := self._waiting.take():
            if not found[1].done():
                found[1].set_result(None)
                return
        self._taken -= 1


class Threads(ThreadPoolExecutor):
    """The loop's worker threads, of which one user has some at a time, however much they want done."""

    def __init__(self, most: int = THREADS, most_of_one: int = THREADS_OF_ONE) -> None:
        super().__init__(most, thread_name_prefix="work")
        self._most, self._most_of_one = most, most_of_one
        self._guard = threading.Lock()
        self._queued: RoundRobin[tuple[Future[Any], Callable[[], Any]]] = RoundRobin()
        self._busy: Counter[int] = Counter()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._guard:
            self._queued.put(serving.get(), (future, lambda: fn(*args, **kwargs)))
        self._start_some()
        return future

    def _start_some(self) -> None:
        while True:
            with self._guard:
                if self._busy.total() >= self._most:
                    return
                found = self._queued.take(self._may)
                if found is None:
                    return
                self._busy[found[0]] += 1
            try:
                super().submit(self._work, *found)
            except RuntimeError:  # it is being shut down
                found[1][0].cancel()
                return

    def _may(self, user: int) -> bool:
        return user == NOBODY or self._busy[user] < self._most_of_one

    def _work(self, user: int, item: tuple[Future[Any], Callable[[], Any]]) -> None:
        future, work = item
        try:
            if future.set_running_or_notify_cancel():
                _settle(future, work)
        finally:
            with self._guard:
                self._busy[user] -= 1
                if not self._busy[user]:
                    del self._busy[user]
            self._start_some()


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
