"""Names and patterns: what a pattern takes in, and what is excepted. `[` is itself: names have it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def compiled(patterns: Sequence[str], flags: int = 0) -> re.Pattern[str]:
    """What is true of a whole name that one of the patterns takes in."""
    return re.compile("|".join(fnmatch.translate(one.replace("[", "[[]")) for one in patterns), flags)


def expanded(names: Iterable[str], pattern: str) -> list[str]:
    """As a shell expands it: in order, hidden names only for a pattern that begins with a dot."""
    fits, hidden = compiled([pattern]), pattern.startswith(".")
    return sorted(name for name in names if fits.match(name) and (hidden or not name.startswith(".")))


def taken_in(pattern: Path, but: Path | None) -> list[Path]:
    """The regular files that a pattern takes in, in the order of their names, `but` one: what is written."""
    names = (one.name for one in pattern.parent.iterdir())
    files = [pattern.parent / name for name in expanded(names, pattern.name)]
    return [one for one in files if one.is_file() and not is_same(one, but)]


def is_same(one: Path, other: Path | None) -> bool:
    return other is not None and one.exists() and other.exists() and one.samefile(other)


def exceptions(spared: Sequence[str]) -> list[Sequence[str]]:
    """Of each of these something must be there: each name by itself; any one pattern if all are."""
    names = [name for name in spared if not set("*?") & set(name)]
    return [[name] for name in names] or ([spared] if spared else [])
