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

from llmos.toolbox.inside.query import Answer, answered, arithmetic
from llmos.toolbox.inside.tables import DECIMAL_COMMA, Table, Value, opened
from llmos.toolbox.inside.told import Refused, count, say, shown

_ASSIGNED = re.compile(r"\s*(?P<column>[^=]+?)\s*=\s*(?P<value>.*?)\s*", re.DOTALL)
_NEXT = re.compile(r",(?=[^,=]+=)")  # a comma that another assignment follows
_QUOTED = re.compile(r"\"(.*)\"|'(.*)'", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d[\d.,]*")

New = Mapping[int, Mapping[int, str]]  # of a row's number, from 1, and a column's place: its new text


@dataclass(frozen=True, slots=True)
class Assigned:
    """A column's place, and what becomes of it: a text, or what SQL makes of each row."""

    place: int
    text: str
    sql: str = ""


def main(args: dict[str, Any]) -> int:
    question = {"select": None, "group": None, "sum": None, "sort": None, "separator": None, "limit": None}
    with answered({**question, **args}) as answer, tempfile.TemporaryFile() as made:
        table = answer.table
        if table.is_json or table.separator == " ":
            raise Refused("only rows of a CSV or TSV file can be changed so; for JSON there is text.set")
        source, target = Path(args["path"]), Path(args["to"] or args["path"])
        if args["to"] and target.exists():
            raise Refused(f"{shown(args['to_name'])} exists already; nothing was written")
        new = _made(answer, _assigned(args["set"], table))
        changed = _write(made, source, table, new)
        if not new:
            raise Refused("no row fits, so nothing was changed")
        made.seek(0)
        with target.open("wb") as file:
            shutil.copyfileobj(made, file)
    what = count(changed, "row") if changed else "no row; it is so already"
    say(f"changed {what} in {shown(args['to_name'] or args['name'])}")
    return 0


def _assigned(text: str, table: Table) -> list[Assigned]:
    found = []
    for part in _NEXT.split(text):
        match = _ASSIGNED.fullmatch(part)
        if not match:
            raise Refused(f"`set` is not understood: {shown(part)!r}; write it as column = value")
        found.append(_one(table.index(match["column"]), match["value"], table))
    return found


def _one(place: int, value: str, table: Table) -> Assigned:
    if quoted := _QUOTED.fullmatch(value):
        return Assigned(place, quoted[1] if quoted[1] is not None else quoted[2])
    return Assigned(place, value, arithmetic(value, table))


def _made(answer: Answer, assigned: Sequence[Assigned]) -> dict[int, dict[int, str]]:
    """What each row that fits gets. Raises Refused for a cell that is no number where one is needed."""
    new: dict[int, dict[int, str]] = {}
    columns = ", ".join(f"({one.sql or 'NULL'}), c{one.place}" for one in assigned)
    for row, *cells in answer.rows_of(columns):
        values, olds = cells[::2], cells[1::2]
        for one, value, old in zip(assigned, values, olds, strict=True):
            if one.sql and value is None:
                raise Refused(f"row {row} has no number there, but {shown(str(old or ''))!r}")
            text = _written(value, str(old or "")) if one.sql else one.text
            new.setdefault(row, {})[one.place] = text
    return new


def _written(value: Value, old: str) -> str:
    """A number with as many decimals as stood there, and what stood around it: `12.50` and 5 are `17.50`."""
    number = _NUMBER.search(old)
    before, around = (number[0].rstrip(".,"), old) if number else ("", "")
    comma = bool(DECIMAL_COMMA.fullmatch(before))
    decimals = len(before.rpartition("," if comma else ".")[2]) if ("," if comma else ".") in before else 0
    plain = f"{float(value or 0):.12g}" if not decimals else f"{float(value or 0) + 0.0:.{decimals}f}"
    text = plain.replace(".", ",") if comma else plain
    return around.replace(before, text, 1) if before else text


def _write(file: IO[bytes], source: Path, table: Table, new: New) -> int:
    """The table with what is new in it; how many rows are other than they were."""
    changed = 0
    with opened(source) as text:
        encoding = "utf-8" if text.encoding == "utf-8-sig" else "utf-16-le"
        file.write(_mark(source))
        for number, (raw, row) in enumerate(_lines(text, table.separator)):
            cells = [*row, *("" for _ in range(len(row), max(new.get(number, {}), default=-1) + 1))]
            for place, value in new.get(number, {}).items() if number else ():
                cells[place] = value
            changed += cells != row
            line = _line(cells, table.separator, raw) if cells != row else raw
            file.write(line.encode(encoding, "surrogateescape"))
    return changed


def _mark(source: Path) -> bytes:
    """The byte order mark that reading swallows; wide text is written little-endian."""
    with source.open("rb") as file:
        head = file.read(3)
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    return b"\xff\xfe" if wide else b"\xef\xbb\xbf" if head == b"\xef\xbb\xbf" else b""


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
    csv.writer(buffer, delimiter=separator, lineterminator="").writerow(cells)
    body = raw.rstrip("\r\n")
    before = re.match(r"[\r\n]*", raw)
    return f"{before[0] if before else ''}{buffer.getvalue()}{raw[len(body) :]}"
