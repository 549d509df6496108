"""The kernel's mount API by file descriptor, through ctypes: what the sandbox's launcher itself does with it.

Thin and exact: one function per system call, `OSError` with the call's name on failure. It decides
nothing; what a fork does with the same calls stands in `mountsteps`. Standard library only, because the
launcher runs without site-packages.

Sources: open_tree(2), move_mount(2), mount_setattr(2), fsopen(2), openat2(2). The numbers
of system calls added since Linux 5.0 are the same on every architecture Python runs on.
"""

from __future__ import annotations

import ctypes
import os

from llmos.guard.kernel import checked as _checked
from llmos.guard.kernel import libc as _libc
from llmos.guard.kernel import syscall as _syscall

_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
BOTH_BY_DESCRIPTOR = 0x04 | 0x40  # MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH

ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4
ATTR_NOEXEC = 0x8
ATTR_IDMAP = 0x00100000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
LITERALLY = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS

_MS_REC = 0x4000
_MS_SLAVE = 1 << 19
MNT_DETACH = 2
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FD_CLOEXEC_FLAG = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC alike


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def follow_host() -> None:
    """Hear of mount events of the namespace this one was copied from, and tell it of none."""
    _checked(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None), "mount slave /")


def detach(path: str) -> None:
    """Unmount what is mounted at `path` and all below it."""
    _checked(_libc.umount2(os.fsencode(path), ctypes.c_int(MNT_DETACH)), f"umount2 {path}")


def open_tree(dir_fd: int, path: str = "", *, recursive: bool = True) -> int:
    """A detached copy of the mount at `path` (a bind mount nobody can see yet)."""
    flags = OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    flags |= AT_RECURSIVE if recursive else 0
    flags |= 0 if path else AT_EMPTY_PATH
    return _syscall(f"open_tree {path}", _NR_OPEN_TREE, dir_fd, os.fsencode(path), flags)


def open_tree_at(path: str, *, recursive: bool = True) -> int:
    return open_tree(AT_FDCWD, path, recursive=recursive)


def set_attr(
    tree_fd: int, path: str = "", *, attrs: int = 0, recursive: bool = False, userns_fd: int | None = None
) -> None:
    """Set mount attributes; with `userns_fd`, ID-map the (detached) mount by that user namespace."""
    attr = _MountAttr(attr_set=attrs)
    if userns_fd is not None:
        attr.attr_set |= ATTR_IDMAP
        attr.userns_fd = userns_fd
    flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    _syscall(
        f"mount_setattr {path}",
        _NR_MOUNT_SETATTR,
        tree_fd,
        os.fsencode(path),
        flags,
        ctypes.byref(attr),
        ctypes.sizeof(attr),
    )


def attach(tree_fd: int, target_fd: int) -> None:
    """Mount the detached tree on what `target_fd` (O_PATH) stands for: no path is looked up again."""
    _syscall("move_mount", _NR_MOVE_MOUNT, tree_fd, b"", target_fd, b"", BOTH_BY_DESCRIPTOR)


def tmpfs(*, num_bytes: int, mode: int = 0o755, uid: int = 0, gid: int = 0, attrs: int = 0) -> int:
    """A detached, empty tmpfs."""
    options = {"size": str(num_bytes), "mode": f"{mode:o}", "uid": str(uid), "gid": str(gid)}
    return _new_mount("tmpfs", options, attrs=attrs)


def _new_mount(fs_type: str, options: dict[str, str], *, attrs: int) -> int:
    context = _syscall(f"fsopen {fs_type}", _NR_FSOPEN, fs_type.encode(), FD_CLOEXEC_FLAG)
    try:
        for key, value in options.items():
            what, text = f"fsconfig {fs_type} {key}={value}", value.encode()
            _syscall(what, _NR_FSCONFIG, context, FSCONFIG_SET_STRING, key.encode(), text, 0)
        _syscall(f"fsconfig {fs_type}", _NR_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(f"fsmount {fs_type}", _NR_FSMOUNT, context, FD_CLOEXEC_FLAG, attrs)
    finally:
        os.close(context)


def open_path(path: str, *, dir_fd: int = AT_FDCWD, resolve: int = RESOLVE_NO_MAGICLINKS) -> int:
    """openat2 with O_PATH: a handle on a place, under the given rules of resolution."""
    return open_how(path, os.O_PATH | os.O_CLOEXEC, dir_fd=dir_fd, resolve=resolve)


def open_how(path: str, flags: int, *, dir_fd: int = AT_FDCWD, resolve: int) -> int:
    """openat2(2): open under the given rules of resolution."""
    how = _OpenHow(flags=flags, resolve=resolve)
    return _syscall(
        f"openat2 {path}",
        _NR_OPENAT2,
        dir_fd,
        os.fsencode(path),
        ctypes.byref(how),
        ctypes.sizeof(how),
    )
