"""Driving one transaction forward or back, to its end, from wherever it stands.

Every change looks at what is there first: what it would make is there already, what it expects is there,
or something else is. So the same function commits, takes back, finishes after a crash and gives up halfway.
Names are resolved beneath the root's descriptor without following links, and with the caller's own rights:
a folder that was swapped for a link or for somebody else's meanwhile leads nowhere he could not go himself.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmos.guard import nodes, slots
from llmos.guard.caller import as_caller
from llmos.guard.changes import Change, Folder
from llmos.guard.dirfd import mount_id, open_beneath, open_whole, sync_file_system, xattr_path
from llmos.guard.nodes import ABSENT, Node
from llmos.guard.slots import Conflict, OnStep, Place
from llmos.guard.undostore import Direction, Manifest
from llmos.messages import Caller

_MARKS: dict[Direction, slots.Mark] = {"forward": "before", "back": "after"}
_MANY = 32  # from so many folders on, one call for the whole file system is cheaper
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # nothing there, or a file or a link instead of a folder


@dataclass(slots=True)
class Drive:
    """The open roots and store of one transaction, and the way it is going."""

    manifest: Manifest
    direction: Direction
    root_fds: tuple[int, ...]
    near: tuple[bool, ...]
    objects_fd: int
    caller: Caller
    on_step: OnStep
    tolerant: bool = False  # leave what something else has happened to, and go on
    keep: bool = True  # what is displaced will be wanted again
    left: tuple[Node, ...] = ()  # what each name was when the last transaction ended, where there was one
    conflicts: list[str] = field(default_factory=list)
    _parent: tuple[int, str, int] | None = None  # root, path, descriptor: changes come folder by folder
    _known: dict[tuple[int, str], Folder] = field(init=False)
    _last: dict[tuple[int, str], Node] = field(init=False)  # what is to stand at each name in the end

    def __post_init__(self) -> None:
        self._last = {(change.root, change.path): self._arrived(change) for _, change in self.changes()}
        self._known = {(folder.root, folder.path): folder for folder in self.manifest.folders}

    # --- in order ---

    def changes(self) -> list[tuple[int, Change]]:
        """Numbered changes in the order of this direction."""
        numbered = list(enumerate(self.manifest.changes))
        if self.direction == "forward":
            return numbered
        return [(number, change.reversed()) for number, change in reversed(numbered)]

    def folders(self) -> list[Folder]:
        """Folders as they are to be left, those inside others first."""
        folders = list(reversed(self.manifest.folders))
        return folders if self.direction == "forward" else [folder.reversed() for folder in folders]

    def run(self) -> None:
        """Make every change that is not made yet. Raises Conflict, OSError; call it again to go on."""
        with as_caller(self.caller):
            for number, change in self.changes():
                try:
                    self._make(number, change)
                except Conflict as conflict:
                    if not self.tolerant:
                        raise
                    self.conflicts.append(conflict.path)
            for folder in self.folders():
                with contextlib.suppress(*([OSError] if self.tolerant else [])):
                    self._settle(folder)
        self._sync()

    # --- one change ---

    def _make(self, number: int, change: Change) -> None:
        parent, name = os.path.split(change.path)
        try:
            fd = self._folder(change.root, parent)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            if change.how == "delete":
                return
            raise Conflict(self.shown(change)) from error
        place = self._place(number, change, fd, name)
        if change.how == "write":
            self._write(place, change)
            return
        if change.how == "attributes":
            self._dress(place, change)
            return
        seen, start = nodes.read(fd, name), self._start(change)
        # Of a name that is freed and made anew, the first change is made when the last one is.
        ends = (self._arrived(change), self._last[change.root, change.path])
        done = any(nodes.same(seen, end) for end in ends) and not self._only_looks_done(seen, number, change)
        slots.finish(place, done=done, untouched=not done and nodes.same(seen, start))
        if not done:
            if not nodes.same(nodes.read(fd, name), start):
                raise Conflict(place.path)
            with self._writable(fd):
                self._move(place, replace(change, before=start))

    def _place(self, number: int, change: Change, folder_fd: int, name: str) -> Place:
        return Place(
            folder_fd, name, self.shown(change), self.objects_fd, str(number), self.near[change.root],
            _MARKS[self.direction], self.keep, self.on_step,
        )  # fmt: skip

    def _arrived(self, change: Change) -> Node:
        """What is to stand at the name. Between mounts it is a copy, with a number of its own."""
        return change.after if self.near[change.root] else replace(change.after, dev=0)

    def _start(self, change: Change) -> Node:
        return change.before if self.near[change.root] else replace(change.before, dev=0)

    def _only_looks_done(self, seen: Node, number: int, change: Change) -> bool:
        """Between mounts a copy cannot be told by its number, and the two may look the same (`touch -r`)."""
        if self.near[change.root] or seen.kind != "file":
            return False
        if not self.keep:  # giving up: it was never touched, or the old content is put in place (again)
            return nodes.same(seen, self._start(change)) and not _is_very(seen, change.after)
        return _is_very(seen, self.left[number] if self.left else change.before)

    def _move(self, place: Place, change: Change) -> None:
        match change.how, change.before.kind, change.after.kind:
            case "create", _, "dir":
                self.on_step("mkdir")
                os.mkdir(place.name, 0o700, dir_fd=place.folder_fd)
            case "delete", "dir", _:
                self.on_step("rmdir")
                self._remove_folder(place)
            case "create", _, _:
                slots.put(place)
            case "delete", _, _:
                slots.take(place, change.before)
            case _:
                slots.swap(place, change.before)

    def _remove_folder(self, place: Place) -> None:
        try:
            os.rmdir(place.name, dir_fd=place.folder_fd)
        except OSError as error:
            if os.listdir(self._open(place.folder_fd, place.name)):
                raise Conflict(place.path) from error  # something new is in it
            raise

    def _write(self, place: Place, change: Change) -> None:
        if slots.is_there(place, place.kept_by_other):
            slots.unwrite(place, change.after)
            return
        begun = slots.is_there(place, place.kept)
        if begun or not nodes.same(nodes.read(place.folder_fd, place.name), change.after):
            slots.rewrite(place, change.before, change.after)

    def _dress(self, place: Place, change: Change) -> None:
        """Attributes alone: half done is no other than not done, so they are simply set."""
        fd = self._open(place.folder_fd, place.name, os.O_PATH)
        try:
            seen = nodes.of(os.fstat(fd))
            whole = seen.kind == "file" and seen.size == change.before.size
            if not whole or (seen.dev == change.before.dev and seen.ino != change.before.ino):
                raise Conflict(place.path)
            if seen.mtime_ns not in (change.before.mtime_ns, change.after.mtime_ns):
                raise Conflict(place.path)
            self.on_step("attributes")
            slots.dress_fd(fd, change.after)
        finally:
            os.close(fd)

    # --- folders ---

    def _settle(self, folder: Folder) -> None:
        """Owner, mode and time of a folder, now that all names in it are what they are to be."""
        if folder.after.kind != "dir":
            return
        try:
            fd = open_beneath(self.root_fds[folder.root], folder.path, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return  # it went another way, and its changes said so
        try:
            seen = nodes.of(os.fstat(fd))
            if not _is_known(seen, folder):
                return
            self.on_step("folder")
            changes = folder.before.attributes() != folder.after.attributes()
            if not changes and _acting_uid() not in (0, seen.uid):
                return  # somebody else's folder, in which we may write: its time is not ours to set
            if changes or seen.mode == folder.after.mode | 0o700:
                slots.dress_fd(fd, folder.after)
            else:
                os.utime(xattr_path(fd), ns=(folder.after.mtime_ns, folder.after.mtime_ns))
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _writable(self, fd: int) -> Iterator[None]:
        """Open a folder whose mode keeps even its owner from changing it; `_settle` sets the mode again."""
        mode = os.fstat(fd).st_mode
        if mode & 0o300 != 0o300 and os.fstat(fd).st_uid == _acting_uid():
            os.chmod(xattr_path(fd), (mode | 0o700) & 0o7777)
        yield

    def _folder(self, root: int, path: str) -> int:
        if self._parent is not None:
            if self._parent[:2] == (root, path):
                return self._parent[2]
            os.close(self._parent[2])
            self._parent = None
        fd = open_beneath(self.root_fds[root], path, os.O_PATH | os.O_DIRECTORY)
        known = self._known.get((root, path))
        if known is not None and not _is_known(nodes.of(os.fstat(fd)), known):
            os.close(fd)
            raise Conflict(os.path.join(self.manifest.roots[root].folder, path))
        self._parent = (root, path, fd)
        return fd

    def _open(self, folder_fd: int, name: str, flags: int = os.O_RDONLY | os.O_DIRECTORY) -> int:
        try:
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise Conflict(name) from error

    def _sync(self) -> None:
        touched = {(folder.root, folder.path) for folder in self.folders() if folder.after.kind == "dir"}
        if len(touched) > _MANY:
            for fd in self.root_fds:
                sync_file_system(fd)
            return
        for root, path in touched:
            with contextlib.suppress(OSError):
                fd = open_beneath(self.root_fds[root], path)
                os.fsync(fd)
                os.close(fd)

    # --- looking ---

    def shown(self, change: Change) -> str:
        return self.manifest.shown(change)

    def look(self, change: Change) -> Node:
        """What stands at the name of a change now."""
        parent, name = os.path.split(change.path)
        try:
            return nodes.read(self._folder(change.root, parent), name)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return ABSENT

    def close(self) -> None:
        if self._parent is not None:
            os.close(self._parent[2])
        for fd in (*self.root_fds, self.objects_fd):
            os.close(fd)


def _is_known(seen: Node, folder: Folder) -> bool:
    """Whether it is the folder that was there all along; of one made or removed since there is no telling."""
    if folder.before.kind != "dir" or folder.after.kind != "dir":
        return True
    return nodes.same_folder(seen, folder.before)


def _is_very(seen: Node, node: Node) -> bool:
    return (seen.kind, seen.dev, seen.ino) == (node.kind, node.dev, node.ino)


def _acting_uid() -> int:
    return int(Path("/proc/thread-self/status").read_text(encoding="ascii").split("\nUid:")[1].split()[3])


@contextlib.contextmanager
def opened(
    folder: Path,
    manifest: Manifest,
    direction: Direction,
    caller: Caller,
    on_step: OnStep = slots.unheard,
    *,
    tolerant: bool = False,
    keep: bool = True,
    left: Sequence[Node] = (),
) -> Iterator[Drive]:
    """Open what a transaction is about. Raises Conflict when a root is another folder by now."""
    objects = open_whole(str(folder / "objects"))
    fds: list[int] = []
    try:
        for root, node in zip(manifest.roots, manifest.root_nodes, strict=True):
            fds.append(_root(root.folder, node))
        near = tuple(mount_id(fd) == mount_id(objects) for fd in fds)
    except BaseException:
        for fd in (*fds, objects):
            os.close(fd)
        raise
    drive = Drive(
        manifest, direction, tuple(fds), near, objects, caller, on_step, tolerant, keep, tuple(left)
    )
    try:
        yield drive
    finally:
        drive.close()


def _root(path: str, node: Node) -> int:
    try:
        fd = open_whole(path)
    except OSError as error:
        raise Conflict(path) from error
    if not nodes.same_folder(nodes.of(os.fstat(fd)), node):
        os.close(fd)
        raise Conflict(path)
    return fd
