"""Moving and copying what was picked (inside/picked.py), where it lay below the folder: nothing of it where
something is in the way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from llmos.toolbox.inside.patterns import is_same
from llmos.toolbox.inside.picked import picked
from llmos.toolbox.inside.told import Refused, say, shown

_MAX_SHOWN = 20


def main(args: dict[str, Any]) -> int:
    """`target` is the folder that it goes into, or where `named` says so the new name of the one file."""
    folder, target = Path(args["folder"]), Path(args["target"])
    places = {
        folder / name: target if args["named"] else target / name for name in picked(folder, args, but=target)
    }
    for source, place in places.items():
        _refuse_taken(source, place, overwrite=args["overwrite"])
    for source, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if args["move"]:
            shutil.move(source, place)
        else:
            _copy(source, place)
    for source, place in list(places.items())[:_MAX_SHOWN]:
        say(f"{'moved' if args['move'] else 'copied'} {shown(str(source))} to {shown(str(place))}")
    if len(places) > _MAX_SHOWN:
        say(f"… and {len(places) - _MAX_SHOWN:,} more")
    return 0


def _refuse_taken(source: Path, place: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(place):
        return
    if is_same(source, place):
        raise Refused(f"{shown(str(source))} is where it would go, so nothing was done")
    if not overwrite:
        raise Refused(f"{shown(str(place))} exists already, so nothing was done: overwrite=true replaces it")
    if place.is_dir() or source.is_dir():
        raise Refused(f"{shown(str(place))} exists already and no folder is replaced, so nothing was done")


def _copy(source: Path, place: Path) -> None:
    """As `cp -a` does: links as links, with owner, times and attributes; a link is not written through."""
    if os.path.lexists(place):
        place.unlink()
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, place, symlinks=True, copy_function=_copy_file)
        _own(source, place)
    else:
        _copy_file(source, place)


def _copy_file(source: str | Path, place: str | Path) -> None:
    shutil.copy2(source, place, follow_symlinks=False)
    _own(source, place)


def _own(source: str | Path, place: str | Path) -> None:
    found = os.lstat(source)
    with contextlib.suppress(PermissionError):  # whoever is not root owns what he copies
        os.chown(place, found.st_uid, found.st_gid, follow_symlinks=False)
