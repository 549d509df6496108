"""The trash of freedesktop.org: files/NAME is what was thrown away, info/NAME.trashinfo says from where.

All that was asked for goes, or nothing: what was moved is moved back when a later part fails. What is too
much for the trash is deleted for good where that was allowed (`most`), because a view of the files copies
what crosses it, and the trash would keep a second copy beside the one that undo keeps.
Specification: https://specifications.freedesktop.org/trash-spec/latest/
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from llmos.toolbox.inside.patterns import compiled, exceptions, expanded
from llmos.toolbox.inside.picked import picked
from llmos.toolbox.inside.told import Refused, count, nowhere, say, say_first, shown, size, some

_MOST_AT_ONCE = 20_000  # files that one call may change (guard.facts.MAX_JUDGED): more would be tried in vain
_HEAD = "[Trash Info]"


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing in the trash."""

    info: Path
    path: str  # where it was
    date: str

    @property
    def content(self) -> Path:
        return self.info.parent.parent / "files" / self.info.name.removesuffix(".trashinfo")


def main(args: dict[str, Any]) -> int:
    if args["action"] == "restore":
        restore(Path(args["trash"]), args["name"], args["path"])
    else:
        throw_away(args)
    return 0


# --- into the trash ----------------------------------------------------------------------------------


def throw_away(args: dict[str, Any]) -> None:
    folder, trash = Path(args["folder"]), Path(args["trash"])
    if args["asked"]:
        names = picked(folder, args, but=trash)
        if not names:
            return  # a clean-up that is due every night is no failure where nothing is old enough
    else:
        names = _named(folder, args)
    places = [folder / name for name in names]
    for place in places:
        _check(place, recursive=args["recursive"])
    if args["for_good"]:
        _delete(places)
        _tell("deleted", names)
        return
    if num_bytes := _more_than(places, args["most"]):
        if not args["or_delete"]:
            raise Refused(f"more than {size(num_bytes)} is too much for the trash: file.delete, or name less")
        _refuse_too_many(places)
        _delete(places)
        say(f"more than {size(num_bytes)} is too much for the trash: deleted without it")
        _tell("deleted", names)
        return
    (trash / "files").mkdir(parents=True, exist_ok=True)
    (trash / "info").mkdir(parents=True, exist_ok=True)
    _move_all(folder, names, trash, args["absolute"])
    _tell("moved to the trash:", names)


def _named(folder: Path, args: dict[str, Any]) -> list[str]:
    names = _names(folder, args["pattern"], folders=args["recursive"]) if args["glob"] else [args["pattern"]]
    if names := _without(names, folder, args["except"]):
        return names
    raise Refused(f"Nothing matches {shown(args['path'])}.")


def _names(folder: Path, pattern: str, *, folders: bool) -> list[str]:
    """What a pattern matches, as a shell expands it."""
    found = (entry.name for entry in os.scandir(folder) if folders or not entry.is_dir(follow_symlinks=False))
    return expanded(found, pattern)


def _without(names: list[str], folder: Path, spared: list[str]) -> list[str]:
    """The names but those of `spared`. An exception that is nothing in the folder is misspelt: refused."""
    there = [entry.name for entry in folder.iterdir()] if spared else []
    for patterns in exceptions(spared):
        if not any(map(compiled(patterns, re.IGNORECASE).match, there)):
            raise nowhere(folder, patterns)
    stays = compiled(spared, re.IGNORECASE)
    return [name for name in names if not stays.match(name)] if spared else names


def _check(place: Path, *, recursive: bool) -> None:
    place.lstat()  # raises what is said of a name that is not there
    if place.is_dir() and not place.is_symlink() and not recursive and any(place.iterdir()):
        raise Refused(f"{shown(str(place))} is a folder with things in it: recursive=true takes all of it")


def _more_than(places: list[Path], most: dict[str, int]) -> int:
    """The bound in bytes, when what lies there is more than that, or too many files; else 0."""
    num_bytes = number = 0
    for path in places:
        for found in _stats(path):
            num_bytes, number = num_bytes + found.st_size, number + 1  # holes are copied, too
            if num_bytes > most["bytes"] or number > most["entries"]:
                return most["bytes"]
    return 0


def _stats(path: Path) -> Iterator[os.stat_result]:
    found = path.lstat()
    yield found
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            yield from _stats(entry)


def _refuse_too_many(places: list[Path]) -> None:
    number = 0
    for path in places:
        for _ in _stats(path):
            number += 1
            if number > _MOST_AT_ONCE:
                most = f"{_MOST_AT_ONCE:,}"
                raise Refused(
                    f"there are more than {most} files, and one call takes back no more: do it in parts"
                )


def _delete(places: list[Path]) -> None:
    for place in places:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


def _move_all(folder: Path, names: list[str], trash: Path, absolute: str) -> None:
    done: list[tuple[Path, Path, Path]] = []
    try:
        for name in names:
            place = folder / name
            info = _describe(trash / "info", place.name, f"{absolute.rstrip('/')}/{name}")
            content = trash / "files" / info.name.removesuffix(".trashinfo")
            done.append((place, content, info))
            shutil.move(place, content)
    except BaseException as error:
        for place, content, info in reversed(done):
            if not os.path.lexists(place) and os.path.lexists(content):
                shutil.move(content, place)
            info.unlink(missing_ok=True)
        if isinstance(error, shutil.Error):
            raise Refused(
                f"{shown(str(folder / names[0]))} holds what the trash does not take (a pipe, or a file that "
                "may not be read): for_good=true deletes it without the trash"
            ) from None
        raise


def _describe(info: Path, name: str, path: str) -> Path:
    """The file that says where it was, under the first name that is free."""
    text = f"{_HEAD}\nPath={quote(os.fsencode(path))}\nDeletionDate={time.strftime('%Y-%m-%dT%H:%M:%S')}\n"
    stem, ending = os.path.splitext(name)  # noqa: PTH122 - of a name, not of a path
    for number in range(1, 100_000):
        free = name if number == 1 else f"{stem[:200]}.{number}{ending[:20]}"
        place = info / f"{free[:240]}.trashinfo"
        if os.path.lexists(info.parent / "files" / free[:240]):
            continue
        try:
            with place.open("x") as file:
                file.write(text)
        except FileExistsError:
            continue
        return place
    raise Refused("the trash holds too many things of that name: empty it")


def _tell(what: str, names: list[str]) -> None:
    say_first([f"{what} {shown(name)}" for name in names])


# --- out of the trash --------------------------------------------------------------------------------


def kept(trash: Path) -> Iterator[Kept]:
    """Everything that can be restored; what is no description of anything is passed over."""
    try:
        infos = sorted((trash / "info").glob("*.trashinfo"))
    except OSError:
        return
    for info in infos:
        try:
            lines = info.read_text(errors="surrogateescape").splitlines()
        except OSError:
            continue
        told = dict(line.partition("=")[::2] for line in lines[1:] if "=" in line)
        if lines[:1] == [_HEAD] and told.get("Path", "").startswith("/"):
            path = unquote(told["Path"], errors="surrogateescape")
            yield Kept(info, path, told.get("DeletionDate", ""))


def find(trash: Path, name: str, path: str) -> list[Kept]:
    """What was called so, or lay there, or is called so in the trash; the latest comes first."""
    wanted = name.strip().rstrip("/")
    found = [
        one for one in kept(trash) if one.path == path or wanted in (Path(one.path).name, one.content.name)
    ]
    return sorted(found, key=lambda one: one.date, reverse=True)


def restore(trash: Path, name: str, path: str) -> None:
    found = [one for one in find(trash, name, path) if os.path.lexists(one.content)]
    if not found:
        there = some((Path(one.path).name for one in kept(trash)), 10)
        raise Refused(f"there is no {shown(name)} in the trash; it holds {there or 'nothing'}")
    one = found[0]
    target = Path(one.path)
    if os.path.lexists(target):
        raise Refused(f"{shown(one.path)} exists by now; move that away first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(one.content, target)
    except OSError as error:
        raise Refused(
            f"it belongs to {shown(str(target.parent))}, where this request may not write "
            f"({error.strerror}): make the request there, or add --write {shown(str(target.parent))}"
        ) from None
    one.info.unlink()
    say(f"restored {shown(one.path)}")
    if len(found) > 1:
        say(f"{count(len(found) - 1, 'older one')} of that name still there")
