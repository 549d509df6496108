"""What taking back a transaction (or having it again) would do, told as any other change is."""

from __future__ import annotations

import contextlib
import os

from llmos.guard.changes import Change, Folder
from llmos.guard.summary import Sources, opened, read_text_fd, shown, summary, text_bytes
from llmos.guard.turning import Reversal
from llmos.messages import JsonObject


def changes(planned: Reversal) -> list[tuple[int, Change]]:
    numbered = list(enumerate(planned.manifest.changes))
    if planned.direction == "forward":
        return numbered
    return [(number, change.reversed()) for number, change in reversed(numbered)]


def folders(planned: Reversal) -> list[Folder]:
    turned = planned.manifest.folders
    if planned.direction == "back":
        turned = tuple(folder.reversed() for folder in turned)
    return [folder for folder in turned if folder.changes_itself]


def paths_of(planned: Reversal) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(written, deleted) paths."""
    roots = planned.manifest.roots
    turned = [change for _, change in changes(planned)]
    writes: list[Change | Folder] = [change for change in turned if change.how != "delete"]
    writes += folders(planned)
    deletes = [change for change in turned if change.how == "delete"]
    return (
        tuple(dict.fromkeys(shown(roots, one.root, one.path) for one in writes)),
        tuple(dict.fromkeys(shown(roots, one.root, one.path) for one in deletes)),
    )


def told(planned: Reversal) -> JsonObject:
    """Totals, entries and diffs: what is there now against what is kept. Reads what can be read, no more."""
    with contextlib.ExitStack() as held:
        try:
            roots = [opened(held, root.folder) for root in planned.manifest.roots]
            objects = opened(held, str(planned.entry.folder / "objects"))
        except OSError:  # a root that is gone is a conflict, and said so
            return summary(planned.manifest.roots, changes(planned), folders(planned), Sources(_none, _none))
        sources = Sources(
            lambda _, change: text_bytes(roots[change.root], change.path, change.before),
            lambda number, change: _kept(objects, number),
        )
        return summary(planned.manifest.roots, changes(planned), folders(planned), sources)


def _none(_number: int, _change: Change) -> bytes | None:
    return None


def _kept(objects: int, number: int) -> bytes | None:
    try:
        fd = os.open(str(number), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=objects)
    except OSError:
        return None
    return read_text_fd(fd)
