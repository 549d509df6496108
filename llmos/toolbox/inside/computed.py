"""Columns and what is computed from them, `price * qty`, as SQL of our own making; c0, c1 … are columns."""

from __future__ import annotations

import re

from llmos.toolbox.inside.tables import Table

CALL = re.compile(r"(\w+)\s*\(\s*(.*?)\s*\)")
_SIGN = re.compile(r"[*+/]|(?<=\s)-(?=\s)")
_LITERAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


def column_of(name: str, table: Table) -> tuple[str, str]:
    """Its name as it is and its SQL. Raises Refused where there is none."""
    index = table.index(name)
    return table.header[index], f"c{index}"


def computed(text: str, table: Table, *, real: bool = False) -> tuple[str, str]:
    """A column as a number, or what two of them make: `price * qty`, `income - costs`, `minutes / 60`."""
    if sides := sides_of(text, table):
        real = real or sides[1] == "/"  # a half is no 0; what is divided by 0 is nothing
        (left, one), (right, other) = (computed(side, table, real=real) for side in (sides[0], sides[2]))
        return f"{left} {sides[1]} {right}", f"{one} {sides[1]} {other}"
    if _LITERAL.fullmatch(text) and not table.has(text):
        return text, f"{text}.0" if real and text.isdecimal() else text
    name, place = column_of(text, table)
    return name, f"CAST(num({place}) AS REAL)" if real else f"num({place})"


def arithmetic(text: str, table: Table) -> str:
    """The SQL of `price * 1.1`, in which at least one side is a column; empty for what is a text."""
    parts = _parts(text, table)
    if len(parts) < 2 or not any(map(table.has, parts)):
        return ""
    return computed(text, table)[1] if all(_is_operand(part, table) for part in parts) else ""


def _parts(text: str, table: Table) -> list[str]:
    sides = sides_of(text, table)
    return [text] if sides is None else [*_parts(sides[0], table), *_parts(sides[2], table)]


def _is_operand(text: str, table: Table) -> bool:
    return table.has(text) or bool(_LITERAL.fullmatch(text))


def sides_of(text: str, table: Table) -> tuple[str, str, str] | None:
    """The sides of `price * qty` and the sign between them; a column may be called so itself, or `km/h`."""
    if table.has(text):
        return None
    other = None
    for sign in _SIGN.finditer(text):
        sides = (text[: sign.start()].strip(), sign[0], text[sign.end() :].strip())
        if not sides[0] or not sides[2]:
            continue
        if _is_operand(sides[0], table):
            return sides
        # A name that is not there may have a slash of its own; what is said then is that it is not there.
        other = other or (sides if sign[0] != "/" else None)
    return other


def operands_of(text: str, table: Table) -> list[str]:
    """The columns that a sum adds up, or makes one number of; none where a function stands."""
    if table.has(text):
        return [text]
    sides = None if CALL.fullmatch(text) else sides_of(text, table)
    return [] if sides is None else [*operands_of(sides[0], table), *operands_of(sides[2], table)]
