"""Looking at files as the caller: what root's daemon finds out for somebody must be what they may see.

Else the daemon would be a confused deputy: a glob, a followed link or a `stat` in a folder that the caller
cannot enter would tell, in effects and verdicts, what lies there. File system rights of the calling
*thread* change (setfsuid(2), setfsgid(2) and the raw setgroups(2), which glibc would otherwise apply to
every thread); with them go the capabilities that override file permissions (capabilities(7)).

For nobody but root's daemon and other callers does it do anything. Not protected against: what is read
while it is not in force, such as the policy files themselves.
"""

from __future__ import annotations

import ctypes
import functools
import grp
import os
import platform
import pwd
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llmos.errors import SandboxUnavailable
from llmos.messages import Caller

_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81, "s390x": 206}
_NOBODY = -1  # an id that setfsuid refuses: it then only tells the present one
_ACCOUNTS_LIVE_S = 10


@contextmanager
def as_caller(caller: Caller) -> Iterator[None]:
    """In this thread, until the end of the block, files are looked at with the caller's rights.

    Raises SandboxUnavailable when that cannot be had: then nothing is looked at.
    """
    if os.geteuid() != 0 or caller.uid == 0:
        yield
        return
    before = (_libc().setfsuid(_NOBODY), _libc().setfsgid(_NOBODY), os.getgroups())
    _become(caller.uid, caller.gid, _group_ids(caller.uid, caller.gid))
    try:
        yield
    finally:
        _become(*before)


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Groups while we still may, then the ids; checked, because setfsuid reports no error."""
    libc = _libc()
    libc.setfsuid(0)  # gives back the capability that setgroups needs, when returning
    ids = (ctypes.c_uint32 * len(groups))(*groups)
    number = _SETGROUPS.get(platform.machine())
    done = number is not None and libc.syscall(number, len(groups), ids) == 0
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    if not done or libc.setfsuid(_NOBODY) != uid or libc.setfsgid(_NOBODY) != gid:
        libc.setfsuid(0)
        raise SandboxUnavailable(
            f"files cannot be looked at with the rights of uid {uid}",
            "Give the service CAP_SETUID and CAP_SETGID, on one of: " + ", ".join(sorted(_SETGROUPS)) + ".",
        )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


# --- who a uid is ---------------------------------------------------------------------------------------


def account(uid: int, gid: int) -> tuple[str, tuple[str, ...]]:
    """(user name, names of all groups); ids stand in for names that there are not."""
    return _account(uid, gid, int(time.monotonic()) // _ACCOUNTS_LIVE_S)


@functools.lru_cache(maxsize=256)
def _account(uid: int, gid: int, _age: int) -> tuple[str, tuple[str, ...]]:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return name, tuple(sorted(_group_name(group) for group in _group_ids(uid, gid)))


def _group_ids(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
