"""Effects with every path followed to what it really is: what is judged, and what examples are judged by."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from llmos.guard import places, resolve
from llmos.guard.sandbox import is_within
from llmos.messages import Effects

_NEVER_ROOTS = ("/proc", "/sys", "/dev", "/run", "/var/run")


def union(effects: Sequence[Effects]) -> Effects:
    joined: dict[str, tuple[object, ...] | str] = {}
    for name in ("reads", "writes", "deletes", "programs", "network", "signals", "uses"):
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


def may_be_root(path: str, home: str) -> bool:
    """Whether a folder can ever be a write root."""
    if path == "/" or any(is_within(path, place) for place in _NEVER_ROOTS):
        return False
    kind = places.kind_of(path, home)
    return not (kind.protected or kind.kernel or kind.boot)
