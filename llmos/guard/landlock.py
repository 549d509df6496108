"""The second fence around files: Landlock (landlock(7)): what it is told; `fences.landlocked` tells it.

Read and run anything the tree shows, change files only below the named places, no TCP without network, no
abstract Unix socket and no signal to a process outside. It holds even if a mount of the tree were wrong
or writable by mistake. What this kernel's Landlock does not know yet is left to the other layers; a
kernel without it is reported by `llmos doctor`, and the other layers stand alone.

Not covered by it, whatever the kernel: chmod, chown, xattrs and times (the read-only mounts are there
for them), and Unix sockets by path (the system call filter is).
"""

from __future__ import annotations

import errno

from llmos.guard import kernel

_NR_CREATE_RULESET = 444
_CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 9, 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

_READ = EXECUTE | READ_FILE | READ_DIR
_WRITE = (
    WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM
    | REFER | TRUNCATE | IOCTL_DEV
)  # fmt: skip
OF_A_FILE = EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_ABSTRACT_SOCKET_AND_SIGNAL = 0b11
# What each version of the interface added to the rights over files: v2 REFER, v3 TRUNCATE, v5 IOCTL_DEV.
_KNOWN = {1: MAKE_SYM, 2: REFER, 3: TRUNCATE, 4: TRUNCATE}
_TCP_SINCE, _SCOPES_SINCE = 4, 6


def abi() -> int:
    """The version of the kernel's Landlock; 0 where it has none or it is switched off."""
    try:
        return kernel.syscall("landlock version", _NR_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def handled_rights(version: int) -> int:
    """All rights over files that this version knows: what no rule allows is then refused."""
    return (_KNOWN.get(version, IOCTL_DEV) << 1) - 1


def ruleset(version: int, *, network: bool) -> tuple[int, int, int]:
    """What is refused unless a rule allows it: rights over files, over TCP, and who can be reached."""
    return (
        handled_rights(version),
        _BIND_AND_CONNECT_TCP if version >= _TCP_SINCE and not network else 0,
        _SCOPE_ABSTRACT_SOCKET_AND_SIGNAL if version >= _SCOPES_SINCE else 0,
    )


def rights(version: int, *, writable: bool) -> int:
    """What a rule allows below a folder; for a file only those `OF_A_FILE`."""
    return (_READ | _WRITE if writable else _READ) & handled_rights(version)
