"""Masks over secrets in the tree of a sandbox, as steps: the last of its mounts.

Standard library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache

from llmos.guard import mountsteps
from llmos.guard.ground import EMPTY_FILE, EMPTY_FOLDER
from llmos.guard.mounts import AT_FDCWD, RESOLVE_IN_ROOT
from llmos.guard.steps import Label, Steps
from llmos.guard.treesteps import FIRST_OTHER, MISSING, TREE

# What we cannot reach, the command, with less rights, cannot either.
_UNREACHABLE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)


_MOST = 1000  # masks, or folders, in one part


@lru_cache(maxsize=32)
def masked(hidden: tuple[str, ...], ways: tuple[str, ...]) -> bytes:
    """Cover each hidden path, of the tree that `treesteps` has made, with an empty folder or file.

    What does not exist needs no cover. Links are followed, inside the tree: a linked secret is covered
    where it really lies. The cover is read-only as what it is copied from.
    """
    pins = [_pins(some) for some in _batches(ways)]
    return b"".join((*pins, *map(_covers, _batches(hidden))))


def _batches(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(paths), _MOST):
        yield paths[first : first + _MOST]


def _covers(hidden: Sequence[str]) -> bytes:
    s = Steps(FIRST_OTHER)
    target, cover, kind, room = s.register(), s.register(), s.register(), mountsteps.room_for_kind(s)
    with s.of("mask"):
        for path in hidden:
            begin, folder, ready, gone, done = (Label() for _ in range(5))
            s.place(begin)
            mountsteps.open_path(
                s, path, at=TREE, resolve=RESOLVE_IN_ROOT, ignore=_UNREACHABLE, otherwise=done, into=target
            )
            mountsteps.kind_of(s, target, kind, room)
            mountsteps.jump_if_kind(s, kind, stat.S_IFDIR, folder)
            mountsteps.open_tree(s, AT_FDCWD, EMPTY_FILE, into=cover)
            s.jump(ready)
            s.place(folder)
            mountsteps.open_tree(s, AT_FDCWD, EMPTY_FOLDER, into=cover)
            s.place(ready)
            mountsteps.attach(s, cover, target, ignore=(errno.ENOENT,), otherwise=gone)
            s.call("close", cover)
            s.call("close", target)
            s.jump(done)
            s.place(gone)  # it was removed meanwhile; there may be another one now
            s.call("close", cover)
            s.call("close", target)
            s.again(begin, f"move_mount {path}")
            s.place(done)
    return s.part()


def _pins(ways: Sequence[str]) -> bytes:
    """Make the way to a mask of mount points: what is one cannot be renamed.

    Otherwise a command could rename ~/.config, and the next one read ~/x/gh/hosts.yml, which no table names.
    """
    s = Steps(FIRST_OTHER)
    place, copy = s.register(), s.register()
    with s.of("mask"):
        for folder in ways:
            absent, name = Label(), folder.lstrip("/")
            mountsteps.open_path(
                s, name, at=TREE, resolve=RESOLVE_IN_ROOT, ignore=MISSING, otherwise=absent, into=place
            )
            mountsteps.open_tree(s, place, recursive=True, ignore=MISSING, otherwise=absent, into=copy)
            mountsteps.attach(s, copy, place, ignore=MISSING)
            s.call("close", copy)
            s.call("close", place)
            s.place(absent)
    return s.part()
