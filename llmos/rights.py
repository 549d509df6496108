"""One thread acts as another user: what it connects to then sees that user, and no longer root.

`guard.caller` changes with whose rights *files* are looked at. Here the effective ids change as well, which
are what a Unix socket's peer is told (SO_PEERCRED): a service manager or polkit then judges the caller, not
the broker. The raw system calls are used because glibc's change every thread (nptl(7)). The real and saved
ids stay root's, so the thread comes back; between the two nothing of the caller's runs in it.

For nobody but root's daemon and other callers does it do anything.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llmos.errors import SandboxUnavailable

# setgroups, setresuid, setresgid (asm/unistd.h)
_NUMBERS = {
    "x86_64": (116, 117, 119),
    "aarch64": (159, 147, 149),
    "riscv64": (159, 147, 149),
    "ppc64le": (81, 164, 169),
    "s390x": (206, 208, 210),
}
_KEEP = -1


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """In this thread, until the end of the block, we are `uid`. Raises SandboxUnavailable."""
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    libc = _libc()
    before = (os.getgroups(), os.getegid(), libc.setfsgid(_KEEP), libc.setfsuid(_KEEP))
    gid, groups = _account(uid)
    try:
        _change(groups, gid, uid)
        yield
    finally:
        _change_back(*before)


def _account(uid: int) -> tuple[int, list[int]]:
    """Group and all groups of an account; one that does not exist has no groups worth having."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return 65534, [65534]
    return entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)


def _change(groups: Sequence[int], gid: int, uid: int) -> None:
    """Groups while we still may, then the ids."""
    setgroups, setresuid, setresgid = _numbers()
    ids = (ctypes.c_uint32 * len(groups))(*groups)
    _call(setgroups, len(groups), ids)
    _call(setresgid, _KEEP, gid, _KEEP)
    _call(setresuid, _KEEP, uid, _KEEP)


def _change_back(groups: Sequence[int], gid: int, fsgid: int, fsuid: int) -> None:
    """The file rights last: they follow the effective ids, and may have been another caller's before."""
    setgroups, setresuid, setresgid = _numbers()
    _call(setresuid, _KEEP, 0, _KEEP)
    _call(setresgid, _KEEP, gid, _KEEP)
    ids = (ctypes.c_uint32 * len(groups))(*groups)
    _call(setgroups, len(groups), ids)
    _libc().setfsgid(fsgid)
    _libc().setfsuid(fsuid)


def _numbers() -> tuple[int, int, int]:
    found = _NUMBERS.get(platform.machine())
    if found is None:
        raise SandboxUnavailable(
            f"acting for another user is not known for {platform.machine()}", "Use a daemon of your own."
        )
    return found


def _call(number: int, *args: object) -> None:
    if _libc().syscall(number, *args) != 0:
        raise SandboxUnavailable(
            f"the service cannot act for another user: {os.strerror(ctypes.get_errno())}",
            "Give it CAP_SETUID and CAP_SETGID.",
        )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
