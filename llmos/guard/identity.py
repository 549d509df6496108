"""Who a caller's command runs as: in the kernel's eyes, and in its own.

    broker          caller          the kernel sees             files
    root            root            the stand-in (uid 61000)    ID-mapped: root's stay root's
    root            another user    that user, his groups       as they are
    a plain user    himself         himself                     as they are

Host uid 0 never; the launcher asserts it again right before the exec. A root caller's command has root's
rights over root's files alone, not over other users' private ones.
"""

from __future__ import annotations

import functools
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path

from llmos.errors import SandboxUnavailable
from llmos.guard import sandbox
from llmos.messages import Caller

_ACCOUNT_KEPT_S = 10


@dataclass(frozen=True, slots=True)
class Identity:
    user: str
    home: str
    host_uid: int
    host_gid: int
    groups: tuple[int, ...]
    id_mapped: bool


def identity(caller: Caller) -> Identity:
    """Who the kernel will see for this caller. Raises SandboxUnavailable where it could only be uid 0."""
    user, home = _account(caller.uid)
    if os.geteuid() != 0:
        if caller.uid != os.geteuid():
            raise SandboxUnavailable(
                f"a daemon of uid {os.geteuid()} cannot run a command as uid {caller.uid}",
                "Use your own daemon, or the system service.",
            )
        return Identity(user, home, os.geteuid(), os.getegid(), (), id_mapped=False)
    if caller.uid == 0:
        return Identity(user, home, stand_in_id(), stand_in_id(), (), id_mapped=True)
    groups = os.getgrouplist(user, caller.gid) if user else [caller.gid]
    return Identity(user, home, caller.uid, caller.gid, tuple(sorted({*groups} - {0})), id_mapped=False)


def _account(uid: int) -> tuple[str, str]:
    own = os.environ.get("HOME", "") if uid == os.geteuid() else ""
    name, home = _entry(uid, int(time.monotonic() / _ACCOUNT_KEPT_S))
    return name, own or home


@functools.lru_cache(maxsize=64)
def _entry(uid: int, period: int) -> tuple[str, str]:
    """Name and home. Looked up once a period: it may ask a server, and reads the whole file of accounts."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return "", "/"
    return entry.pw_name, entry.pw_dir


@functools.cache
def stand_in_id() -> int:
    """The uid and gid a root caller's commands run as: nobody's, and one this namespace knows."""
    usable = [
        (int(inside), int(inside) + int(length) - 1)
        for inside, _, length in map(str.split, Path("/proc/self/uid_map").read_text().splitlines())
    ]
    if any(first <= sandbox.STAND_IN_ID <= last for first, last in usable):
        return sandbox.STAND_IN_ID
    if os.geteuid() != 0 or (last := max(last for _, last in usable)) == 0:
        # Never used by a plain user's daemon; for root in a namespace of one uid the launcher refuses.
        return sandbox.STAND_IN_ID
    return last
