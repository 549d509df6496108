"""Keeping the broker small, its start short and its answers prompt.

`leave_out` is to be called before the rest of the daemon is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import struct
import sys
import types

from llmos import heap
from llmos.guard import kernel


def leave_out() -> None:
    """All that the broker does without; while it starts, the search for garbage, of which there is none."""
    gc.disable()
    _one_heap()
    _leave_out_openssl()
    _leave_out_plugins()
    _leave_out_syntax_trees()


def give_back() -> None:
    """Return what the heap holds free to the machine: reading policies leaves megabytes.

    What is left will stay, and later searches pass it over.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    heap.give_back()


_SLICE_NS = 200_000
_RESET_ON_FORK = 1  # SCHED_FLAG_RESET_ON_FORK: neither our threads nor the planner and what commands start
_NR_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "loongarch64": 274, "ppc64le": 355}


def answer_promptly() -> None:
    """Ask for short slices of processor time for the thread that talks to everybody (sched_setattr(2)).

    Its share stays the same, but when a client writes it is sooner its turn beside a planner that computes.
    Since Linux 6.12; elsewhere nothing changes.
    """
    number = _NR_SCHED_SETATTR.get(os.uname().machine)
    if number is not None and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        asked = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, _SLICE_NS, 0, 0)
        with contextlib.suppress(OSError):
            kernel.syscall("sched_setattr", number, 0, asked, 0)


_M_ARENA_MAX = -8  # malloc.h


def _one_heap() -> None:
    """All threads share one heap (mallopt(3)): one of each thread's own keeps a megabyte in its gaps."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _leave_out_openssl() -> None:
    """Let asyncio and hashlib, which take OpenSSL where they find it, do without: 4 MB of the broker's 60.

    The broker speaks TLS to nobody and hashes only short lines. Who imports ssl later still gets it.
    """
    left_out = [name for name in ("ssl", "_hashlib") if name not in sys.modules]
    for name in left_out:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    try:
        import asyncio  # noqa: F401
        import hashlib  # noqa: F401
        import hmac  # noqa: F401
    finally:
        for name in left_out:
            del sys.modules[name]


def _leave_out_plugins() -> None:
    """Let pydantic find no plug-ins: the library that looks for them among all that is installed takes 3 MB.

    None is wanted in here either: the broker runs no code that somebody else has put beside it.
    """
    looks = "importlib.metadata"
    if looks in sys.modules:
        return
    stand_in = types.ModuleType(looks)
    stand_in.__dict__["entry_points"] = lambda **_: ()
    sys.modules[looks] = stand_in
    try:
        import pydantic.plugin._loader  # noqa: F401
    finally:
        del sys.modules[looks]


def _leave_out_syntax_trees() -> None:
    """Cedar's policies as trees of Python objects, some hundred classes that nobody here makes one of."""
    sys.modules.setdefault("cedarpy.pst", types.ModuleType("cedarpy.pst"))
