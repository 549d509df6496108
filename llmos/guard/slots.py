"""Moving one file between its place and the store: into place, out of it, or the two exchanged.

On one mount each is a single rename, and a name that is replaced is never missing. Between mounts the
old content is copied into the store first (SLOT.before, or SLOT.after on the way back), then the new one to
a name of ours beside the place, and only then names change: a full disk is met before anything is touched.
Each function can be called again after a crash at any point of it. What is displaced is looked at after the
move, when nobody can swap it any more: if it is not what was expected, the move is taken back and `Conflict`
raised.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmos.guard import nodes
from llmos.guard.dirfd import copy_content, exchange, move_to_free, set_xattrs, xattr_path, xattrs_of
from llmos.guard.nodes import Node

OnStep = Callable[[str], None]  # told what is about to be done; what a test of crashes hooks into
Mark = Literal["before", "after"]  # of content that is kept while names change: which end of the change it is
_OTHER: dict[Mark, Mark] = {"before": "after", "after": "before"}


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
    mark: Mark  # of what is displaced in this direction
    keep: bool  # whether what is displaced will be wanted again
    on_step: OnStep

    @property
    def kept(self) -> str:
        """The name of what this direction displaces, until it has the slot."""
        return f"{self.slot}.{self.mark}"

    @property
    def kept_by_other(self) -> str:
        return f"{self.slot}.{_OTHER[self.mark]}"

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
    _sync_folder(place)
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
    _keep(place, expected)
    place.on_step("set aside")
    _move(place, place.folder_fd, place.name, place.folder_fd, place.beside)
    if not nodes.same(nodes.read(place.folder_fd, place.beside), expected):
        _move(place, place.folder_fd, place.beside, place.folder_fd, place.name)
        _unlink(place.objects_fd, place.kept)
        raise Conflict(place.path)
    _put_away(place)


def swap(place: Place, expected: Node) -> None:
    """The slot's content and the file at the name change places."""
    if place.near:
        place.on_step("swap")
        exchange(place.objects_fd, place.slot, place.folder_fd, place.name)
        if not nodes.same(nodes.read(place.objects_fd, place.slot), expected):
            exchange(place.objects_fd, place.slot, place.folder_fd, place.name)
            raise Conflict(place.path)
        return
    _keep(place, expected)
    _copy_beside(place)
    place.on_step("swap")
    exchange(place.folder_fd, place.beside, place.folder_fd, place.name)
    if not nodes.same(nodes.read(place.folder_fd, place.beside), expected):
        exchange(place.folder_fd, place.beside, place.folder_fd, place.name)
        _unlink(place.folder_fd, place.beside)
        _unlink(place.objects_fd, place.kept)
        raise Conflict(place.path)
    _put_away(place)


def finish(place: Place, *, done: bool, untouched: bool) -> None:
    """After a crash between mounts: complete or forget what was begun at this name, in either direction.

    Where the name is neither what it was nor what it is to be, everything is left for a person to find.
    """
    if place.near or not (done or untouched):
        return
    if is_there(place, place.kept_by_other):  # the way we came from stopped here
        if untouched:
            _put_away(place, place.kept_by_other)
        else:
            _unlink(place.objects_fd, place.kept_by_other)
            _unlink(place.folder_fd, place.beside)
    elif done:
        _put_away(place)
    else:
        _unlink(place.folder_fd, place.beside)
        _unlink(place.objects_fd, place.kept)


def rewrite(place: Place, before: Node, after: Node) -> None:
    """New content for a file that has other names: it stays the same file, so it is written, not replaced.

    What it held is kept first. If that is there, writing had begun, and is done again.
    """
    if not is_there(place, place.kept):
        _keep_content(place, before)
    place.on_step("write")
    _write_over(place, place.slot, before.ino, after)
    place.on_step("the old content takes the slot")
    _rename(place.objects_fd, place.kept, place.slot)


def unwrite(place: Place, before: Node) -> None:
    """Give a file that the other direction was rewriting its old content back."""
    _write_over(place, place.kept_by_other, before.ino, before)
    place.on_step("unwritten")
    _unlink(place.objects_fd, place.kept_by_other)


def is_there(place: Place, kept: str) -> bool:
    """Whether something is kept under that name: its direction began here and did not end."""
    return nodes.read(place.objects_fd, kept).kind != "absent"


def _keep_content(place: Place, expected: Node) -> None:
    """What stands at the name, copied into the store and on disk there."""
    if not nodes.same(nodes.read(place.folder_fd, place.name), expected):
        raise Conflict(place.path)
    fresh = f"{place.slot}.new"
    _copy(place.folder_fd, place.name, place.objects_fd, fresh, place.on_step)
    place.on_step("keep the old content")
    _rename(place.objects_fd, fresh, place.kept)
    os.fsync(place.objects_fd)


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


def _keep(place: Place, expected: Node) -> None:
    if place.keep:
        _keep_content(place, expected)


def _sync_folder(place: Place) -> None:
    """The names are on disk before the store forgets what one of them stood for."""
    with contextlib.suppress(PermissionError):  # a folder its owner may change and not read
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.folder_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _put_away(place: Place, kept: str = "") -> None:
    """Names have changed: what was kept takes the slot, and the displaced file itself is not needed."""
    kept = kept or place.kept
    if is_there(place, kept):
        _sync_folder(place)
        place.on_step("store")
        _rename(place.objects_fd, kept, place.slot)
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
    try:
        with contextlib.ExitStack() as held:
            source = _open(held, from_fd, name, os.O_RDONLY)
            target = _open(held, to_fd, new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            copy_content(source, target)
            on_step("copied")
            set_xattrs(xattr_path(target), xattrs_of(xattr_path(source)))
            dress_fd(target, node)
            os.fsync(target)
    except OSError:  # what a full disk cut off takes up room that giving up may need
        _unlink(to_fd, new)
        raise


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
