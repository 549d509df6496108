"""Files by directory descriptor: resolved beneath a folder, exchanged atomically, copied with all they are.

What `changes` and `commit` are written in. Thin over the system calls; `OSError` on failure. Nothing here
follows a symbolic link, and nothing is looked up by a path that a caller could have turned meanwhile.
Sources: openat2(2), renameat2(2), ioctl_ficlone(2), lseek(2) SEEK_DATA, xattr(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from llmos.errors import DiskFull
from llmos.guard import mounts

_BENEATH = (
    mounts.RESOLVE_BENEATH
    | mounts.RESOLVE_NO_SYMLINKS
    | mounts.RESOLVE_NO_MAGICLINKS
    | mounts.RESOLVE_NO_XDEV
)
_WHOLE = mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_MAGICLINKS
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_FICLONE = 0x40049409
_BLOCK = 1 << 20
# The view's own marks, and what gives a file rights that its writer need not have had.
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
NOT_CARRIED = (*OVERLAY_XATTRS, "security.capability", "security.selinux", "security.ima", "security.evm")

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def explain_full_disk(place: Path) -> Iterator[None]:
    """Say in a sentence what a full disk or quota would say by number."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"no space is left on the file system of {place}",
            "Nothing was changed. Make room, and try again.",
        ) from error


# --- opening -----------------------------------------------------------------------------------------


def open_whole(path: str, flags: int = os.O_RDONLY | os.O_DIRECTORY) -> int:
    """Open an absolute path of which no part may be a symbolic link."""
    return mounts.open_how(path, flags | os.O_CLOEXEC, resolve=_WHOLE)


def open_beneath(folder_fd: int, path: str, flags: int = os.O_RDONLY | os.O_DIRECTORY) -> int:
    """Open a path below a folder: no links, no `..`, and not into another mount."""
    return mounts.open_how(
        path or ".", flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd, resolve=_BENEATH
    )


def mount_id(fd: int) -> str:
    """Which mount a descriptor is on: within one, files can be renamed from folder to folder."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("mnt_id:"))


def fs_type(path: str) -> int:
    """The number of a file system's kind (statfs(2) f_type), of which glibc's struct begins with it."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int.from_bytes(buffer.raw[:4], "little")


# --- names -------------------------------------------------------------------------------------------


def _rename2(from_fd: int, old: str, to_fd: int, new: str, flags: int) -> None:
    if _libc.renameat2(from_fd, os.fsencode(old), to_fd, os.fsencode(new), ctypes.c_uint(flags)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old, None, new)


def move_to_free(from_fd: int, old: str, to_fd: int, new: str) -> None:
    """Rename; FileExistsError when the new name is taken."""
    _rename2(from_fd, old, to_fd, new, _RENAME_NOREPLACE)


def exchange(one_fd: int, one: str, other_fd: int, other: str) -> None:
    """Two names change places in one step: at no moment is either missing."""
    _rename2(one_fd, one, other_fd, other, _RENAME_EXCHANGE)


def lstat_at(dir_fd: int, name: str) -> os.stat_result | None:
    """What a name stands for, links not followed; None when there is nothing."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


# --- attributes --------------------------------------------------------------------------------------


def xattr_path(fd: int) -> str:
    """A path to exactly what `fd` (O_PATH does) stands for."""
    return f"/proc/self/fd/{fd}"


def xattrs_of(path: str) -> dict[str, bytes]:
    """Extended attributes, POSIX ACLs among them, that may be carried over; none where there are none."""
    try:
        names = [name for name in os.listxattr(path) if not name.startswith(NOT_CARRIED)]
        return {name: os.getxattr(path, name) for name in names}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.ENODATA):
            return {}
        raise


def set_xattrs(path: str, wanted: dict[str, bytes]) -> None:
    """Make the carried attributes exactly these."""
    have = xattrs_of(path)
    for name in have.keys() - wanted.keys():
        os.removexattr(path, name)
    for name, value in wanted.items():
        if have.get(name) != value:
            os.setxattr(path, name, value)


def strip_xattrs(path: str, prefixes: tuple[str, ...]) -> None:
    with contextlib.suppress(OSError):
        for name in os.listxattr(path):
            if name.startswith(prefixes):
                os.removexattr(path, name)


def copy_attributes(source: str, target: Path) -> None:
    """Owner, attributes, mode and times; setting the owner clears mode bits, so that comes first."""
    found = Path(source).stat()
    have = target.stat()
    if (found.st_uid, found.st_gid) != (have.st_uid, have.st_gid):
        os.chown(target, found.st_uid, found.st_gid)
    set_xattrs(str(target), xattrs_of(source))
    target.chmod(stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


# --- content -----------------------------------------------------------------------------------------


def copy_content(source_fd: int, target_fd: int) -> None:
    """All bytes, shared with the source where the file system can, holes left as holes where it cannot."""
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
            raise
    os.ftruncate(target_fd, 0)
    size = os.fstat(source_fd).st_size
    for start, end in extents(source_fd, size):
        _copy_range(source_fd, target_fd, start, end)
    os.ftruncate(target_fd, size)


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that hold data: a sparse file is mostly not there (lseek(2), SEEK_DATA)."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, min(position, size)


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(source_fd, min(_BLOCK, end - start), start)
        if not data:
            return
        view = memoryview(data)
        while view:
            written = os.pwrite(target_fd, view, start)
            start, view = start + written, view[written:]


def same_content(one_fd: int, other_fd: int) -> bool:
    """Whether two files hold the same bytes; holes are read as what they are, nothing."""
    size = os.fstat(one_fd).st_size
    if size != os.fstat(other_fd).st_size:
        return False
    spans = sorted([*extents(one_fd, size), *extents(other_fd, size)])
    position = 0
    for start, end in spans:
        position = max(position, start)
        while position < end:
            count = min(_BLOCK, end - position)
            one, other = os.pread(one_fd, count, position), os.pread(other_fd, count, position)
            if one != other:
                return False
            position += count
    return True


def sync_file_system(fd: int) -> None:
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
