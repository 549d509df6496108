"""What a command changed: a stage's upper layer compared with the write root below it.

The upper layer is hostile: names, depth, links and modes are the command's. It is walked by descriptors,
no link is followed, and what is no file, folder or link is left out and said. In overlayfs a character
device 0:0 is a deletion, and a folder marked opaque hides what lies below it (overlayfs(7)).

Not told apart: a change that was made and undone again while the command ran.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from llmos.errors import CallFailed
from llmos.guard import nodes
from llmos.guard.dirfd import open_whole, same_content, xattr_path
from llmos.guard.nodes import ABSENT, Node
from llmos.guard.staging import Root, Stage

MAX_DEPTH = 200  # folders below a root; each costs two descriptors while it is looked at
How = Literal["create", "replace", "delete", "write", "attributes"]
_OPPOSITE: dict[How, How] = {"create": "delete", "delete": "create"}
_OVERLAY = ("trusted.overlay.", "user.overlay.")


@dataclass(frozen=True, slots=True)
class Change:
    """One name and what stands there before and after. `path` is relative to the root's folder.

    How it is made: `create`, `replace` and `delete` a name; `write` new content into a file that has other
    names (hard links) and keeps them; `attributes` alone: mode, owner, extended attributes, times.
    """

    root: int
    path: str
    how: How
    before: Node
    after: Node

    def reversed(self) -> Change:
        return Change(self.root, self.path, _OPPOSITE.get(self.how, self.how), self.after, self.before)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder in which names change, or which itself does: how it is to look when all is done."""

    root: int
    path: str
    before: Node
    after: Node

    @property
    def changes_itself(self) -> bool:
        """Whether it was there before and changes in mode, owner or extended attributes."""
        there = self.before.kind == self.after.kind == "dir"
        return there and self.before.attributes() != self.after.attributes()

    def reversed(self) -> Folder:
        return Folder(self.root, self.path, self.after, self.before)


@dataclass(slots=True)
class Found:
    """All changes in the order they can be made, and the folders they touch, parents first."""

    changes: list[Change] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # path, why

    def __bool__(self) -> bool:
        return bool(self.changes) or any(folder.changes_itself for folder in self.folders)

    def attribute_changes(self) -> Iterator[Folder]:
        """Folders that were there before and change in mode, owner or extended attributes."""
        return (folder for folder in self.folders if folder.changes_itself)


def find(stage: Stage) -> Found:
    """Everything the commands on this stage changed. Raises CallFailed for what cannot be looked through."""
    found = Found()
    for number, root in enumerate(stage.roots):
        _Walk(number, root, stage, found).run()
    return found


@dataclass(frozen=True, slots=True)
class _Level:
    """A folder of the layer and, where there is one, the folder it lies over."""

    path: str
    upper: int
    lower: int | None
    depth: int

    def inside(self, name: str) -> str:
        return os.path.join(self.path, name)


class _Walk:
    """One root's layer. Three lists, because a name is freed first, and emptied folders go last."""

    def __init__(self, number: int, root: Root, stage: Stage, found: Found) -> None:
        self._number, self._root, self._stage, self._found = number, root, stage, found
        self._freed: list[Change] = []
        self._made: list[Change] = []
        self._gone: list[Change] = []
        self._written: set[int] = set()  # inodes with several names, of which one is enough
        self._touched: set[str] = set()  # folders in which a name changes

    def run(self) -> None:
        with contextlib.ExitStack() as held:
            lower = _held(held, open_whole(self._root.folder))
            if not nodes.same_folder(nodes.read_fd(lower), self._stage.root_nodes[self._number]):
                raise CallFailed(f"{self._root.folder} was replaced while the command ran", "Try again.")
            upper = _held(held, open_whole(str(self._stage.upper(self._number))))
            self._folder(_Level("", upper, lower, 0))
        self._found.changes += [*self._freed, *self._made, *self._gone]

    def _folder(self, level: _Level) -> None:
        """A folder that lies over one: only what is in the layer differs, and all if it is opaque."""
        assert level.lower is not None
        before, after = nodes.read_fd(level.lower), nodes.read_fd(level.upper)
        here = Folder(self._number, level.path, before, replace(after, dev=before.dev, ino=before.ino))
        place = len(self._found.folders)
        self._contents(level)
        if _is_opaque(level.upper):
            for name in sorted({*os.listdir(level.lower)} - {*os.listdir(level.upper)}):
                self._delete(level, name, self._gone)
        if level.path in self._touched or here.before.attributes() != here.after.attributes():
            self._found.folders.insert(place, here)

    def _contents(self, level: _Level) -> None:
        if level.depth > MAX_DEPTH:
            raise _too_deep(level.path)
        for name in sorted(os.listdir(level.upper)):
            if not (self._root.only and name != self._root.only):
                self._entry(level, name)

    def _entry(self, level: _Level, name: str) -> None:
        after = nodes.read(level.upper, name, attributes=True)
        before = ABSENT if level.lower is None else nodes.read(level.lower, name, attributes=True)
        if _is_whiteout(level.upper, name):
            if before.kind != "absent":
                self._delete(level, name, self._gone)
        elif after.kind == "dir":
            self._subfolder(level, name, before, after)
        elif after.kind == "other":
            why = "a named pipe, socket or device is not made"
            self._found.left_out.append((level.inside(name), why))
        else:
            if before.kind == "dir":
                self._delete(level, name, self._freed)
                before = ABSENT
            self._file(level, name, before, after)

    def _subfolder(self, level: _Level, name: str, before: Node, after: Node) -> None:
        path = level.inside(name)
        with contextlib.ExitStack() as held:
            inner = _held(held, _open_folder(level.upper, name))
            if before.kind == "dir" and level.lower is not None:
                below = _held(held, os.open(name, _FOLDER, dir_fd=level.lower))
                self._folder(_Level(path, inner, below, level.depth + 1))
                return
            if before.kind != "absent":
                self._delete(level, name, self._freed)
            self._note(self._made, path, "create", ABSENT, after)
            self._found.folders.append(Folder(self._number, path, ABSENT, after))
            self._contents(_Level(path, inner, None, level.depth + 1))

    def _file(self, level: _Level, name: str, before: Node, after: Node) -> None:
        path = level.inside(name)
        if before.kind == "absent" or level.lower is None:
            self._note(self._made, path, "create", ABSENT, after)
            return
        how = _how_changed(level.upper, level.lower, name, before, after)
        if how == "attributes":
            after = replace(after, ino=before.ino, dev=before.dev, num_bytes=before.num_bytes)
        if how == "write":
            if before.ino in self._written:
                return
            self._written.add(before.ino)
            after = replace(after, ino=before.ino, dev=before.dev)
        if how:
            self._note(self._made, path, how, before, after)

    def _delete(self, level: _Level, name: str, where: list[Change]) -> None:
        """A name below is gone, and all that lies in it, children first."""
        assert level.lower is not None
        path, before = level.inside(name), nodes.read(level.lower, name)
        if before.kind == "dir":
            if level.depth > MAX_DEPTH:
                raise _too_deep(path)
            before = nodes.read(level.lower, name, attributes=True)
            with contextlib.ExitStack() as held:
                inner = _held(held, os.open(name, _FOLDER, dir_fd=level.lower))
                for inside in sorted(os.listdir(inner)):
                    self._delete(_Level(path, level.upper, inner, level.depth + 1), inside, where)
            self._found.folders.append(Folder(self._number, path, before, ABSENT))
        self._note(where, path, "delete", before, ABSENT)

    def _note(self, where: list[Change], path: str, how: How, before: Node, after: Node) -> None:
        where.append(Change(self._number, path, how, before, after))
        if how != "attributes":
            self._touched.add(os.path.dirname(path))


def _too_deep(path: str) -> CallFailed:
    return CallFailed(f"{path[:80]}… is more than {MAX_DEPTH} folders deep", "Nothing was changed.")


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _held(held: contextlib.ExitStack, fd: int) -> int:
    held.callback(os.close, fd)
    return fd


def _open_folder(parent: int, name: str) -> int:
    """Open a folder of the layer, even one whose mode keeps its owner out; that mode is noted already."""
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(xattr_path(fd), 0o700)
        finally:
            os.close(fd)
        return os.open(name, _FOLDER, dir_fd=parent)


def _is_whiteout(upper: int, name: str) -> bool:
    seen = os.stat(name, dir_fd=upper, follow_symlinks=False)
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def _overlay_mark(path: str, name: str) -> bytes | None:
    for prefix in _OVERLAY:
        try:
            return os.getxattr(path, prefix + name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES):
                raise
    return None


def _is_opaque(upper: int) -> bool:
    return _overlay_mark(xattr_path(upper), "opaque") == b"y"


def _how_changed(upper: int, lower: int, name: str, before: Node, after: Node) -> How | None:
    """`replace`, `write`, `attributes`, or nothing when the file only looks touched."""
    if before.kind != "file" or after.kind != "file":
        changed = (before.kind, before.target) != (after.kind, after.target)
        return "replace" if changed or before.attributes() != after.attributes() else None
    if before.size != after.size or not _same_bytes(upper, lower, name):
        return "write" if before.nlink > 1 and _is_copy(upper, name) else "replace"
    touched = before.mtime_ns != after.mtime_ns or before.attributes() != after.attributes()
    return "attributes" if touched else None


def _is_copy(upper: int, name: str) -> bool:
    """Whether the file was written to in place: the view marks the copy it made of it then."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upper)
    try:
        return _overlay_mark(xattr_path(fd), "origin") is not None
    finally:
        os.close(fd)


def _same_bytes(upper: int, lower: int, name: str) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.ExitStack() as held:
        try:
            one = _held(held, os.open(name, flags, dir_fd=upper))
            other = _held(held, os.open(name, flags, dir_fd=lower))
        except PermissionError:  # its own mode keeps us out: what cannot be compared counts as changed
            return False
        return same_content(one, other)
