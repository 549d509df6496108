"""Turns between users: in the model's queue, and in the worker threads."""

from __future__ import annotations

import asyncio
import threading
import time

from llmos.daemon.fairness import NOBODY, RoundRobin, Threads, Turns, serving
from llmos.daemon.shares import too_many


def test_users_go_round_and_each_ones_oldest_first() -> None:
    queue: RoundRobin[str] = RoundRobin()
    for user, item in ((1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")):
        queue.put(user, item)
    assert queue.take(lambda user: user == 3) == (3, "c1")
    order = []
    while found := queue.take():
        order.append(found[1])
    assert order == ["a1", "b1", "a2", "b2", "a3"]


def test_a_turn_goes_to_the_next_user_and_is_not_lost_by_who_gives_up() -> None:
    async def story() -> list[str]:
        turns, order = Turns(), []

        async def want(user: int, name: str) -> None:
            async with turns.of(user):
                order.append(name)
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(want(1, f"a{i}")) for i in range(4)]
        tasks.append(asyncio.create_task(want(2, "b0")))
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not turns.locked()
        return order

    assert asyncio.run(story()) == ["a0", "b0", "a2", "a3"]


def test_one_user_cannot_have_all_threads() -> None:
    async def story() -> tuple[float, int]:
        loop, most, now, lock = asyncio.get_running_loop(), 0, 0, threading.Lock()
        loop.set_default_executor(Threads(4, 2))

        def work() -> None:
            nonlocal most, now
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.05)
            with lock:
                now -= 1

        serving.set(7)
        greedy = [asyncio.create_task(asyncio.to_thread(work)) for _ in range(20)]
        await asyncio.sleep(0.02)
        serving.set(8)
        began = time.monotonic()
        await asyncio.to_thread(time.sleep, 0.001)
        waited = time.monotonic() - began
        serving.set(NOBODY)
        await asyncio.gather(*greedy)
        return waited, most

    waited, most = asyncio.run(story())
    assert most == 2 and waited < 0.15, (waited, most)


def test_what_is_thrown_in_a_thread_comes_back() -> None:
    async def story() -> None:
        asyncio.get_running_loop().set_default_executor(Threads(2, 1))
        try:
            await asyncio.to_thread(int, "x")
        except ValueError:
            return
        raise AssertionError("the error was lost")

    asyncio.run(story())


def test_however_many_take_all_they_can_there_is_room_for_one_more() -> None:
    most, held = 64, [0] * 10
    for _ in range(200):
        for user, own in enumerate(held):
            held[user] += not too_many(own, sum(held), most)
    assert sum(held) < most and not too_many(0, sum(held), most)
    alone = 0
    while not too_many(alone, alone, most):
        alone += 1
    assert alone == 32
