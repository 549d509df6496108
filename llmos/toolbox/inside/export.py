"""The answer to a question to a table as a new file: CSV, TSV, JSON or JSON Lines, by the new file's ending.

Everything is read before the new file is opened, so a file may be written over itself. Not protected against:
a program that reads the new file while it is being written.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from llmos.toolbox.inside.query import answered
from llmos.toolbox.inside.tables import Table, Value, joined
from llmos.toolbox.inside.told import Refused, count, say, shown

_LITERAL = re.compile(r"-?(0|[1-9]\d{0,15})(\.\d+)?|true|false")  # as JSON writes them; 007 is a text
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_PLAIN = (".txt", ".md", "")  # a single column is a list there, one value a line


def main(args: dict[str, Any]) -> int:
    target = Path(args["to"])
    if target.is_dir():
        raise Refused(f"{shown(args['to_name'])} is a folder; name the new file")
    if target.exists() and not args["overwrite"]:
        raise Refused(
            f"{shown(args['to_name'])} exists already; nothing was written (overwrite=true replaces it)"
        )

    def write(table: Table, header: list[str], rows: Iterator[Sequence[Value]]) -> int:
        found = islice(rows, args["limit"])
        first = list(islice(found, 1))  # what goes wrong does so before the file is opened
        with target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            rest = (row for part in (first, found) for row in part)
            number_of_rows = _write(file, target.suffix.lower(), table, header, rest)
        say(f"wrote {shown(args['to_name'])}: {count(number_of_rows, 'row')}")
        return 0

    of_json = target.suffix.lower() in (".json", *_JSON_LINES)
    return answered(args, write, lists=json.dumps if of_json else joined)


def _write(
    file: TextIO, ending: str, table: Table, header: list[str], rows: Iterator[Sequence[Value]]
) -> int:
    """The number of rows that were written."""
    header = [name.removeprefix(f"{table.place}.") for name in header]
    if ending == ".json":
        objects = [_object(table, header, row) for row in rows]
        file.write(json.dumps(objects, ensure_ascii=False, indent=2) + "\n")
        return len(objects)
    writer = csv.writer(file, delimiter=_separator(ending, table), lineterminator="\n")
    is_list = ending in _PLAIN and len(header) == 1
    if not is_list and ending not in _JSON_LINES:
        writer.writerow(header)
    number_of_rows = 0
    for row in rows:
        number_of_rows += 1
        if ending in _JSON_LINES:
            file.write(json.dumps(_object(table, header, row), ensure_ascii=False) + "\n")
        elif is_list:
            file.write(f"{_text(row[0])}\n")
        else:
            writer.writerow(map(_text, row))
    return number_of_rows


def _object(table: Table, header: Sequence[str], row: Sequence[Value]) -> dict[str, Any]:
    """What was nested is so again; what JSON lacks, or has as null, is left out."""
    found: dict[str, Any] = {}
    for name, value in zip(header, row, strict=True):
        if value is None and table.is_json:
            continue
        *outer, last = name.split(".") if table.is_json else [name]
        inner = found
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = _typed(value, is_json=table.is_json)
    return found


def _separator(ending: str, table: Table) -> str:
    """A CSV keeps the one its source has; a tab in it makes it a TSV."""
    kept = table.separator if table.separator not in ("", "\t", " ") else ","
    return kept if ending == ".csv" else _SEPARATORS.get(ending, table.separator or ",")


def _text(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return "" if value is None else str(value)


def _typed(value: Value, *, is_json: bool) -> Any:
    """What is no text: of JSON true, false and lists, of CSV what looks like a number."""
    if not isinstance(value, str):
        return value
    if not is_json:
        return json.loads(value) if _LITERAL.fullmatch(value) else value
    try:
        return json.loads(value) if value in ("true", "false") or value.startswith("[") else value
    except ValueError:
        return value
