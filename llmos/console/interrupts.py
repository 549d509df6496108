"""Ctrl-C as something one can wait for beside a socket, instead of an exception at any point.

A KeyboardInterrupt may strike between a read and the line that keeps what was read, and lose a frame.
Here the signal handler only counts and writes one byte to a pipe that `select` watches. Python runs
signal handlers in the main thread alone; in another thread `Interrupts` stays silent and counts nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Counts SIGINT while the `with` block lasts; `fileno()` is readable once one has come."""

    def __init__(self) -> None:
        self.count = 0
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old: Any = None
        self._followers: set[Interrupts] = set()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        return self._read

    @contextlib.contextmanager
    def follower(self, itself: bool = False) -> Iterator[Interrupts]:
        """For work in another thread, which signals do not reach: counts what this one counts."""
        if itself:
            yield self
            return
        made = Interrupts()
        self._followers.add(made)
        try:
            yield made
        finally:
            self._followers.discard(made)
            made.__exit__(None, None, None)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Ctrl-C raises KeyboardInterrupt again, for work that knows no better (a download, say)."""
        old = signal.getsignal(signal.SIGINT)
        if self._old is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            if self._old is not None:
                signal.signal(signal.SIGINT, old)

    def drain(self) -> None:
        """Take the wake-up bytes out, so that the next `select` waits again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 64)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")
        for follower in tuple(self._followers):
            follower._note(_signal, _frame)
