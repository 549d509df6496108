"""Thin wrappers of system calls that Python 3.11 lacks, through ctypes; those about mounts are in `mounts`.

One function per call, `OSError` with the call's name on failure; nothing is decided here. Standard
library only, because the launcher runs without site-packages.

Sources: clone(2), unshare(2), prctl(2), capabilities(7), close_range(2). The numbers of
calls added since Linux 5.0 are the same on every architecture Python runs on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_NR_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "loongarch64": 220, "ppc64le": 120}
_NR_CLOSE_RANGE = 436

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
MAX_CAPABILITY = 63
# Being uid 0 and changing uids gives no capability, and these bits cannot be changed back.
SECURE_NOROOT_LOCKED = 0x01 | 0x02 | 0x04 | 0x08 | 0x20
BPF_INSTRUCTION_BYTES = 8

# PyDLL keeps the GIL: after a clone the child must not wait for a lock that nobody is left to release.
libc = ctypes.PyDLL(None, use_errno=True)
# Each argument as wide as a pointer: a C int pushed through varargs leaves its upper half undefined.
plain_syscall = libc.syscall
plain_syscall.restype = ctypes.c_long
plain_syscall.argtypes = (ctypes.c_long, *(ctypes.c_void_p,) * 6)
_UNUSED = (None,) * 6


def checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(what: str, number: int, *args: object) -> int:
    """syscall(2) with numbers, bytes, None, and what ctypes passes by reference. Raises OSError."""
    return checked(plain_syscall(number, *args, *_UNUSED[len(args) :]), what)


def clone(flags: int) -> int:
    """fork(2) whose child is born in new namespaces: its pid in the parent, 0 in the child.

    Sound only in a process with one thread that registered nothing at_fork, as the launcher and the nursery.
    """
    machine = os.uname().machine
    if machine not in _NR_CLONE:
        raise OSError(errno.ENOSYS, f"clone: its number on {machine} is not known here")
    return syscall("clone", _NR_CLONE[machine], flags | signal.SIGCHLD, 0, 0, 0, 0)


def unshare(flags: int) -> None:
    checked(libc.unshare(ctypes.c_int(flags)), "unshare")


def close_from(first_fd: int) -> None:
    syscall("close_range", _NR_CLOSE_RANGE, first_fd, 0xFFFFFFFF, 0)


def prctl(what: str, option: int, *values: int) -> None:
    padded = [*values, 0, 0, 0, 0][:4]
    checked(libc.prctl(option, *map(ctypes.c_ulong, padded)), f"prctl {what}")


def set_no_new_privs() -> None:
    prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """The kernel kills us when our parent ends. A change of uid forgets it, so call it after that."""
    prctl("pdeathsig", PR_SET_PDEATHSIG, signal.SIGKILL)


def capabilities() -> tuple[int, int, int]:
    """Effective, permitted and inheritable ones of this process, a bit each: capget(2)."""
    sets = (ctypes.c_uint32 * 6)()  # the three, twice
    checked(libc.capget(_capability_header(), sets), "capget")
    low, high = sets[:3], sets[3:]
    return low[0] | high[0] << 32, low[1] | high[1] << 32, low[2] | high[2] << 32


def set_inheritable_capabilities(wanted: int) -> None:
    """The inheritable ones, and none that is ambient."""
    prctl("cap_ambient", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    sets = [
        half
        for shift in (0, 32)
        for half in (all_ >> shift & 0xFFFFFFFF for all_ in (*capabilities()[:2], wanted))
    ]
    checked(libc.capset(_capability_header(), (ctypes.c_uint32 * 6)(*sets)), "capset")


def _capability_header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)


class kept_across_exec:
    """Programs started meanwhile keep our capabilities: who is root nowhere but by a user namespace loses
    them otherwise (capabilities(7), "Transformation of capabilities during execve")."""

    def __enter__(self) -> None:
        _, permitted, self._inheritable = capabilities()
        set_inheritable_capabilities(permitted)
        for capability in range(MAX_CAPABILITY + 1):
            if permitted >> capability & 1:
                prctl("cap_ambient", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)

    def __exit__(self, *_: object) -> None:
        set_inheritable_capabilities(self._inheritable)
