"""How the programs inside speak: refusals, names on one line, sizes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice


class Refused(Exception):
    """What was asked is not done, and nothing is half done; the sentence says why and what to do."""


def shown(name: str) -> str:
    """A file name on one line: control characters become visible."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names: `a, b, c …`."""
    first = list(islice(names, most + 1))
    return ", ".join(map(shown, first[:most])) + (" …" if len(first) > most else "")


def count(number: int, what: str) -> str:
    """`1 file`, `2 files`, `3 entries`."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def size(num_bytes: float) -> str:
    """`512 B`, `1.5K`, `23.0M`."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    for unit in "KMGTP":
        num_bytes /= 1024
        if num_bytes < 1023.95 or unit == "P":
            break
    return f"{num_bytes:.1f}{unit}"
