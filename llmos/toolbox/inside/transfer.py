"""Moving and copying what was picked (inside/picked.py), where it lay below the folder: nothing of it where
something is in the way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
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
            _copy(args["cp"], source, place)
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


def _copy(cp: str, source: Path, place: Path) -> None:
    """cp(1) keeps what Python's shutil does not: owner, holes, attributes. A link is not written through."""
    done = subprocess.run(
        [cp, "-a", "-T", "--remove-destination", "--", source, place],
        check=False, capture_output=True, text=True, errors="backslashreplace",
    )  # fmt: skip
    if done.returncode:
        raise Refused(done.stderr.strip() or f"{shown(str(source))} could not be copied")
