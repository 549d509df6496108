"""Archives: list, check, extract, and compress one file. All is checked before anything is written.

Owners are never taken from an archive, set-id bits neither; group and others get no right to write. Links
are made when everything else is there, so nothing is ever written through one of them.
"""

from __future__ import annotations

import bz2
import contextlib
import difflib
import fnmatch
import gzip
import lzma
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from llmos.toolbox.inside.formats import Entry, Open, explained, walk
from llmos.toolbox.inside.ledger import Ledger
from llmos.toolbox.inside.patterns import exceptions
from llmos.toolbox.inside.told import Refused, count, say, shown, size

_MAX_LISTED = 1000
_BLOCK = 1 << 20
_COMPRESSORS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def main(args: dict[str, Any]) -> int:
    match args["action"]:
        case "compress":
            compress(Path(args["path"]), Path(args["archive"]))
        case "list":
            with explained(args["name"]):
                show(args)
        case action:
            with explained(args["name"]):
                extract(args, only_check=action == "check")
    return 0


# --- looking -----------------------------------------------------------------------------------------


def show(args: dict[str, Any]) -> None:
    """Size, time and name of each entry, and the totals."""
    number = num_bytes = 0
    for entry, _ in chosen(args):
        number, num_bytes = number + 1, num_bytes + entry.size
        if number <= _MAX_LISTED:
            say(_line(entry))
    if number > _MAX_LISTED:
        say(f"… and {number - _MAX_LISTED:,} more")
    say(f"{count(number, 'entry')}, {size(num_bytes)} unpacked")


def _line(entry: Entry) -> str:
    num_bytes = "-" if entry.kind == "folder" else size(entry.size)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(min(max(entry.mtime, 0), 1 << 36)))
    name = shown(entry.name) + ("/" if entry.kind == "folder" and not entry.name.endswith("/") else "")
    return f"{num_bytes:>8}  {when}  {name}{f' -> {shown(entry.target)}' if entry.target else ''}"


# --- extracting --------------------------------------------------------------------------------------


def extract(args: dict[str, Any], *, only_check: bool) -> None:
    folder = Path(args["to"])
    if args["archive"] != "-" or only_check:
        checked = Ledger(folder, args["limit"])
        for entry, read in chosen(args):
            path = checked.add(entry)
            if path and is_same(folder / path, entry, read):
                checked.kept.add(path)
        checked.finish()
        checked.refuse_what_stands()
        checked.refuse_full_disk()
    if not only_check:
        Unpacking(folder, args["limit"]).run(args)


def chosen(args: dict[str, Any]) -> Iterator[tuple[Entry, Open]]:
    """The entries that are asked for: `only` these, and none of `except`. Raises Refused, at the end, for
    what the archive does not have.
    """
    wanted, spared = args.get("only") or (), args.get("except") or ()
    found: set[str] = set()
    names: list[str] = []
    for entry, read in walk(args["archive"], args["inner"], args["limit"], args["packed"]):
        fitting = {pattern for pattern in {*wanted, *spared} if _fits(entry.name, pattern)}
        found |= fitting
        if not fitting.intersection(spared) and (fitting or not wanted):
            yield entry, read
        names += [entry.name] if len(names) < _MAX_LISTED else []
    for patterns in (*([one] for one in wanted), *exceptions(spared)):
        if not found.intersection(patterns):
            raise Refused(_missing(patterns, names))


def _missing(patterns: Sequence[str], names: Sequence[str]) -> str:
    like = {PurePosixPath(name).name: name for name in reversed(names)}
    close = difflib.get_close_matches(PurePosixPath(patterns[0]).name, like, 1, cutoff=0.5)
    guess = f" Did you mean {shown(like[close[0]])}?" if close else ""
    return f"there is no {' or '.join(map(shown, patterns))} in it, so nothing was done.{guess}"


def _fits(name: str, pattern: str) -> bool:
    """Whether an entry, or a folder it is in, is called so: `docs/a.txt` by `a.txt`, `*.TXT`, `docs/a*`."""
    parts = PurePosixPath(name.lower()).parts
    wanted = PurePosixPath(pattern.lower().replace("[", "[[]")).parts
    runs = (parts[start : start + len(wanted)] for start in range(len(parts) - len(wanted) + 1))
    return bool(wanted) and any(all(map(fnmatch.fnmatchcase, run, wanted)) for run in runs)


class Unpacking:
    """One extraction. What it made is removed again if it does not come to its end."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self._folder = folder
        self._ledger = Ledger(folder, limit)
        self._made: list[Path] = []
        self._times: list[tuple[Path, Entry]] = []
        self._num_bytes = 0
        self._num_kept = 0

    def run(self, args: dict[str, Any]) -> None:
        try:
            self._make_folder(self._folder)
            for entry, read in chosen(args):
                if path := self._ledger.add(entry):
                    self._put(self._folder / path, entry, read)
            self._ledger.finish()
            self._link()
        except BaseException:
            self._remove()
            raise
        self._set_times()
        self._tell()

    def _put(self, place: Path, entry: Entry, read: Open) -> None:
        if is_same(place, entry, read):
            self._num_kept += 1
            return
        self._make_folder(place if entry.kind == "folder" else place.parent)
        if entry.kind == "file":
            self._write(place, entry, read)
        if entry.kind in ("file", "folder"):
            self._times.append((place, entry))

    def _make_folder(self, place: Path) -> None:
        if place.is_dir():
            return
        self._make_folder(place.parent)
        place.mkdir()
        self._made.append(place)

    def _write(self, place: Path, entry: Entry, read: Open) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(place, flags, 0o600)
        self._made.append(place)
        with os.fdopen(fd, "wb") as file, read() as source:
            self._num_bytes += _copy(source, file)
        place.chmod(entry.mode & 0o755 | 0o600)

    def _link(self) -> None:
        for path, target in self._ledger.hard.items():
            self._make_folder((self._folder / path).parent)
            (self._folder / path).hardlink_to(self._folder / target)
            self._made.append(self._folder / path)
        for path, target in self._ledger.targets.items():
            self._make_folder((self._folder / path).parent)
            (self._folder / path).symlink_to(target)
            self._made.append(self._folder / path)

    def _set_times(self) -> None:
        made = set(self._made)
        for place, entry in reversed(self._times):  # a folder's after what is in it
            with contextlib.suppress(OSError, OverflowError, ValueError):
                os.utime(place, (entry.mtime, entry.mtime))
            if entry.kind == "folder" and place in made:
                place.chmod(entry.mode & 0o755 | 0o700)

    def _remove(self) -> None:
        for place in reversed(self._made):
            with contextlib.suppress(OSError):
                if place.is_dir() and not place.is_symlink():
                    place.rmdir()
                else:
                    place.unlink()

    def _tell(self) -> None:
        ledger = self._ledger
        files = sum(kind != "folder" for kind in ledger.kinds.values())
        folders = len(ledger.kinds) - files
        files -= self._num_kept
        what = count(files, "file") + (f" and {count(folders, 'folder')}" if folders else "")
        say(f"extracted {what} ({size(self._num_bytes)}) into {shown(str(self._folder))}")
        if self._num_kept:
            say(f"{count(self._num_kept, 'file')} stood there already, with the same content.")
        if ledger.set_id:
            say(f"{count(ledger.set_id, 'file')} would have run as its owner (set-id); that was not kept.")


def is_same(place: Path, entry: Entry, read: Open) -> bool:
    """Whether what the archive would put there is there: a file with the very content."""
    if entry.kind != "file" or place.is_symlink() or not place.is_file():
        return False
    with place.open("rb") as there, read() as source:
        while block := source.read(_BLOCK):
            if there.read(len(block)) != block:
                return False
        return not there.read(1)


def _copy(source: IO[bytes], file: IO[bytes]) -> int:
    """Copy, leaving holes where there are only zeros: a sparse file stays one. How many bytes."""
    total = 0
    while block := source.read(_BLOCK):
        total += len(block)
        if block.count(0) == len(block):
            file.seek(len(block), os.SEEK_CUR)
        else:
            file.write(block)
    file.truncate(total)
    return total


# --- one file ----------------------------------------------------------------------------------------


def compress(path: Path, archive: Path) -> None:
    """The file, compressed beside itself or elsewhere; it stays."""
    if path.is_dir():
        ending = archive.suffix
        raise Refused(f"{shown(str(path))} is a folder, and a {ending} holds one file: name a .tar{ending}")
    with path.open("rb") as source:
        try:
            with _COMPRESSORS[archive.suffix.lower()](archive, "xb") as packed:
                while block := source.read(_BLOCK):
                    packed.write(block)
        except FileExistsError:
            raise Refused(f"{shown(str(archive))} exists already; it was left alone.") from None
        except BaseException:
            archive.unlink(missing_ok=True)
            raise
