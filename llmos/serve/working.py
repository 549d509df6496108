"""The engine behind a bounded queue: one thread thinks about one request after the other.

A request that nobody waits for any more is given up within a token. What waits is bounded; one more is
refused at once, so that a client can go elsewhere instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

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


class Workroom:
    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self.held = 0  # requests that run or wait
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def think(self, asked: ChatAsked) -> AsyncIterator[Event]:
        """First `Began`, then text as it comes, then the whole. Raises ApiError before `Began`."""
        if self.held > self.max_waiting:
            raise busy(503, f"{self.held} requests are ahead of this one; try again", "overloaded", 1)
        loop, events, cancel = (
            asyncio.get_running_loop(),
            asyncio.Queue[Event | Exception](),
            threading.Event(),
        )

        def send(event: Event | Exception) -> None:
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
        try:
            prompt = build(asked, self.engine.tokenizer, self.engine.context_tokens)
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

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
