"""What a long-lived process does with its memory once it has started: nothing of it is garbage."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path


def settle() -> None:
    """Look for garbage, which `gc.disable` kept from a start, among what is made from now on."""
    gc.freeze()
    gc.enable()


def trim() -> None:
    """Return what the heap holds free to the machine (malloc_trim(3)), where the C library can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back() -> None:
    """What is free of the heap, and code that is not needed now."""
    trim()
    give_back_code()


_MADV_DONTNEED = 4  # mman.h


def give_back_code() -> None:
    """Unmap the pages of libraries' code and constants, most of which only a start needed (madvise(2)).

    What is used again is mapped again, out of the page cache. Mappings with pages of their own, which
    would be lost, are left alone; so are other files.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library, no /proc
        madvise = ctypes.CDLL(None).madvise
        for start, end in _of_libraries():
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _of_libraries() -> Iterator[tuple[int, int]]:
    """Where programs and libraries are mapped that this process has not written to (proc_pid_smaps(5))."""
    place, untouched = None, False
    with Path("/proc/self/smaps").open(encoding="utf-8", errors="replace") as smaps:
        for line in smaps:
            key, _, rest = line.partition(" ")
            if not key.endswith(":"):
                start, _, end = key.partition("-")
                is_code = rest.startswith("r-xp") and "/" in rest
                is_constant = rest.startswith("r--p") and ".so" in rest.rpartition("/")[2]
                place = (int(start, 16), int(end, 16)) if is_code or is_constant else None
            elif key == "Anonymous:":
                untouched = rest.split()[0] == "0"
            elif key == "Swap:" and place and untouched and rest.split()[0] == "0":
                yield place
