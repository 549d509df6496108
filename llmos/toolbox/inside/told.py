"""How the programs inside speak: refusals, names on one line, sizes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import islice

from llmos.toolbox.values import human_size as size
from llmos.toolbox.values import shown

__all__ = ["Refused", "count", "nowhere", "say", "say_first", "shown", "size", "some"]


class Refused(Exception):
    """What was asked is not done, and nothing is half done; the sentence says why and what to do."""


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names: `a, b, c …`."""
    first = list(islice(names, most + 1))
    return ", ".join(map(shown, first[:most])) + (" …" if len(first) > most else "")


def count(number: int, what: str) -> str:
    """`1 file`, `2 files`, `3 entries`."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def nowhere(folder: object, patterns: Iterable[str]) -> Refused:
    """An exception that is nothing in the folder: what is misspelt would not be spared."""
    told = " or ".join(map(shown, patterns))
    return Refused(f"nothing in {shown(str(folder))} is called {told}, so nothing was done")


def say_first(lines: Sequence[str], most: int = 20) -> None:
    for line in lines[:most]:
        say(line)
    if len(lines) > most:
        say(f"… and {len(lines) - most:,} more")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
