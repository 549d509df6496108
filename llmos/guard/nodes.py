"""What stands at a name: nothing, a file, a folder, a link, or something else; and whether it still does.

A `Node` is what was seen at one moment. Comparing two tells a thing that was left alone from one that was
changed, replaced or swapped meanwhile. It holds no content: the inode with its size and times stands for it.
"""

from __future__ import annotations

import base64
import os
import stat
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

from llmos.guard.dirfd import lstat_at, xattr_path, xattrs_of

Kind = Literal["absent", "file", "dir", "link", "other"]


@dataclass(frozen=True, slots=True)
class Node:
    kind: Kind
    dev: int = 0
    ino: int = 0
    mode: int = 0  # permission bits
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    nlink: int = 0
    num_bytes: int = 0  # what it takes on the disk
    target: str = ""  # of a link
    xattrs: tuple[tuple[str, str], ...] = ()  # name and base64; looked at where they are needed

    def to_json(self) -> list[Any]:
        return list(astuple(self))

    def attributes(self) -> tuple[object, ...]:
        return self.mode, self.uid, self.gid, self.xattrs


ABSENT = Node("absent")
_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}


def from_json(values: list[Any]) -> Node:
    xattrs = tuple((name, value) for name, value in values[-1])
    return replace(Node(*values[:-1]), xattrs=xattrs)


def of(seen: os.stat_result | None, target: str = "", xattrs: tuple[tuple[str, str], ...] = ()) -> Node:
    if seen is None:
        return ABSENT
    return Node(
        _KINDS.get(stat.S_IFMT(seen.st_mode), "other"),
        seen.st_dev, seen.st_ino, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_size,
        seen.st_mtime_ns, seen.st_ctime_ns, seen.st_nlink, seen.st_blocks * 512, target, xattrs,
    )  # fmt: skip


def read(dir_fd: int, name: str, *, attributes: bool = False) -> Node:
    """What `name` in the folder stands for; with `attributes`, its extended attributes too."""
    seen = lstat_at(dir_fd, name)
    if seen is None:
        return ABSENT
    target = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(seen.st_mode) else ""
    return of(seen, target, _attributes(dir_fd, name) if attributes else ())


def read_fd(fd: int) -> Node:
    """What an open folder or file is, extended attributes and all."""
    return of(os.fstat(fd), "", encoded(xattrs_of(xattr_path(fd))))


def _attributes(dir_fd: int, name: str) -> tuple[tuple[str, str], ...]:
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return encoded(xattrs_of(xattr_path(fd)))
    finally:
        os.close(fd)


def encoded(xattrs: dict[str, bytes]) -> tuple[tuple[str, str], ...]:
    return tuple((name, base64.b64encode(xattrs[name]).decode()) for name in sorted(xattrs))


def decoded(xattrs: tuple[tuple[str, str], ...]) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in xattrs}


def same(found: Node, wanted: Node, *, strict: bool = False) -> bool:
    """Whether `found` is the thing `wanted` was. `strict`: not even its links or attributes were touched.

    The number of an inode says nothing on another file system, nor where devices were numbered anew.
    """
    if found.kind != wanted.kind or found.kind == "absent":
        return found.kind == wanted.kind
    if found.kind == "dir" and not strict:
        return True
    elsewhere = found.dev != wanted.dev
    same_file = elsewhere or found.ino == wanted.ino
    untouched = found.kind == "dir" or not strict or found.ctime_ns == wanted.ctime_ns
    return same_file and untouched and _looks(found) == _looks(wanted)


def same_folder(found: Node, wanted: Node) -> bool:
    """Whether it is that very folder, whatever has become of it."""
    return found.dev != wanted.dev or found.ino == wanted.ino


def _looks(node: Node) -> tuple[object, ...]:
    """A link's mode means nothing, and a folder's size and time follow what is in it."""
    if node.kind == "link":
        return node.target, node.uid, node.gid
    owner = node.mode, node.uid, node.gid
    return owner if node.kind == "dir" else (*owner, node.size, node.mtime_ns)
