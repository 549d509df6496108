"""`llmos audit tail|show|verify|export|key`: the journal, read where it lies.

It needs no daemon: the journal is a file of who runs the daemon, and a system service's is for who may
read it. Nothing here writes into it; `key` takes the verification key off this machine.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

from llmos import paths
from llmos.cli_requests import print_json
from llmos.console import journal, screen
from llmos.errors import CallFailed, UsageError
from llmos.guard import audit_files, audit_key

JsonObject = dict[str, Any]

POLL_S = 0.25
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_COLUMNS = ("seq", "time", "kind", "id", "uid", "tool", "command", "cwd", "verdict", "rule", "reason",
            "approved", "runs", "ok", "exit_code", "duration_ms")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Dispatch; raises UsageError for what does not go together, CallFailed for an unreadable journal."""
    if options.id and options.action != "show":
        raise UsageError(
            f"`audit {options.action}` takes no ID", f"Did you mean: llmos audit show {options.id}?"
        )
    with _readable():
        return ACTIONS[options.action](options, paths.audit_file())


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise CallFailed(
            f"{error.filename} cannot be read or written ({error.strerror})",
            "Run it as the user of the daemon, for a system service: sudo llmos audit …",
        ) from error


# --- tail and show -----------------------------------------------------------------------------------


def tail(options: argparse.Namespace, path: Path) -> int:
    """The newest lines, and with -f those that follow, until Ctrl-C."""
    lines = _newer_than(path, -1, options.n)
    _show(options, lines, empty=not options.follow)
    if options.follow:
        try:
            _follow(options, path, lines[-1]["seq"] if lines else -1)
        except KeyboardInterrupt:  # how one leaves it
            return 0
    return 0


def _follow(options: argparse.Namespace, path: Path, last: int) -> None:
    seen = None
    while True:
        if (now := _stamp(path)) != seen:
            lines = _newer_than(path, last)
            _show(options, lines, empty=False)
            last, seen = (lines[-1]["seq"] if lines else last), now
        time.sleep(POLL_S)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size


def _newer_than(path: Path, last: int, limit: int = 1 << 30) -> list[JsonObject]:
    """Lines after that number, newest last, at most `limit`; numbers that are none are not shown."""
    found: list[JsonObject] = []
    for line in audit_files.newest_entries(path):
        if not isinstance(line.get("seq"), int):
            continue
        if line["seq"] <= last or len(found) == limit:
            break
        found.append(line)
    return found[::-1]


def _show(options: argparse.Namespace, lines: list[JsonObject], *, empty: bool) -> None:
    if options.json:
        for line in lines:
            print_json(line)
    elif lines or empty:
        screen.write(sys.stdout, journal.tail(lines, screen.look_of(sys.stdout), screen.width(sys.stdout)))


def show(options: argparse.Namespace, path: Path) -> int:
    """One request: decision, effects, outcome."""
    if not options.id:
        raise UsageError("which request?", "See their ids: llmos audit tail")
    lines = [line for line in audit_files.entries_with(path, options.id) if line.get("id") == options.id]
    if not lines:
        raise UsageError(f"the journal has no request {options.id}", "See their ids: llmos audit tail")
    if options.json:
        print_json({"id": options.id, "entries": lines})
    else:
        screen.write(sys.stdout, journal.request(options.id, lines, screen.look_of(sys.stdout)))
    return 0


# --- verify ------------------------------------------------------------------------------------------


def verify(options: argparse.Namespace, path: Path) -> int:
    """Walk all files; exit 5 when something was changed, dropped, added or cut off."""
    from llmos.guard import audit_verify

    key_file = Path(options.key) if options.key else None
    if options.mark and key_file is None:
        raise UsageError("--mark writes into the key file", "Name it: llmos audit verify --key FILE --mark")
    found = audit_verify.examine(path, key_file)
    if options.mark and key_file and not found.problem:
        audit_verify.mark(key_file, found)
    if options.json:
        print_json({"ok": not found.problem, "path": str(path), **asdict(found)})
        return 5 if found.problem else 0
    if found.problem:
        raise CallFailed(
            f"{path}: {found.problem}",
            "Somebody changed it, or files were lost. Keep it for who looks into that, and begin anew: "
            f"mkdir {path.parent}/damaged && mv {path.parent}/audit* {path.parent}/damaged",
        )
    screen.write(sys.stdout, _whole(path, found))
    return 0


def _whole(path: Path, found: Any) -> str:
    files = f" in {found.files} files" if found.files > 1 else ""
    text = f"{found.lines} lines{files}, each as it was written: {path}\n"
    if found.sealed:
        text += f"{found.sealed} of them checked against the verification key\n"
    notes = list(found.notes)
    if found.key_here:
        notes.append(
            "the verification key still lies on this machine, so who takes it over could rewrite all of the "
            "journal. Keep the key elsewhere: llmos audit key --move FILE"
        )
    return text + "".join(f"note: {note}\n" for note in notes)


# --- export --------------------------------------------------------------------------------------------


def export(options: argparse.Namespace, path: Path) -> int:
    """The lines of a span of time, as they stand or as a table for other programs."""
    since, until = moment(options.since, 0.0), moment(options.until, float("inf"))
    look = screen.look_of(sys.stdout)
    if options.format == "csv":
        screen.write(sys.stdout, _csv_row(_COLUMNS))
    for line, entry in audit_files.lines_and_entries(path):
        if since <= _time(entry) < until:
            text = _csv_row([_cell(entry.get(name)) for name in _COLUMNS])
            screen.write(sys.stdout, look.text(text if options.format == "csv" else f"{line.decode()}\n"))
    return 0


def _time(line: JsonObject) -> float:
    found = line.get("time")
    return found if isinstance(found, int | float) else 0.0


def _csv_row(cells: Any) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cell(value: object) -> str:
    """Text that a spreadsheet would take for a formula gets a quote in front."""
    text = "" if value is None else str(value)
    return (
        f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    )


def moment(text: str, default: float) -> float:
    """`2026-11-25`, `2026-11-25 14:30` (local time) or `3d`, `2h`, `30m` ago, as seconds since the epoch."""
    if not text:
        return default
    if ago := _AGO.fullmatch(text.strip()):
        return time.time() - float(ago[1]) * _UNIT_S[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no time", "Write 2026-11-25, '2026-11-25 14:30', or 3d, 2h, 30m for as long ago."
        ) from error


# --- the verification key --------------------------------------------------------------------------------


def key(options: argparse.Namespace, path: Path) -> int:
    """Print the verification key, or take it off this machine."""
    here = audit_files.key_file(path)
    keys = audit_key.read_keys(here)
    if not keys:
        step = "Give the file it was moved to: llmos audit verify --key FILE"
        raise UsageError("no verification key lies here: none was made yet, or it was taken away", step)
    if options.move:
        return _move(keys, here, Path(options.move))
    if options.remove:
        return _remove(keys, here, options.remove)
    if options.json:
        print_json({"path": str(here), "keys": [{"id": one.id, "line": one.line().strip()} for one in keys]})
        return 0
    screen.write(sys.stdout, "".join(one.line() for one in keys))
    screen.say(f"once it is stored elsewhere: llmos audit key --remove {keys[-1].id}")
    return 0


def _move(keys: tuple[audit_key.VerificationKey, ...], here: Path, there: Path) -> int:
    try:
        audit_key.store_keys(there, keys)
    except FileExistsError as error:
        raise UsageError(
            f"{there} is there already", "Name a new file; keys are never overwritten."
        ) from error
    except OSError as error:
        raise UsageError(f"{there} cannot be written ({error.strerror})", "Name another place.") from error
    audit_key.erase_keys(here)
    screen.say(f"the verification key is in {there} now; keep that off this machine")
    if there.resolve().stat().st_dev == here.parent.stat().st_dev:
        screen.say("that is a disk of this machine: copy it elsewhere, then delete it here")
    screen.say(f"to verify with it: llmos audit verify --key {there}")
    return 0


def _remove(keys: tuple[audit_key.VerificationKey, ...], here: Path, name: str) -> int:
    """The id shows that the key was printed, and is not lost by a slip."""
    if name != keys[-1].id:
        raise UsageError(
            f"the key here is {keys[-1].id}, not {name}", "Store it first: llmos audit key > FILE"
        )
    audit_key.erase_keys(here)
    screen.say("the verification key is gone from this machine")
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace, Path], int]] = {
    "tail": tail,
    "show": show,
    "verify": verify,
    "export": export,
    "key": key,
}
