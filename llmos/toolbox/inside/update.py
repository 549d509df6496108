"""Cells of a CSV or TSV file changed in place, or into a new file: `qty = 0`, `price = price * 1.1`.

Only the lines of rows in which something changes are written anew; all others stay byte for byte. All is made
before the file is opened for writing, so what goes wrong leaves it alone. Not protected against: a table
larger than the sandbox's memory, which ends in an error.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmos.toolbox.inside.computed import arithmetic
from llmos.toolbox.inside.numbers import Value, number, written
from llmos.toolbox.inside.query import MOST_CHARS, Answer, answered
from llmos.toolbox.inside.tables import Table
from llmos.toolbox.inside.told import Refused, count, say, shown

_NEXT = re.compile(r",(?=[^,=]+=)")  # a comma that another assignment follows
_QUOTES = "\"'"
_SIGNS = re.compile(r"[-+*/%()]")
_NOTHING = {"select": None, "group": None, "sum": None, "sort": None, "separator": None, "limit": None}

New = Mapping[int, Mapping[int, str]]  # of a row's number, from 1, and a column's place: its new text


@dataclass(frozen=True, slots=True)
class Assigned:
    """A column's place, and what becomes of it: a text, or what SQL makes of each row.

    `like` is the place of the column whose numbers show how one is written, where the cell has none.
    """

    place: int
    text: str
    sql: str = ""
    like: int | None = None


def main(args: dict[str, Any]) -> int:
    source, target = Path(args["path"]), Path(args["to"] or args["path"])
    _check(source, target, args)
    with answered({**_NOTHING, **args}) as answer, tempfile.TemporaryFile() as made:
        table = answer.table
        if table.is_json or table.separator == " ":
            raise Refused("only rows of a CSV or TSV file can be changed so; for JSON there is text.set")
        new = _made(answer, _assigned(args["set"], table))
        if not new:
            raise Refused("no row fits, so nothing was changed")
        changed = _write(made, source, table, new)
        made.seek(0)
        with target.open("wb") as file:
            shutil.copyfileobj(made, file)
    what = count(changed, "row") if changed else "no row; it is so already"
    say(f"changed {what} in {shown(args['to_name'] or args['name'])}")
    return 0


def _check(source: Path, target: Path, args: dict[str, Any]) -> None:
    if not source.exists() and set("*?") & set(source.name):
        raise Refused(f"{shown(args['name'])} is a pattern; name one file")
    if args["to"] is None:
        return
    name = shown(args["to_name"])
    if args["to_name"].endswith("/") or target.is_dir():
        raise Refused(f"{name} is a folder; name the new file")
    if target.exists():
        raise Refused(f"{name} exists already; nothing was written")
    if target.suffix.lower() != source.suffix.lower():
        raise Refused(f"{name}: the new file is of the same kind as the old one; text.export converts")


# --- what becomes what -------------------------------------------------------------------------------


def _assigned(text: str, table: Table) -> list[Assigned]:
    """What `qty = 0, note = 'sold, out'` says. Raises Refused."""
    if len(text) > MOST_CHARS:
        raise Refused(f"`set` is longer than {MOST_CHARS} characters")
    found: list[Assigned] = []
    rest = text
    while rest.strip() or not found:
        column, sign, rest = rest.partition("=")
        if not sign or not column.strip():
            raise Refused(f"`set` is not understood: {shown(text)!r}; write it as column = value")
        value, rest = _value(rest.lstrip())
        found.append(_one(table.index(column), value, table))
    return found


def _value(rest: str) -> tuple[str, str]:
    """The value that stands first, with its quotes if it has any, and what is behind the comma after it."""
    quote = rest[:1]
    if quote and quote in _QUOTES:
        end = rest.find(quote, 1)
        after = rest[end + 1 :].lstrip()
        if end > 0 and after[:1] in ("", ","):
            return rest[: end + 1], after[1:]
    parts = _NEXT.split(rest, maxsplit=1)
    return parts[0].rstrip(), parts[1] if len(parts) > 1 else ""


def _one(place: int, value: str, table: Table) -> Assigned:
    if len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES:
        return Assigned(place, value[1:-1])
    columns = [column.casefold() for column in table.header]
    if value.casefold() in columns:
        return Assigned(place, "", f"c{columns.index(value.casefold())}")
    operands = [part.strip() for part in _SIGNS.split(value)]
    named = [table.index(part) for part in operands if part and table.has(part)]
    if sql := arithmetic(value, table):
        return Assigned(place, "", sql, like=named[0] if named else None)
    if named and len(operands) > 1:
        raise Refused(f"{shown(value)!r} is not understood; if it is a text, put it in quotation marks")
    return Assigned(place, value)


def _made(answer: Answer, assigned: Sequence[Assigned]) -> dict[int, dict[int, str]]:
    """What each row that fits gets. Raises Refused for a cell that is no number where one is needed."""
    new: dict[int, dict[int, str]] = {}
    columns = [f"{one.sql or 'NULL'}, c{one.place}, c{one.like or 0}" for one in assigned]
    for row, *cells in answer.rows_of(", ".join(columns)):
        for one, (value, old, like) in zip(assigned, _threes(cells), strict=True):
            new.setdefault(row, {})[one.place] = _text(one, row, value, str(old or ""), str(like or ""))
    return new


def _threes(cells: Sequence[Value]) -> Iterator[Sequence[Value]]:
    return (cells[at : at + 3] for at in range(0, len(cells), 3))


def _text(one: Assigned, row: int, value: Value, old: str, like: str) -> str:
    if not one.sql:
        return one.text
    if one.like is None:  # another column as it is
        return str("" if value is None else value)
    if value is None:
        raise Refused(f"row {row} has no number there, but {shown(old or like)!r}")
    return written(value, old if number(old) is not None else like)


# --- writing -----------------------------------------------------------------------------------------


def _write(file: IO[bytes], source: Path, table: Table, new: New) -> int:
    """The table with what is new in it; how many rows are other than they were. Raises Refused."""
    mark, encoding, errors = _encoding(source)
    file.write(mark)
    changed, foreign = 0, False
    ascii_only = all(value.isascii() for cells in new.values() for value in cells.values())
    with source.open("rb") as raw_file:
        raw_file.seek(len(mark))
        text = io.TextIOWrapper(raw_file, encoding=encoding, errors=errors, newline="")
        for number_of_row, (raw, row) in enumerate(_lines(text, table.separator)):
            cells = _with(row, new.get(number_of_row, {}))
            changed += cells != row
            foreign = foreign or any("\udc80" <= char <= "\udcff" for char in raw)
            line = _line(cells, table.separator, raw) if cells != row else raw
            file.write(line.encode(encoding, errors))
    if foreign and not ascii_only:
        raise Refused("it is not in UTF-8; convert it first, such as with iconv -f latin1 -t utf-8")
    return changed


def _encoding(source: Path) -> tuple[bytes, str, str]:
    """The byte order mark it begins with, its encoding, and what becomes of what is not in that."""
    with source.open("rb") as file:
        head = file.read(3)
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if head.startswith(mark):
            return mark, encoding, "surrogatepass"
    return head if head == b"\xef\xbb\xbf" else b"", "utf-8", "surrogateescape"


def _with(row: list[str], new: Mapping[int, str]) -> list[str]:
    """The row with its new cells; a short one is filled up to them."""
    cells = row + [""] * (max(new, default=-1) + 1 - len(row))
    for place, value in new.items():
        cells[place] = value
    return cells


def _lines(text: io.TextIOWrapper, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Each row with the text it was read from and the empty lines before it; the header is the first."""
    seen: list[str] = []

    def kept() -> Iterator[str]:
        for line in text:
            seen.append(line)
            yield line

    for row in csv.reader(kept(), delimiter=separator):
        if row:
            yield "".join(seen), row
            seen.clear()
    if seen:
        yield "".join(seen), []


def _line(cells: Sequence[str], separator: str, raw: str) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, lineterminator="\r\n").writerow(cells)  # has line breaks quoted
    body = raw.rstrip("\r\n")
    before = raw[: len(raw) - len(raw.lstrip("\r\n"))]
    return f"{before}{buffer.getvalue()[:-2]}{raw[len(body) :]}"
