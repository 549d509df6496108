"""How the programs inside speak: refusals, names on one line, sizes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice

from llmos.toolbox.values import human_size as size
from llmos.toolbox.values import shown

__all__ = ["Refused", "count", "say", "shown", "size", "some"]


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


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
