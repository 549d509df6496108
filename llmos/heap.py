"""What a long-lived process does with its memory once it has started: nothing of it is garbage."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def settle() -> None:
    """Look for garbage, which `gc.disable` kept from a start, among what is made from now on."""
    gc.freeze()
    gc.enable()


def trim() -> None:
    """Return what the heap holds free to the machine (malloc_trim(3)), where the C library can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
