"""Files with the same content, from records `SIZE INODE PATH` on standard input, sorted by size.

One size is looked at at a time, so the memory holds no more than the files of one size. The first block
is compared before the whole is read. Several names of one file are no duplicates.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmos.toolbox.inside.told import count, say, shown, size

_HEAD_BYTES = 64 << 10
_BLOCK_BYTES = 1 << 20
_MAX_NAMES = 20  # of one group


def main(args: dict[str, Any]) -> int:
    groups = extra = wasted = 0
    for num_bytes, alike in itertools.groupby(_records(), key=lambda record: record[0]):
        for paths in _same(num_bytes, [(inode, path) for _, inode, path in alike]):
            groups, extra = groups + 1, extra + len(paths) - 1
            wasted += num_bytes * (len(paths) - 1)
            if groups <= args["limit"]:
                _tell(num_bytes, paths)
    if groups > args["limit"]:
        say(f"… and {groups - args['limit']:,} more groups")
    if groups:
        say(f"{count(extra, 'duplicate')} of {count(groups, 'file')}, {size(wasted)} could be freed")
    return 0


def _records() -> Iterator[tuple[int, str, str]]:
    left = b""
    while block := sys.stdin.buffer.read(_BLOCK_BYTES):
        *records, left = (left + block).split(b"\0")
        for record in records:
            num_bytes, inode, path = record.split(b" ", 2)
            yield int(num_bytes), inode.decode(), path.decode("utf-8", "surrogateescape")


def _same(num_bytes: int, files: list[tuple[str, str]]) -> Iterator[list[str]]:
    """Groups of paths with the same content, among files of the same size."""
    paths = list(dict(reversed(files)).values())
    if len(paths) < 2:
        return
    for alike in _by_digest(sorted(paths), _HEAD_BYTES):
        yield from [alike] if num_bytes <= _HEAD_BYTES else _by_digest(alike, None)


def _by_digest(paths: list[str], most: int | None) -> Iterator[list[str]]:
    found: dict[bytes, list[str]] = defaultdict(list)
    for path in paths:
        try:
            found[_digest(path, most)].append(path)
        except OSError as error:
            sys.stderr.write(f"{shown(path)}: {error.strerror}\n")
    yield from (alike for alike in found.values() if len(alike) > 1)


def _digest(path: str, most: int | None) -> bytes:
    digest = hashlib.blake2b()
    with Path(path).open("rb") as file:
        if most is not None:
            digest.update(file.read(most))
        else:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.digest()


def _tell(num_bytes: int, paths: list[str]) -> None:
    say(f"{len(paths)} × {size(num_bytes)}")
    for path in paths[:_MAX_NAMES]:
        say(f"  {shown(path.removeprefix('./'))}")
    if len(paths) > _MAX_NAMES:
        say(f"  … and {len(paths) - _MAX_NAMES:,} more")
