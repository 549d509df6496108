"""Some columns of a table, in the order they were named; by name, or by number from 1."""

from __future__ import annotations

from itertools import chain
from typing import Any

from llmos.toolbox.inside.tables import Row, Table, read, tell
from llmos.toolbox.inside.told import Refused, shown

_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()  # noqa: SIM905


def main(args: dict[str, Any]) -> int:
    try:
        table = read(args["path"], args["separator"], args["columns"])
        return _show(table, args["columns"], args["limit"])
    except Refused as refused:
        raise Refused(f"{shown(args['name'])}: {refused}") from None


def _show(table: Table, names: list[str], limit: int) -> int:
    names = [name if table.has(name) else _place(name, len(table.header)) for name in names]
    by_number = all(name.strip().isdecimal() and not table.has(name) for name in names)
    if not by_number:
        chosen = [table.index(name) for name in names]
        rows = ([row[index] for index in chosen] for row in table.rows())
        return tell([table.header[index] for index in chosen], rows, limit)
    numbers = [int(name) for name in names]
    if wrong := [number for number in numbers if not 1 <= number <= len(table.header)]:
        raise Refused(f"there is no column {wrong[0]}; it has {len(table.header)}")
    first: list[Row] = [list(table.header)]  # nothing says that the first line is a header
    everything = chain(first, table.rows())
    return tell([""] * len(numbers), ([row[number - 1] for number in numbers] for row in everything), limit)


def _place(name: str, count: int) -> str:
    """The number that `second`, `2nd` or `last` stands for; other names as they are."""
    word = name.strip().lower()
    if word == "last":
        return str(count)
    if word in _ORDINALS:
        return str(_ORDINALS.index(word) + 1)
    return word[:-2] if word[:-2].isdecimal() and word[-2:] in ("st", "nd", "rd", "th") else name
