"""Waiting for work that may be cancelled from outside."""

from __future__ import annotations

import asyncio
from typing import Any


async def done_or_set(
    future: asyncio.Future[Any], event: asyncio.Event, *, timeout_s: float | None = None
) -> bool:
    """Wait until `future` is done, `event` is set or the time is over; True when the future is done.

    The future itself goes on either way: who cancels what is the caller's business.
    """
    flag: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({future, flag}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        flag.cancel()
    return future.done()
