"""Of the files that a path takes in those that are old, large or new enough, or first in an order.

A pattern stands for what lies directly in its folder. A folder stands for the regular files in it and below,
hidden ones and what is in hidden folders not among them: nobody means .git by "what is older than a year".
A path that is a link to a folder is that folder. A folder that a pattern takes in is as new as the newest
and as large as all of what it holds.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llmos.toolbox.inside.patterns import compiled, exceptions, expanded
from llmos.toolbox.inside.told import nowhere

Asked = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """`name` is relative to the folder; `changed` in seconds since 1970, `size` in bytes."""

    name: str
    changed: float
    size: int


def picked(folder: Path, args: Asked, *, but: Path | None = None) -> list[str]:
    """Names in the folder, in order. `pattern` "" is all below it; what is in `but` is left out.

    Raises Refused where an exception is nothing that is there: what is misspelt would not be spared.
    """
    found = list(_directly(folder, args["pattern"], args["folders"]) if args["pattern"] else _walked(folder))
    _refuse_misspelt(folder, found, args["except"])
    stays, own = _is_spared(args["except"]), _inside(folder, but)
    found = [one for one in found if not stays(one.name) and not _is_in(folder / one.name, own)]
    asked = args["asked"]
    if number := asked.get("keep_newest"):
        found = _in_order(found, "newest")[number:]
    found = [one for one in found if _fits(one, asked, time.time())]
    if order := asked.get("sort"):
        return [one.name for one in _in_order(found, order)[: asked["limit"]]]
    return sorted(one.name for one in found)


# --- which fit -----------------------------------------------------------------------------------------


def _in_order(found: list[Candidate], order: str) -> list[Candidate]:
    """Of two that are alike the one whose name counts higher is the newer: `dump-10` after `dump-9`."""
    by_name = sorted(found, key=lambda one: _counted(one.name), reverse=order in ("newest", "size"))
    if order in ("newest", "oldest"):
        return sorted(by_name, key=lambda one: one.changed if order == "oldest" else -one.changed)
    return sorted(by_name, key=lambda one: one.size if order == "smallest" else -one.size)


def _counted(name: str) -> list[tuple[int, str]]:
    """A name with its numbers as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _fits(one: Candidate, asked: Asked, now: float) -> bool:
    age, ever = now - one.changed, float("inf")
    return bool(
        asked.get("older_than", -ever) < age <= asked.get("newer_than", ever)
        and asked.get("larger_than", -1) < one.size < asked.get("smaller_than", ever)
    )


# --- what there is -------------------------------------------------------------------------------------


def _directly(folder: Path, pattern: str, folders: bool) -> Iterator[Candidate]:
    if not set("*?") & set(pattern):
        (folder / pattern).lstat()  # raises what is said of a name that is not there
    for name in expanded((entry.name for entry in folder.iterdir()), pattern):
        found = (folder / name).lstat()
        if not stat.S_ISDIR(found.st_mode):
            yield Candidate(name, found.st_mtime, found.st_size)
        elif folders:
            inside = list(_walked(folder / name, hidden=True))
            newest = max((one.changed for one in inside), default=found.st_mtime)
            yield Candidate(name, newest, sum(one.size for one in inside))


def _walked(folder: Path, *, hidden: bool = False) -> Iterator[Candidate]:
    """The regular files below that are not hidden, or whatever is there."""

    def complain(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=complain):
        if not hidden:
            folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            try:
                found = path.lstat()
            except FileNotFoundError:  # gone meanwhile
                continue
            if hidden or (stat.S_ISREG(found.st_mode) and not name.startswith(".")):
                yield Candidate(str(path.relative_to(folder)), found.st_mtime, found.st_size)


# --- what stays ----------------------------------------------------------------------------------------


def _is_spared(spared: list[str]) -> Callable[[str], bool]:
    """Whether a name, or the path or the name of a folder it lies in, is one of these; case is no matter."""
    if not spared:
        return lambda name: False
    fits = compiled(spared, re.IGNORECASE).match

    def stays(name: str) -> bool:
        path = PurePosixPath(name)
        whole = (str(one) for one in (path, *path.parents)[:-1])
        return any(map(fits, (*path.parts, *whole)))

    return stays


def _refuse_misspelt(folder: Path, found: list[Candidate], spared: list[str]) -> None:
    for patterns in exceptions(spared):
        stays = _is_spared(list(patterns))
        if not any(stays(one.name) for one in found) and not any(map(stays, _names_below(folder))):
            raise nowhere(folder, patterns)


def _names_below(folder: Path) -> Iterator[str]:
    """Of everything, hidden things and folders too."""
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            yield str(Path(place, name).relative_to(folder))


def _inside(folder: Path, but: Path | None) -> Path | None:
    """The target, where it lies below what is looked through."""
    return but.resolve() if but and folder.resolve() in but.resolve().parents else None


def _is_in(path: Path, folder: Path | None) -> bool:
    """Whether it lies in the target, or the target in it."""
    if folder is None:
        return False
    whole = path.parent.resolve() / path.name
    return whole == folder or folder in whole.parents or whole in folder.parents
