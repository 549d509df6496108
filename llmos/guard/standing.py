"""Looking at what stands at the names of a transaction: before it is driven, and when it has been.

With the caller's rights, through the descriptors of the `Drive`. What somebody changes between a look here
and the move itself is met by the move (`slots`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from llmos.errors import CallFailed, DiskFull
from llmos.guard import nodes
from llmos.guard.caller import as_caller
from llmos.guard.dirfd import open_beneath
from llmos.guard.nodes import Node
from llmos.guard.transaction import Drive

_MARGIN_BYTES = 1 << 20  # for names, and for what is written besides


def left(drive: Drive) -> list[Node]:
    """What stands at the name of each change now."""
    with as_caller(drive.caller):
        return [drive.look(change) for change in drive.manifest.changes]


def moved_on(drive: Drive, expected: dict[int, Node]) -> list[str]:
    """Paths at which something else stands than expected, by the number of the change."""
    with as_caller(drive.caller):
        return [*_changed(drive, expected), *_unexpected(drive)]


def _changed(drive: Drive, expected: dict[int, Node]) -> Iterator[str]:
    seen: set[tuple[int, str]] = set()
    for number, change in drive.changes():
        if (change.root, change.path) in seen:
            continue  # of a name that is freed and made anew, the first change is the one to look at
        seen.add((change.root, change.path))
        if not nodes.same(drive.look(change), expected.get(number, change.before), strict=True):
            yield drive.shown(change)


def _unexpected(drive: Drive) -> Iterator[str]:
    """What is new in folders that are to be removed."""
    known: dict[tuple[int, str], set[str]] = {}
    removed = []
    for _, change in drive.changes():
        if change.how == "delete":
            parent, name = os.path.split(change.path)
            known.setdefault((change.root, parent), set()).add(name)
            if change.before.kind == "dir":
                known.setdefault((change.root, change.path), set())
                removed.append((change.root, change.path))
    for root, path in removed:
        with contextlib.suppress(OSError):
            fd = open_beneath(drive.root_fds[root], path)
            new = {*os.listdir(fd)} - known[root, path]
            os.close(fd)
            folder = drive.manifest.roots[root].folder
            yield from (os.path.join(folder, path, name) for name in sorted(new))


def check_room(drive: Drive) -> None:
    """Whether both file systems can take what is going to be copied; else raises DiskFull or CallFailed.

    Within one mount nothing is copied but files with several names, which are written in place. A little room
    is asked for in any case: the end of a transaction is written down as well.
    """
    store = _MARGIN_BYTES
    places = dict.fromkeys(range(len(drive.root_fds)), 0)
    for _, change in drive.changes():
        if not drive.near[change.root] or change.how == "write":
            store += change.before.num_bytes if change.before.kind == "file" else 0
            places[change.root] += change.after.num_bytes if change.after.kind == "file" else 0
    needs = [(drive.objects_fd, store, "the store of undo")]
    needs += [(drive.root_fds[n], size, drive.manifest.roots[n].folder) for n, size in places.items()]
    for fd, num_bytes, where in needs:
        free = os.fstatvfs(fd)
        if free.f_flag & os.ST_RDONLY:
            raise CallFailed(f"the file system of {where} is mounted read-only", "Nothing was changed.")
        if free.f_bavail * free.f_frsize < num_bytes:
            raise DiskFull(
                f"{-(-num_bytes >> 20)} MiB are needed on the file system of {where}, and are not free",
                "Nothing was changed. Make room, and try again.",
            )
