"""The engine behind a bounded queue: one thread thinks about one request after the other.

A request that nobody waits for any more is given up within a token. What waits is bounded; one more is
refused at once, so that a client can go elsewhere instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from llmos.engine.engine import Engine
from llmos.engine.generate import Generation
from llmos.serve.asked import ChatAsked
from llmos.serve.prompting import build
from llmos.serve.told import busy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Began:
    prompt_tokens: int


Event = Began | str | Generation


class Room(Protocol):
    """Where the application has its requests thought about: here, or by replicas elsewhere."""

    held: int  # requests that run or wait
    context_tokens: int

    def think(self, asked: ChatAsked) -> AsyncIterator[Event]:
        """First `Began`, then text as it comes, then the whole. Raises ApiError before `Began`."""

    async def able(self) -> bool:
        """Whether a request would be thought about now."""

    def close(self) -> None: ...


class Workroom:
    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self.context_tokens = engine.context_tokens
        self.held = 0
        self._last_sign = time.monotonic()  # of the engine: work begun, text
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def think(self, asked: ChatAsked) -> AsyncIterator[Event]:
        if self.held > self.max_waiting:
            raise busy(503, f"{self.held} requests are ahead of this one; try again", "overloaded", 1)
        loop, events, cancel = (
            asyncio.get_running_loop(),
            asyncio.Queue[Event | Exception](),
            threading.Event(),
        )

        def send(event: Event | Exception) -> None:
            self._last_sign = time.monotonic()
            with suppress(RuntimeError):  # the server stopped meanwhile
                loop.call_soon_threadsafe(events.put_nowait, event)

        self.held += 1
        done = loop.run_in_executor(self._thread, self._work, asked, send, cancel)
        done.add_done_callback(self._leave)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Generation):
                    return
        finally:
            cancel.set()

    def _leave(self, _done: asyncio.Future[None]) -> None:
        self.held -= 1

    def _work(
        self, asked: ChatAsked, send: Callable[[Event | Exception], None], cancel: threading.Event
    ) -> None:
        if cancel.is_set():
            return
        self._last_sign = time.monotonic()
        try:
            prompt = build(asked, self.engine.tokenizer, self.context_tokens)
            send(Began(len(prompt.ids)))
            generation = self.engine.generate(
                prompt.ids,
                max_tokens=prompt.max_tokens,
                sampling=prompt.sampling,
                stop=prompt.stop,
                constraint=prompt.constraint,
                cancel=cancel,
                on_text=send,
            )
            send(generation)
        except Exception as error:  # told to the client by whoever awaits it
            send(error)

    async def able(self) -> bool:
        return True

    @property
    def silent_s(self) -> float:
        """Seconds since the engine last gave a sign, where it has work."""
        return time.monotonic() - self._last_sign if self.held else 0.0

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
