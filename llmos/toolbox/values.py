"""Sizes, durations, lists of CPUs and tables: the one place that parses `10M`, `7d` and `0-3`. Pure.

How sizes and durations are written stands below, in `llmos.amounts`, where the console finds it as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmos.amounts import human_duration, human_size

__all__ = [
    "DURATION_PATTERN",
    "SIZE_PATTERN",
    "cpu_list",
    "cpu_set",
    "duration_s",
    "human_duration",
    "human_size",
    "shown",
    "size_bytes",
    "table",
]

SIZE_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,3})?[BKMGT]?$"
DURATION_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,3})?[smhdwy]$"

# A person may write more than a model: `10 MB`, `1.5GiB`, `90 min`.
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*(s|m|min|h|d|w|y)", re.IGNORECASE | re.ASCII)
_CPU_DIGITS = 6
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


def size_bytes(text: str) -> int:
    """`10M` in bytes, units being powers of 1024 as in du(1) and find(1). Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError("a size such as 500K, 10M or 1.5G")
    return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])


def duration_s(text: str) -> float:
    """`7d` in seconds; `m` is minutes, `y` 365 days. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError("a duration such as 30m, 12h or 7d")
    return float(found[1]) * _SECONDS[found[2].lower()]


def cpu_set(text: str) -> set[int]:
    """`0-3,6` as a set. Raises ValueError."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        numbers = (first, last) if dash else (first, first)
        if not all(number.isdecimal() and len(number) < _CPU_DIGITS for number in numbers):
            raise ValueError(f"{text[:80]!r} is no list of CPUs such as 0-3 or 0,2")
        found |= set(range(int(numbers[0]), int(numbers[1]) + 1))
    return found


def cpu_list(cpus: set[int] | frozenset[int]) -> str:
    """A set as `0-3,6`."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Aligned columns, two blanks apart; the columns in `right` are right-aligned, the last never padded."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "".join(_line(row, widths, right) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> str:
    cells = [
        cell.rjust(width) if column in right else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
    return "  ".join([*cells, row[-1]]).rstrip(" ") + "\n"


def shown(name: str) -> str:
    """A file name on one line: control characters (a newline, an escape sequence) become visible."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
