"""Stages: folders that take what a command writes instead of its write roots.

    STAGE/lock        held by the process that uses it, so that only forgotten stages are cleared away
    STAGE/i/upper     overlayfs' upper layer over the i-th write root: what the command changed
    STAGE/i/work      overlayfs' own
    STAGE/i/lower     where the launcher mounts an ID-mapped root for a moment, in its own namespace

What lies in `upper` was made by the command and is hostile: `changes` reads it by descriptors alone.
Not protected against: the disk filling up with what a command writes; that ends the command, and the stage.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmos import paths
from llmos.errors import NoPreview
from llmos.guard import nodes, sandbox
from llmos.guard.dirfd import copy_attributes, explain_full_disk, fs_type, open_whole, xattr_path
from llmos.guard.nodes import Node

# statfs(2) f_type of file systems that can be a lower layer and exchange two names atomically.
_KNOWN = {
    0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs", 0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs", 0x794C7630: "overlayfs",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Root:
    """One write root: the folder whose layer it is and, where the root is a plain file, its name there."""

    path: str
    only: str = ""

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path) if self.only else self.path


@dataclass(slots=True)
class Stage:
    """One stage in use; `discard` ends it."""

    folder: Path
    roots: tuple[Root, ...]
    lock_fd: int
    root_nodes: tuple[Node, ...] = ()  # the folders as they were when the stage was made

    @property
    def write_roots(self) -> tuple[str, ...]:
        return tuple(root.path for root in self.roots)

    def upper(self, number: int) -> Path:
        return self.folder / str(number) / "upper"

    def discard(self) -> None:
        """Throw away what was written. Safe to call again."""
        if self.lock_fd >= 0:
            remove_tree(self.folder)
            os.close(self.lock_fd)
            self.lock_fd = -1


def stages_dir() -> Path:
    return paths.state_dir() / "stages"


def create(name: str, write_roots: Iterable[str]) -> Stage:
    """A fresh stage over these write roots. Raises NoPreview where there can be none, DiskFull."""
    checked = sandbox.check_write_roots(tuple(write_roots), ())
    roots = tuple(_root(path) for path in checked)
    parent = paths.ensure_private(stages_dir())
    folder = parent / name
    with explain_full_disk(parent):
        folder.mkdir(mode=0o700)
        lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stage = Stage(folder, roots, lock_fd)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX)
            stage.root_nodes = tuple(
                _make_layer(folder / str(number), root) for number, root in enumerate(roots)
            )
        except BaseException:
            stage.discard()
            raise
    return stage


def _root(path: str) -> Root:
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise NoPreview(f"{path} cannot be looked at: {error.strerror}") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise NoPreview(f"{path} is neither a folder nor a plain file")
    root = Root(path, os.path.basename(path) if stat.S_ISREG(mode) else "")
    kind = fs_type(root.folder)
    if kind not in _KNOWN:
        raise NoPreview(f"the file system of {root.folder} (type {kind:#x}) has no copy-on-write view")
    if os.statvfs(root.folder).f_flag & os.ST_RDONLY:
        raise NoPreview(f"{root.folder} is on a file system that is mounted read-only")
    return root


def _make_layer(place: Path, root: Root) -> Node:
    """An empty layer whose top looks like the root's: that is what the view shows as the root itself."""
    for part in ("", "upper", "work", "lower"):
        (place / part).mkdir(mode=0o700)
    fd = open_whole(root.folder, os.O_PATH | os.O_DIRECTORY)
    try:
        copy_attributes(xattr_path(fd), place / "upper")
        return nodes.read_fd(fd)
    except OSError as error:
        # Somebody else's folder, which we may write in and not make the like of.
        raise NoPreview(f"{root.folder} cannot be imitated: {error.strerror}") from error
    finally:
        os.close(fd)


# --- clearing away -----------------------------------------------------------------------------------


def clear_forgotten() -> int:
    """Remove stages whose process is gone; how many. Called when the broker starts."""
    removed = 0
    for folder in _listed(stages_dir()):
        with contextlib.suppress(OSError):
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(folder)
                removed += 1
            finally:
                os.close(fd)
    return removed


def _listed(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(folder.iterdir())


def remove_tree(folder: Path) -> None:
    """Remove a folder of ours whatever modes a command gave to what is in it; links are not followed."""
    if os.geteuid() != 0:
        for top, names, _ in os.walk(folder):
            for place in (Path(top, name) for name in names):
                if not place.is_symlink():
                    with contextlib.suppress(OSError):
                        place.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
