"""Work in a thread of its own: what waits for hours must not take one of the few that judge and commit.

A thread cannot be ended from outside: when the request is cancelled it is told so (`stopping`), and left.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable
from typing import TypeVar

from llmos import stopping
from llmos.waiting import done_or_set

_T = TypeVar("_T")


async def apart(work: Callable[[], _T]) -> _T:
    """The same for what is not to be left half done: it is waited for, by a daemon that ends as well."""
    done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    _start(work, done, daemon=False)
    return await done


async def aside(work: Callable[[], str], cancel: asyncio.Event) -> str | None:
    """What `work` returns, or None when `cancel` is set first; raises what it raises."""
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = threading.Event()

    def listening() -> str:
        stopping.listen(stop)
        return work()

    _start(listening, done, daemon=True)
    try:
        return done.result() if await done_or_set(done, cancel) else None
    finally:
        stop.set()


def _start(work: Callable[[], _T], done: asyncio.Future[_T], *, daemon: bool) -> None:
    loop = asyncio.get_running_loop()

    def body() -> None:
        try:
            found = work()
        except Exception as error:
            settle: Callable[[], None] = functools.partial(done.set_exception, error)
        else:
            settle = functools.partial(done.set_result, found)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if done.done() else settle())

    threading.Thread(target=contextvars.copy_context().run, args=(body,), daemon=daemon).start()
