"""Places among a user's running commands: however a wait ends, none of them is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from llmos.config import QuotasSettings
from llmos.errors import Cancelled
from llmos.guard.sharing import Quotas
from llmos.messages import Caller

ME = Caller(uid=61234, gid=61234, pid=1)
_SOON_S = 5.0


def one_place() -> Quotas:
    return Quotas(QuotasSettings(running=1))


async def free(quotas: Quotas) -> bool:
    """Whether the place can be had."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_SOON_S), quotas.place(ME, asyncio.Event()):
            return True
    return False


async def taken_until(quotas: Quotas, leave: asyncio.Event) -> None:
    async with quotas.place(ME, asyncio.Event()):
        await leave.wait()


@pytest.mark.parametrize("ticks", range(6))
def test_a_wait_that_is_given_up_as_its_turn_comes_loses_no_place(ticks: int) -> None:
    async def scene() -> bool:
        quotas, leave, ended = one_place(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(taken_until(quotas, leave))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(taken_until(quotas, ended))
        await asyncio.sleep(0.01)
        leave.set()  # the second's turn comes, at some tick of the loop
        for _ in range(ticks):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        return await free(quotas)

    assert asyncio.run(scene())


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def scene() -> bool:
        quotas, leave, cancel = one_place(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(taken_until(quotas, leave))
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.01, cancel.set)
        with pytest.raises(Cancelled, match="waited for others of yours"):
            async with quotas.place(ME, cancel):
                raise AssertionError
        leave.set()
        await first
        return await free(quotas)

    assert asyncio.run(scene())
