"""The answer to a question to a table as a new file: CSV, TSV, JSON or JSON Lines, by the new file's ending.

Where rows are only chosen and put in order, each is written as it stands in its source: every cell of a CSV,
in whatever encoding, and JSON as nested and typed as it was. All is made before the new file is opened, so a
file may be written over itself, and what goes wrong leaves it alone. Not protected against: a table larger
than the sandbox's memory, which ends in an error.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from llmos.toolbox.inside.documents import flat
from llmos.toolbox.inside.numbers import Value
from llmos.toolbox.inside.patterns import is_same
from llmos.toolbox.inside.query import Answer, answered
from llmos.toolbox.inside.tables import Table, separator_named
from llmos.toolbox.inside.told import Refused, count, say, shown

_JSON = (".json", ".jsonl", ".ndjson")
_LISTS = (".txt", ".md", "")  # a single column is a list there, one value a line
_SEPARATORS = {".tsv": "\t", ".tab": "\t"}
_OTHERS = (".xlsx", ".xls", ".ods", ".xml", ".html", ".yaml", ".yml", ".toml", ".pdf", ".docx", ".sql",
           ".parquet")  # fmt: skip
_BOM = b"\xef\xbb\xbf"

Cells = Iterator[Sequence[Value]]
Line = Callable[[Sequence[Value]], bytes]


def main(args: dict[str, Any]) -> int:
    target = Path(args["to"])
    _check(target, args)
    ending = target.suffix.lower()
    with answered(args) as answer, tempfile.TemporaryFile() as made:
        source = Path(args["path"])
        itself = args["path"] != "-" and is_same(source, target)
        if itself and answer.table.place:
            raise Refused(f"only {shown(answer.table.place)} would be left of it; name a new file")
        if ending in _JSON:
            number_of_rows = _write_json(made, answer, args["limit"], lines=ending != ".json")
        else:
            number_of_rows = _write_cells(made, answer, args, ending, itself=itself)
        if itself and args["where"] and _is_same(answer, args) and number_of_rows == answer.number_of_all:
            raise Refused("every row fits, so nothing would be left out of it")
        made.seek(0)
        with target.open("wb") as file:
            shutil.copyfileobj(made, file)
    say(f"wrote {shown(args['to_name'])}: {count(number_of_rows, 'row')}")
    return 0


def _check(target: Path, args: dict[str, Any]) -> None:
    name = shown(args["to_name"])
    if args["between"] and target.suffix.lower() in _JSON:
        raise Refused(f"{name}: there is nothing to separate in JSON; leave the separator out")
    if target.is_dir() or args["to_name"].endswith("/"):
        raise Refused(f"{name} is a folder; name the new file")
    if target.suffix.lower() in _OTHERS:
        raise Refused(f"{name}: it makes .csv, .tsv, .json, .jsonl and .txt, and no {target.suffix}")
    if target.exists() and not target.is_file():
        raise Refused(f"{name} is no regular file")
    if target.exists() and not args["overwrite"]:
        raise Refused(f"{name} exists already; nothing was written (overwrite=true replaces it)")


def _originals(answer: Answer) -> Iterator[Any]:
    """The chosen rows, in their order, as they stand in the source."""
    originals = list(answer.table.originals())
    return (originals[number - 1] for number in answer.numbers())


def _is_same(answer: Answer, args: dict[str, Any]) -> bool:
    """Whether nothing but rows could be missing."""
    return _is_whole(answer) and not args["sort"] and not args["between"]


def _is_whole(answer: Answer) -> bool:
    """Whether every column was chosen: a row is then written with all that it has."""
    return answer.chosen == list(range(len(answer.table.header)))


# --- JSON --------------------------------------------------------------------------------------------


def _write_json(file: IO[bytes], answer: Answer, limit: int | None, *, lines: bool) -> int:
    objects = list(islice(_objects(answer), limit))
    texts = (json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    text = "".join(texts) if lines else json.dumps(objects, ensure_ascii=False, indent=2) + "\n"
    try:
        file.write(text.encode())
    except UnicodeEncodeError:
        raise Refused("it is not in UTF-8; convert it first, such as with iconv -f latin1 -t utf-8") from None
    return len(objects)


def _objects(answer: Answer) -> Iterator[Any]:
    table, header = answer.table, answer.header
    if table.is_json and answer.chosen is not None:
        names, whole = [table.titles[place] for place in answer.chosen], _is_whole(answer)
        yield from (
            one if whole or not isinstance(one, dict) else _picked(one, names) for one in _originals(answer)
        )
    else:
        yield from (dict(zip(header, map(_typed, row), strict=True)) for row in _computed(answer))


def _picked(one: dict[str, Any], names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """What an object has below these names, `a.b` being the `b` in its `a`; as nested as it was."""
    found: dict[str, Any] = {}
    for key, value in one.items():
        name = f"{prefix}{key}"
        if name in names:
            found[key] = value
        elif isinstance(value, dict) and (inner := _picked(value, names, f"{name}.")):
            found[key] = inner
    return found


def _typed(value: Value) -> Any:
    """A number, true or false where a CSV's text is what JSON would write; 007 and 1.10 stay texts."""
    if not isinstance(value, str) or value[:1] not in "-0123456789tf":
        return value
    try:
        read = json.loads(value)
    except ValueError:
        return value
    return read if isinstance(read, int | float) and json.dumps(read) == value else value


# --- CSV and lists -----------------------------------------------------------------------------------


def _write_cells(file: IO[bytes], answer: Answer, args: dict[str, Any], ending: str, *, itself: bool) -> int:
    header, rows = _cells(answer)
    line: Line = _list_line
    if ending not in _LISTS or len(header) > 1:
        first = _first_line(args["path"]) if itself else b""
        separator = _separator(args["between"], ending, answer.table, itself=itself)
        line = _csv_line(separator, "\r\n" if first.endswith(b"\r\n") else "\n")
        file.write((_BOM if first.startswith(_BOM) else b"") + line(header))
    number_of_rows = 0
    for row in islice(rows, args["limit"]):
        number_of_rows += 1
        file.write(line(row))
    return number_of_rows


def _cells(answer: Answer) -> tuple[list[str], Cells]:
    """The titles and the rows; of whole rows also the cells that no title stands above."""
    table, chosen = answer.table, answer.chosen
    if chosen is None:
        return answer.header, _computed(answer)
    whole = _is_whole(answer)
    titles = table.titles if whole else [table.titles[place] for place in chosen]
    if table.is_json:
        return titles, ([row.get(title) for title in titles] for row in map(flat, _originals(answer)))
    if whole:
        return titles, _originals(answer)
    return titles, ([row[at] if at < len(row) else None for at in chosen] for row in _originals(answer))


def _list_line(row: Sequence[Value]) -> bytes:
    text = _text(row[0])
    if "\n" in text or "\r" in text:
        raise Refused("a value has a line break in it, and so no place in a list; write a .csv")
    return f"{text}\n".encode(errors="surrogateescape")


def _separator(asked: str | None, ending: str, table: Table, *, itself: bool) -> str:
    """As in the source, unless the ending says otherwise: a TSV becomes a CSV, but not in its own place."""
    if asked:
        named = separator_named(asked)
        if named in '"\r\n':
            raise Refused(f"{shown(named)!r} cannot separate columns; there are , ; tab and |")
        return named
    kept = table.separator.strip(" ") or ","
    return "," if ending == ".csv" and kept == "\t" and not itself else _SEPARATORS.get(ending, kept)


def _csv_line(separator: str, end: str) -> Line:
    """What makes a line of a row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, lineterminator="\r\n")  # which has a lone \r quoted

    def line(row: Sequence[Value]) -> bytes:
        writer.writerow(map(_text, row))
        text = buffer.getvalue()[:-2] + end
        buffer.seek(0)
        buffer.truncate()
        return text.encode(errors="surrogateescape")

    return line


def _first_line(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.readline(1 << 20)


def _text(value: Value) -> str:
    return "" if value is None else str(value)


def _computed(answer: Answer) -> Cells:
    """Sums without what binary fractions add to them."""
    yield from ([_rounded(value) for value in row] for row in answer.rows())


def _rounded(value: Value) -> Value:
    if not isinstance(value, float):
        return value
    short = float(f"{value:.15g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
