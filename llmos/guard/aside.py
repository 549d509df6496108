"""Work in a thread of its own: what waits for hours must not take one of the few that judge and commit.

A thread cannot be ended from outside: when the request is cancelled it is told so (`stopping`), and left.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from llmos import stopping


async def aside(work: Callable[[], str], cancel: asyncio.Event) -> str | None:
    """What `work` returns, or None when `cancel` is set first; raises what it raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()
    stop = threading.Event()

    def body() -> None:
        stopping.listen(stop)
        text, error = "", None
        try:
            text = work()
        except Exception as problem:
            error = problem
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(_settle, done, text, error)

    threading.Thread(target=contextvars.copy_context().run, args=(body,), daemon=True).start()
    cancelled = asyncio.ensure_future(cancel.wait())
    either: set[asyncio.Future[Any]] = {done, cancelled}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return done.result() if done.done() else None
    finally:
        stop.set()
        cancelled.cancel()


def _settle(done: asyncio.Future[str], text: str, error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(text)
    else:
        done.set_exception(error)
