"""Whether anybody still waits for what a thread is doing: a cancelled request leaves its thread behind.

Threads cannot be ended from outside, so who works in one for long asks here from time to time.
"""

from __future__ import annotations

import contextvars
import threading

_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stop", default=None)


def listen(event: threading.Event) -> None:
    """From now on, in this context, `event` means that nobody waits any more."""
    _stop.set(event)


def stopped() -> bool:
    event = _stop.get()
    return event is not None and event.is_set()
