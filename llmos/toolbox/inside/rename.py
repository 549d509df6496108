"""Rename many files of one folder by a pattern: all or nothing, and never onto one another.

Every new name is made and checked before the first file is renamed. Names that change places or move up
one (a -> b, b -> c) go by a temporary name.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from llmos.toolbox.inside.patterns import expanded
from llmos.toolbox.inside.told import Refused, count, say, say_first, shown, some

_MAX_SHOWN = 1000
_MAX_NAME_BYTES = 255


def main(args: dict[str, Any]) -> int:
    folder, pattern = Path(args["folder"]), args["pattern"]
    if not args["regex"] and args["find"] not in pattern and (folder / pattern).is_dir():
        folder, pattern = folder / pattern, "*"  # a folder stands for what is in it
    names = matching(folder, pattern)
    if not names:
        raise Refused(f"Nothing matches {shown(args['path'])}.")
    new = new_names(names, args)
    if not new:
        raise Refused(f"None of {count(len(names), 'name')} has {shown(repr(args['find']))} in it.")
    check(folder, new)
    if not args["preview"]:
        carry_out(folder, new)
    tell(new, preview=args["preview"])
    return 0


def matching(folder: Path, pattern: str) -> list[str]:
    """As a shell expands it: hidden names only for a pattern that begins with a dot."""
    found = (entry.name for entry in folder.iterdir())
    return expanded(found, pattern)


def new_names(names: list[str], args: dict[str, Any]) -> dict[str, str]:
    """Old to new, of those that change. Raises Refused for an expression that is wrong."""
    if not args["regex"]:
        made = {name: name.replace(args["find"], args["replace"]) for name in names}
    else:
        replaced = re.sub(r"\$(\d)", r"\\\1", args["replace"])  # $1 is what most people write
        try:
            expression = re.compile(args["find"])
            made = {name: expression.sub(replaced, name) for name in names}
        except (re.error, IndexError) as error:
            raise Refused(f"{shown(args['find'])} is no regular expression that works: {error}") from None
    return {old: new for old, new in made.items() if old != new}


def check(folder: Path, new: dict[str, str]) -> None:
    """Raises Refused when a new name is none, is taken, or two files would get the same."""
    for old, name in new.items():
        if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > _MAX_NAME_BYTES:
            raise Refused(f"{shown(old)} would be called {shown(repr(name))}, which is no name for a file")
    taken: dict[str, str] = {}
    for old, name in new.items():
        if name in taken:
            raise Refused(f"{shown(taken[name])} and {shown(old)} would both be called {shown(name)}")
        taken[name] = old
    there = [name for name in taken if name not in new and os.path.lexists(folder / name)]
    if there:
        raise Refused(f"{count(len(there), 'name')} would replace what is there already: {some(there)}")


def carry_out(folder: Path, new: dict[str, str]) -> None:
    done: list[tuple[Path, Path]] = []
    wanted = set(new.values())
    temporary = {old: f".llmos-rename-{number}" for number, old in enumerate(new) if old in wanted}
    try:
        for old, name in temporary.items():
            _move(folder / old, folder / name, done)
        for old, name in new.items():
            _move(folder / temporary.get(old, old), folder / name, done)
    except BaseException:
        for source, target in reversed(done):
            shutil.move(target, source)
        raise


def _move(source: Path, target: Path, done: list[tuple[Path, Path]]) -> None:
    """By rename, or by a copy where a folder cannot be renamed (as on a view of the files)."""
    assert not os.path.lexists(target), "checked before"
    shutil.move(source, target)
    done.append((source, target))


def tell(new: dict[str, str], *, preview: bool) -> None:
    say_first([f"{shown(old)} -> {shown(name)}" for old, name in new.items()], _MAX_SHOWN)
    say(f"{count(len(new), 'file')} {'would be ' if preview else ''}renamed")
