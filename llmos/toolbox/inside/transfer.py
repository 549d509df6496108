"""Moving and copying what was picked (inside/picked.py), where it lay below the folder: nothing of it where
something is in the way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from llmos.toolbox.inside.picked import picked
from llmos.toolbox.inside.told import Refused, say_first, shown


def main(args: dict[str, Any]) -> int:
    """`target` is the folder that it goes into, or where `named` says so the new name of the one file."""
    folder, target = Path(args["folder"]), Path(args["target"])
    places = {
        folder / name: target if args["named"] else target / name for name in picked(folder, args, but=target)
    }
    sources = set(map(_whole, places))
    for source, place in places.items():
        _refuse_taken(source, place, sources, overwrite=args["overwrite"])
    for source, place in places.items():
        _make(place.parent, source.parent, target)
        if args["move"]:
            shutil.move(source, place, copy_function=_copy_file)
        else:
            _copy(source, place)
    done = "moved" if args["move"] else "copied"
    say_first([f"{done} {shown(str(source))} to {shown(str(place))}" for source, place in places.items()])
    return 0


def _whole(path: Path) -> Path:
    """Where it is, a link in its last part left as it is."""
    return path.parent.resolve() / path.name


def _refuse_taken(source: Path, place: Path, sources: set[Path], *, overwrite: bool) -> None:
    for above in place.parents:
        if os.path.lexists(above):
            if not above.is_dir():
                raise Refused(f"{shown(str(above))} exists already and is no folder, so nothing was done")
            break
    if not os.path.lexists(place):
        return
    if _whole(place) in sources:
        raise Refused(f"{shown(str(place))} is itself to go elsewhere or there, so nothing was done")
    if not overwrite:
        raise Refused(f"{shown(str(place))} exists already, so nothing was done: overwrite=true replaces it")
    if place.is_dir() or source.is_dir():
        raise Refused(f"{shown(str(place))} exists already and no folder is replaced, so nothing was done")


def _make(folder: Path, like: Path, target: Path) -> None:
    """A folder below the target is made with the rights and the owner of the one that it stands for."""
    if folder.is_dir():
        return
    if target in folder.parents:
        _make(folder.parent, like.parent, target)
        folder.mkdir()
        _own(like, folder)
        shutil.copymode(like, folder)
    else:
        folder.mkdir(parents=True)


def _copy(source: Path, place: Path) -> None:
    """As `cp -a` does: links as links, with owner, times and attributes; a link is not written through."""
    if os.path.lexists(place):
        place.unlink()
    if not source.is_dir() or source.is_symlink():
        _copy_file(source, place)
        return
    shutil.copytree(source, place, symlinks=True, copy_function=_copy_file)
    for one in (source, *source.rglob("*")):
        if one.is_dir() and not one.is_symlink():
            there = place / one.relative_to(source)
            _own(one, there)
            shutil.copystat(one, there)


def _copy_file(source: str | Path, place: str | Path) -> None:
    shutil.copyfile(source, place, follow_symlinks=False)
    _own(source, place)  # before the rights: a new owner takes away set-id bits
    shutil.copystat(source, place, follow_symlinks=False)


def _own(source: str | Path, place: str | Path) -> None:
    found = os.lstat(source)
    with contextlib.suppress(PermissionError):  # whoever is not root owns what he copies
        os.chown(place, found.st_uid, found.st_gid, follow_symlinks=False)
