"""Where a request's time went, as `messages.Timing` tells it. Wall-clock milliseconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from llmos.messages import Timing


class Clock:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._queue_ms = 0.0
        self._policy_ms = 0.0
        self._sandbox_ms = 0.0
        self._asked_ms = 0.0
        self._thought = Timing()

    def left_queue(self) -> None:
        self._queue_ms = self._since(self._start)

    def thought(self, timing: Timing) -> None:
        """Take over what the planner measured: prefill, decode, tokens."""
        self._thought = timing

    @contextmanager
    def policy(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._policy_ms += self._since(start)

    @contextmanager
    def sandbox(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._sandbox_ms += self._since(start)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """While a person thinks about a question: that is not our time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._asked_ms += self._since(start)

    def timing(self) -> Timing:
        measured = {
            "queue_ms": self._queue_ms,
            "policy_ms": self._policy_ms,
            "sandbox_ms": self._sandbox_ms,
            "total_ms": round(self._since(self._start) - self._asked_ms, 3),
        }
        return self._thought.model_copy(update=measured)

    def _since(self, start: float) -> float:
        return round((time.perf_counter() - start) * 1000, 3)
