"""The journal's files: the one being written, the ones rotated away, and how to read them both ways.

    audit.jsonl                  being written
    audit-000000004711.jsonl     rotated, named after the number of its first line; names sort by age
    audit.state, audit.key       see `audit_key`

A line that does not end in a newline is torn: readers skip it. What the lines say is not looked at here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from llmos.messages import JsonObject

_CHUNK_BYTES = 1 << 16


def state_file(path: Path) -> Path:
    return path.with_suffix(".state")


def key_file(path: Path) -> Path:
    return path.with_suffix(".key")


def rotated_name(path: Path, first: int) -> Path:
    return path.with_name(f"{path.stem}-{first:012d}{path.suffix}")


def rotated(path: Path) -> list[Path]:
    """The files rotated away, oldest first."""
    pattern = f"{path.stem}-{'[0-9]' * 12}{path.suffix}"
    return sorted(path.parent.glob(pattern))


def all_files(path: Path) -> list[Path]:
    return [*rotated(path), *([path] if path.exists() else [])]


def sizes(path: Path) -> list[int]:
    """Bytes of each file."""
    found = []
    for file in all_files(path):
        with suppress(FileNotFoundError):  # rotated away meanwhile
            found.append(file.stat().st_size)
    return found


# --- lines, as bytes without their newline --------------------------------------------------------


def forward(file: BinaryIO) -> Iterator[bytes]:
    """Every whole line from where the file stands."""
    for line in file:
        if line.endswith(b"\n"):
            yield line[:-1]


def backward(file: BinaryIO, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """Every whole line, the last one first, without reading the whole file."""
    position = file.seek(0, os.SEEK_END)
    parts: list[bytes] = []  # of the line that goes on to the left, right end first
    whole = False  # nothing is, before the last newline
    while position > 0:
        start = max(0, position - chunk_bytes)
        file.seek(start)
        head, *rest = file.read(position - start).split(b"\n")
        for piece in reversed(rest):
            if whole:
                yield b"".join([piece, *reversed(parts)])
            parts, whole = [], True
        if whole or not rest:
            parts.append(head)
        position = start
    if whole:
        yield b"".join(reversed(parts))


def last_line(file: BinaryIO) -> bytes:
    """The last whole line; empty when there is none."""
    return next(backward(file), b"")


def whole_size(file: BinaryIO, chunk_bytes: int = _CHUNK_BYTES) -> int:
    """Bytes up to the end of the last whole line."""
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - chunk_bytes)
        file.seek(start)
        if (end := file.read(position - start).rfind(b"\n")) >= 0:
            return start + end + 1
        position = start
    return 0


# --- lines, as objects ------------------------------------------------------------------------------


def entries(path: Path) -> Iterator[JsonObject]:
    """Every line of every file that is a JSON object, oldest first."""
    yield from _parsed(line for file in all_files(path) for line in _lines(file))


def lines_and_entries(path: Path) -> Iterator[tuple[bytes, JsonObject]]:
    """The same, each with its line as it stands."""
    for file in all_files(path):
        for line in _lines(file):
            yield from ((line, entry) for entry in _parsed(iter((line,))))


def newest_entries(path: Path) -> Iterator[JsonObject]:
    """The same, newest first, reading only as far as asked."""
    yield from _parsed(line for file in reversed(all_files(path)) for line in _lines(file, back=True))


def entries_with(path: Path, text: str) -> Iterator[JsonObject]:
    """Those whose line holds this text: most need no parsing then."""
    wanted = json.dumps(text).encode()
    found = (line for file in all_files(path) for line in _lines(file) if wanted in line)
    yield from _parsed(found)


def _lines(path: Path, *, back: bool = False) -> Iterator[bytes]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except FileNotFoundError:  # rotated away meanwhile
            return
        yield from backward(file) if back else forward(file)


def _parsed(lines: Iterator[bytes]) -> Iterator[JsonObject]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # `verify` tells of it
        if isinstance(entry, dict):
            yield entry
