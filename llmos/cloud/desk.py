"""Asking backends until one has answered: retries, failover, hedging, a breaker for each, one repair.

    for each backend in order, unless its breaker is open:
        attempt, and again after a wait with jitter (the server's Retry-After, where it gives one)
        a reply that is no valid call is sent back once with what is wrong with it

Asking has no effect on this machine, so an attempt may be repeated; what it can cost is reserved for each
attempt anew by whoever hands out the connections. All of it ends at the deadline.
"""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Protocol

from llmos.cloud import chat as chats
from llmos.cloud.backends import Attempt, Backend, Cancel, Failure, Reply
from llmos.cloud.chat import Chat, Invalid, Reading, Restore
from llmos.config import OffloadSettings
from llmos.errors import Cancelled, CloudError, LlmosError, NotUnderstood

FIRST_WAIT_S = 0.5  # doubled with each further try
MAX_WAIT_S = 8.0
PATIENCE_S = 20.0  # a server that wants a longer pause is left for the next one


class Line(Protocol):
    """Where connections come from, and who is told how each attempt ended."""

    def connect(self, backend: str) -> socket.socket: ...

    def ended(self, backend: str, *, billed: bool, why: str, reply: Reply | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    backend: str
    reading: Reading
    reply: Reply


class Breaker:
    """Opens after failures in a row; lets one attempt through when it has rested."""

    def __init__(self, failures: int, rest_s: float) -> None:
        self._failures, self._rest_s = failures, rest_s
        self._in_a_row = 0
        self._until = 0.0
        self._last = ""
        self._lock = threading.Lock()

    def closed(self) -> bool:
        """Whether to ask now. When the rest is over, one caller may try."""
        with self._lock:
            if self._in_a_row < self._failures:
                return True
            if time.monotonic() < self._until:
                return False
            self._until = time.monotonic() + self._rest_s
            return True

    def why(self) -> str:
        """What is wrong, while it is open."""
        with self._lock:
            left_s = self._until - time.monotonic()
            return f"{self._last}; tried again in {left_s:.0f} s" if self._open() and left_s > 0 else ""

    def count(self, failure: str) -> None:
        """How an attempt ended; empty: well."""
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if failure else 0
            self._last = failure
            if self._open():
                self._until = time.monotonic() + self._rest_s

    def _open(self) -> bool:
        return self._in_a_row >= self._failures


class Desk:
    """All backends. `ask` blocks; several threads may ask at once."""

    def __init__(self, backends: Mapping[str, Backend], offload: OffloadSettings) -> None:
        self.backends = dict(backends)
        self.offload = offload
        self.breakers = {name: Breaker(offload.breaker_failures, offload.breaker_rest_s) for name in backends}

    def ask(
        self,
        chat: Chat,
        order: Sequence[str],
        line: Line,
        *,
        timeout_s: float,
        cancel: Cancel,
        restore: Restore,
    ) -> Answer:
        """The first valid answer. Raises CloudError, NotUnderstood, OverBudget, Cancelled."""
        return _Asking(self, chat, line, time.monotonic() + timeout_s, restore).run(order, cancel)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One backend's: `began` is set with the first piece of its answer, `until` is when its time is over."""

    name: str
    cancel: Cancel
    began: threading.Event
    until: float


class _Asking:
    """One question on its way."""

    def __init__(self, desk: Desk, chat: Chat, line: Line, deadline: float, restore: Restore) -> None:
        self._desk, self._chat, self._line = desk, chat, line
        self._deadline, self._restore = deadline, restore
        self._said: list[str] = []  # why backends did not answer

    def run(self, order: Sequence[str], cancel: Cancel) -> Answer:
        ready = [name for name in order if self._is_ready(name)]
        hedge_after_s = self._desk.offload.hedge_after_s
        while ready:
            if hedge_after_s and len(ready) > 1:
                answer, ready = self._race(ready[0], ready[1], hedge_after_s, cancel), ready[2:]
            else:
                answer, ready = self._settled(ready[0], cancel, until=self._share(ready)), ready[1:]
            if answer is not None:
                return answer
        raise CloudError(
            "no backend answered: " + "; ".join(dict.fromkeys(self._said or ["none is configured"])),
            "Try again later, stay local (--local), or look at: llmos backend list",
        )

    def _share(self, ready: Sequence[str]) -> float:
        """Until when the first of these may be asked: while others are left, for half of the time that is."""
        now = time.monotonic()
        return self._deadline if len(ready) == 1 else now + (self._deadline - now) / 2

    def _is_ready(self, name: str) -> bool:
        if self._desk.breakers[name].closed():
            return True
        self._said.append(f"{name} is left alone: {self._desk.breakers[name].why()}")
        return False

    def _race(self, first: str, second: str, hedge_after_s: float, cancel: Cancel) -> Answer | None:
        """Ask the first; when it is silent for so long, the second as well. Whoever is done first counts."""
        cancels = (cancel.child(), cancel.child())
        began = threading.Event()
        with ThreadPoolExecutor(2, thread_name_prefix="hedge") as pool:
            running = {pool.submit(self._settled, first, cancels[0], began)}
            if began.wait(hedge_after_s):
                if (answer := running.pop().result()) is not None:
                    return answer
                return self._settled(second, cancel)
            running.add(pool.submit(self._settled, second, cancels[1]))
            return self._first(running, cancels)

    @staticmethod
    def _first(running: set[Future[Answer | None]], cancels: tuple[Cancel, ...]) -> Answer | None:
        error: LlmosError | None = None
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    answer = future.result()
                except LlmosError as one:
                    error = one
                    continue
                if answer is not None:
                    for cancel in cancels:
                        cancel.set()
                    return answer
        if error is not None:
            raise error
        return None

    # --- one backend ---

    def _settled(
        self, name: str, cancel: Cancel, began: threading.Event | None = None, *, until: float = math.inf
    ) -> Answer | None:
        """A valid answer of this backend, or None when the next one is to be asked."""
        turn = _Turn(name, cancel, began or threading.Event(), min(until, self._deadline))
        try:
            return self._read(turn, self._persistent(turn, self._chat))
        except Failure as failure:
            self._said.append(str(failure))
            return None
        finally:
            turn.began.set()

    def _read(self, turn: _Turn, reply: Reply) -> Answer:
        """The reading of a reply, or of the one that mends it. Raises NotUnderstood, Failure."""
        try:
            return Answer(turn.name, self._reading(reply), reply)
        except Invalid as problem:
            chat = self._chat.repaired(reply.text, str(problem))
        again = self._persistent(replace(turn, began=threading.Event()), chat)
        try:
            return Answer(turn.name, self._reading(again), again)
        except Invalid as problem:
            raise NotUnderstood(
                f"the answer of {turn.name} is no valid call, twice: {problem}", "Say it in other words."
            ) from None

    def _reading(self, reply: Reply) -> Reading:
        if reply.out_of_tokens:  # the head of a command can be a different and worse command
            raise Invalid("it ran out of tokens before its end; be brief")
        return chats.read(self._chat, reply.text, self._restore)

    def _persistent(self, turn: _Turn, chat: Chat) -> Reply:
        """Attempts until one succeeds. Raises Failure, Cancelled, and what forbids further ones."""
        tries, name = 0, turn.name
        while True:
            try:
                return self._attempt(turn, chat)
            except Failure as failure:
                if turn.cancel.is_set():
                    raise _cancelled() from None
                if failure.error is not None:
                    raise failure.error from None
                if failure.refused_form and self._desk.backends[name].step_down():
                    continue
                self._desk.breakers[name].count(str(failure))
                tries += 1
                if not failure.again or tries > self._desk.offload.retries:
                    raise
                self._pause(failure, tries, turn)

    @staticmethod
    def _pause(failure: Failure, tries: int, turn: _Turn) -> None:
        """Wait before the next try; raises the failure when that would take too long."""
        wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
        if failure.after_s is not None:
            wait_s = failure.after_s * random.uniform(1.0, 1.1)  # noqa: S311 - not before, and not all at once
        if wait_s > PATIENCE_S or time.monotonic() + wait_s > turn.until:
            raise failure
        if turn.cancel.wait(wait_s):
            raise _cancelled()

    def _attempt(self, turn: _Turn, chat: Chat) -> Reply:
        name = turn.name
        attempt = turn.cancel.hold(Attempt(turn.until, turn.began))
        reply, why, billed = None, "cancelled", False
        try:
            reply = self._desk.backends[name].ask(
                chat, lambda: self._line.connect(name), attempt, turn.cancel
            )
        except Failure as failure:
            why, billed = str(failure), failure.billed
            raise
        finally:
            self._line.ended(name, billed=billed, why=why, reply=reply)
        self._desk.breakers[name].count("")
        return reply


def _cancelled() -> Cancelled:
    return Cancelled("the request was cancelled", "Nothing was run for it.")
