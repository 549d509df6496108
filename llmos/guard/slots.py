"""Moving one file between its place and the store: into place, out of it, or the two exchanged.

On one mount each is a single rename, and a name that is replaced is never missing. Between mounts the
content is copied first, to a name of ours beside the place, and renamed from there. Each function can be
called again after a crash at any point of it. What is displaced is looked at after the move, when nobody
can swap it any more: if it is not what was expected, the move is taken back and `Conflict` raised.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from llmos.guard import nodes
from llmos.guard.dirfd import copy_content, exchange, move_to_free, set_xattrs, xattr_path, xattrs_of
from llmos.guard.nodes import Node

OnStep = Callable[[str], None]  # told what is about to be done; what a test of crashes hooks into


def unheard(step: str) -> None:
    pass


class Conflict(Exception):
    """Something else stands at a name than what was there when the change was made out."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a folder, the slot it belongs to, and how the two are connected."""

    folder_fd: int
    name: str
    path: str  # for messages
    objects_fd: int
    slot: str
    near: bool  # the same mount: a rename will do
    on_step: OnStep

    @property
    def beside(self) -> str:
        return f".llmos-{self.slot}-{os.fstat(self.objects_fd).st_ino}"


def put(place: Place) -> None:
    """The slot's content appears at the name, which must be free."""
    if place.near:
        place.on_step("put")
        _move(place, place.objects_fd, place.slot, place.folder_fd, place.name)
        return
    _copy_beside(place)
    place.on_step("put")
    _move(place, place.folder_fd, place.beside, place.folder_fd, place.name)
    place.on_step("empty the slot")
    _unlink(place.objects_fd, place.slot)


def take(place: Place, expected: Node) -> None:
    """The file at the name goes into the slot."""
    if place.near:
        place.on_step("take")
        _move(place, place.folder_fd, place.name, place.objects_fd, place.slot)
        if not nodes.same(nodes.read(place.objects_fd, place.slot), expected):
            _move(place, place.objects_fd, place.slot, place.folder_fd, place.name)
            raise Conflict(place.path)
        return
    place.on_step("set aside")
    _move(place, place.folder_fd, place.name, place.folder_fd, place.beside)
    if not nodes.same(nodes.read(place.folder_fd, place.beside), expected):
        _move(place, place.folder_fd, place.beside, place.folder_fd, place.name)
        raise Conflict(place.path)
    _store_beside(place)


def swap(place: Place, expected: Node) -> None:
    """The slot's content and the file at the name change places."""
    if place.near:
        place.on_step("swap")
        exchange(place.objects_fd, place.slot, place.folder_fd, place.name)
        if not nodes.same(nodes.read(place.objects_fd, place.slot), expected):
            exchange(place.objects_fd, place.slot, place.folder_fd, place.name)
            raise Conflict(place.path)
        return
    _copy_beside(place)
    place.on_step("swap")
    exchange(place.folder_fd, place.beside, place.folder_fd, place.name)
    if not nodes.same(nodes.read(place.folder_fd, place.beside), expected):
        exchange(place.folder_fd, place.beside, place.folder_fd, place.name)
        _unlink(place.folder_fd, place.beside)
        raise Conflict(place.path)
    _store_beside(place)


def finish(place: Place, *, done: bool) -> None:
    """After a crash between mounts: what lies beside was displaced if the change is made, else is waste."""
    if place.near or nodes.read(place.folder_fd, place.beside).kind == "absent":
        return
    if done:
        _store_beside(place)
    else:
        _unlink(place.folder_fd, place.beside)


def rewrite(place: Place, before: Node, after: Node, mark: str) -> None:
    """New content for a file that has other names: it stays the same file, so it is written, not replaced.

    What it held goes to SLOT.`mark` first. If that is there, writing had begun, and is done again.
    """
    if not kept(place, mark):
        if not nodes.same(nodes.read(place.folder_fd, place.name), before):
            raise Conflict(place.path)
        fresh = f"{place.slot}.new"
        _copy(place.folder_fd, place.name, place.objects_fd, fresh, place.on_step)
        place.on_step("keep the old content")
        _rename(place.objects_fd, fresh, f"{place.slot}.{mark}")
        os.fsync(place.objects_fd)
    place.on_step("write")
    _write_over(place, place.slot, before.ino, after)
    place.on_step("the old content takes the slot")
    _rename(place.objects_fd, f"{place.slot}.{mark}", place.slot)


def unwrite(place: Place, before: Node, mark: str) -> None:
    """Give a file that was being rewritten its old content back."""
    _write_over(place, f"{place.slot}.{mark}", before.ino, before)
    place.on_step("unwritten")
    _unlink(place.objects_fd, f"{place.slot}.{mark}")


def kept(place: Place, mark: str) -> bool:
    """Whether writing in that direction has begun and not ended."""
    return nodes.read(place.objects_fd, f"{place.slot}.{mark}").kind != "absent"


def _write_over(place: Place, source_name: str, ino: int, dress: Node) -> None:
    with contextlib.ExitStack() as held:
        source = _open(held, place.objects_fd, source_name, os.O_RDONLY)
        target = _open(held, place.folder_fd, place.name, os.O_WRONLY)
        if os.fstat(target).st_ino != ino:
            raise Conflict(place.path)
        copy_content(source, target)
        place.on_step("written")
        dress_fd(target, dress)
        os.fsync(target)


def _rename(folder_fd: int, old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)


def dress_fd(fd: int, wanted: Node) -> None:
    """Give an open file or folder (O_PATH will do) the owner, attributes, mode and time of `wanted`."""
    path = xattr_path(fd)
    seen = os.stat(path)
    if (seen.st_uid, seen.st_gid) != (wanted.uid, wanted.gid):
        os.chown(path, wanted.uid, wanted.gid)
    set_xattrs(path, nodes.decoded(wanted.xattrs))
    if stat.S_IMODE(seen.st_mode) != wanted.mode or seen.st_uid != wanted.uid:
        os.chmod(path, wanted.mode)
    os.utime(path, ns=(seen.st_atime_ns, wanted.mtime_ns))


# --- between mounts ----------------------------------------------------------------------------------


def _copy_beside(place: Place) -> None:
    _unlink(place.folder_fd, place.beside)
    _copy(place.objects_fd, place.slot, place.folder_fd, place.beside, place.on_step)


def _store_beside(place: Place) -> None:
    """The displaced file, which stands beside, is copied into the slot, and then no longer needed."""
    fresh = f"{place.slot}.new"
    _unlink(place.objects_fd, fresh)
    _copy(place.folder_fd, place.beside, place.objects_fd, fresh, place.on_step)
    place.on_step("store")
    _rename(place.objects_fd, fresh, place.slot)
    place.on_step("clear beside")
    _unlink(place.folder_fd, place.beside)


def _copy(from_fd: int, name: str, to_fd: int, new: str, on_step: OnStep) -> None:
    """A copy of a file or link with all that belongs to it, on disk when this returns."""
    on_step("copy")
    _unlink(to_fd, new)
    node = nodes.read(from_fd, name, attributes=True)
    if node.kind == "link":
        os.symlink(node.target, new, dir_fd=to_fd)
        os.chown(new, node.uid, node.gid, dir_fd=to_fd, follow_symlinks=False)
        os.utime(new, ns=(node.mtime_ns, node.mtime_ns), dir_fd=to_fd, follow_symlinks=False)
        return
    if node.kind != "file":
        raise OSError(95, "it is neither a file nor a link, so it cannot be kept on another file system")
    with contextlib.ExitStack() as held:
        source = _open(held, from_fd, name, os.O_RDONLY)
        target = _open(held, to_fd, new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        copy_content(source, target)
        on_step("copied")
        set_xattrs(xattr_path(target), xattrs_of(xattr_path(source)))
        dress_fd(target, node)
        os.fsync(target)


def _open(held: contextlib.ExitStack, folder: int, name: str, flags: int) -> int:
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
    held.callback(os.close, fd)
    return fd


def _move(place: Place, from_fd: int, old: str, to_fd: int, new: str) -> None:
    try:
        move_to_free(from_fd, old, to_fd, new)
    except (FileExistsError, FileNotFoundError) as error:
        raise Conflict(place.path) from error


def _unlink(folder_fd: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder_fd)
