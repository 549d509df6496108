"""Effects with every path followed to what it really is: what is judged, and what examples are judged by."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
from collections.abc import Iterable, Sequence

from llmos.guard import places, resolve
from llmos.guard.sandbox import is_within
from llmos.messages import Effects

MAX_MATCHES = 500  # of all patterns of a call; each one is judged
_PATTERN = re.compile(r"[*?]")
_NEVER_ROOTS = ("/proc", "/sys", "/dev", "/run", "/var/run")


def union(effects: Sequence[Effects]) -> Effects:
    joined: dict[str, tuple[object, ...] | str] = {}
    for name in ("reads", "writes", "deletes", "programs", "network", "signals", "resources", "units",
                 "containers", "settings", "packages", "uses"):  # fmt: skip
        joined[name] = tuple(dict.fromkeys(item for one in effects for item in getattr(one, name)))
    joined["opaque"] = next((one.opaque for one in effects if one.opaque), "")
    return Effects.model_validate(joined)


def resolved(effects: Effects, cwd: str, home: str) -> Effects:
    return effects.model_copy(
        update={
            "reads": _real(effects.reads, cwd, home),
            "writes": _real(effects.writes, cwd, home),
            "deletes": _real(effects.deletes, cwd, home, follow=False),
            "programs": tuple(dict.fromkeys(effects.programs)),
        }
    )


def _real(found: Iterable[str], cwd: str, home: str, *, follow: bool = True) -> tuple[str, ...]:
    """Where the paths really lead; protected places that were passed on the way are judged as well.

    Deleting removes a link, not what it points to, so there only the folder is followed.
    """
    real: dict[str, None] = {}
    for path in found:
        whole = os.path.join(cwd, path)
        name = os.path.basename(whole)
        if follow or name in ("", ".", ".."):
            place, links = resolve.followed(whole)
        else:
            folder, links = resolve.followed(os.path.dirname(whole))
            place = f"{folder.rstrip('/')}/{name}"
        real[place] = None
        for passed in (os.path.normpath(whole), *links):
            if passed != place and places.is_protected(passed, home):
                real[passed] = None
    return tuple(real)


def matched(effects: Effects, cwd: str) -> Effects:
    """Effects of a tool that hands patterns to find(1): the names that match now in the patterns' stead.

    Judged as it stands, `.*` would be a file of that name and no secret. What matches nothing stays.
    """
    deletes, some_left = _matches(effects.deletes, cwd)
    reads, _ = _matches(effects.reads, cwd)  # what is read is masked, whatever is judged
    writes, more_left = _matches(effects.writes, cwd)
    many = f"it changes more than {MAX_MATCHES} files" if some_left or more_left else ""
    changes = {"reads": reads, "writes": writes, "deletes": deletes, "opaque": effects.opaque or many}
    return effects.model_copy(update=changes)


def _matches(found: Iterable[str], cwd: str) -> tuple[tuple[str, ...], bool]:
    """(paths with their patterns replaced, whether some were left out)."""
    paths: dict[str, None] = {}
    for path in found:
        whole = os.path.join(cwd, path)
        names = _names(whole) if _PATTERN.search(os.path.basename(whole)) else ()
        paths |= dict.fromkeys(f"{os.path.dirname(whole).rstrip('/')}/{name}" for name in names)
        if not names or os.path.lexists(whole):
            paths[path] = None
    return tuple(itertools.islice(paths, MAX_MATCHES)), len(paths) > MAX_MATCHES


def _names(pattern: str) -> list[str]:
    """As find -name sees them; hidden ones only for a pattern that says so."""
    folder, name = os.path.split(pattern)
    try:
        there = os.listdir(folder)
    except OSError:
        return []
    hidden, expression = name.startswith("."), re.compile(fnmatch.translate(name.replace("[", "[[]")))
    return sorted(one for one in there if expression.match(one) and (hidden or not one.startswith(".")))


def may_be_root(path: str, home: str) -> bool:
    """Whether a folder can ever be a write root."""
    if path == "/" or any(is_within(path, place) for place in _NEVER_ROOTS):
        return False
    kind = places.kind_of(path, home)
    return not (kind.protected or kind.kernel or kind.boot)
