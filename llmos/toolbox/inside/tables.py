"""A CSV, TSV, JSON or JSON Lines file as a table: a header, and rows that are read as a stream.

Values stay as they were written; `number` says which number a value is, if any. A JSON document is held in
memory; the others are not. Not protected against: a JSON document larger than the sandbox's memory, which
ends in an error.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from llmos.toolbox.inside.documents import flat, place
from llmos.toolbox.inside.numbers import Value
from llmos.toolbox.inside.patterns import taken_in
from llmos.toolbox.inside.told import Refused, say, shown

Row = list[Value]
_SEPARATORS = (",", ";", "\t", "|")
_NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " ", "blank": " ", "pipe": "|"}
_MAX_SHOWN_CHARS = 500
_MAX_COLUMNS = 1500  # of a table in sqlite


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` may be read more than once, and so may `originals`: a line's cells or the object as it stands in
    the file, below these `titles`. JSON has no `separator`; `place` is where in it the rows are.
    """

    header: list[str]
    rows: Callable[[], Iterator[Row]]
    originals: Callable[[], Iterable[Any]]
    titles: list[str]
    separator: str = ""
    place: str = ""

    @property
    def is_json(self) -> bool:
        return not self.separator

    def index(self, name: str) -> int:
        """The column of this name, whatever its case and number: `amounts` are in the column `amount`.

        Raises Refused naming those there are.
        """
        wanted = name.strip().strip("\"'`")
        for made in (str, str.lower, _singular):
            folded = [made(column.strip()) for column in self.header]
            if folded.count(made(wanted)) == 1 or (made is not _singular and made(wanted) in folded):
                return folded.index(made(wanted))
        ends = [column.lower().endswith(f".{wanted.lower()}") for column in self.header]
        if ends.count(True) == 1:  # `name`, where a document has `users.name`
            return ends.index(True)
        close = difflib.get_close_matches(wanted.lower(), [column.lower() for column in self.header], 1)
        guess = f" Did you mean {shown(close[0])}?" if close else ""
        there = ", ".join(shown(column) for column in self.header[:30]) or "none"
        raise Refused(f"there is no column {shown(wanted)!r}.{guess} There are: {there}")

    def has(self, name: str) -> bool:
        try:
            self.index(name)
        except Refused:
            return False
        return True


def _singular(name: str) -> str:
    """Roughly; only for comparing."""
    name = name.lower()
    return f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")


# --- opening -----------------------------------------------------------------------------------------


def read(path: str, separator: str | None, names: Sequence[str], without: str | None = None) -> Table:
    """The table in a file (`-`: standard input), or in all that a pattern such as `2024-*.csv` takes in, in
    the order of their names, `without` one. `names` are what is asked for: they say which list of a document
    is meant.
    """
    file = _kept(sys.stdin.buffer) if path == "-" else Path(path)
    if set("*?") & set(file.name) and not file.exists():
        return _together({each.name: _one(each, separator, names) for each in _matching(file, without)})
    return _one(file, separator, names)


def _matching(pattern: Path, without: str | None) -> list[Path]:
    files = taken_in(pattern, Path(without) if without else None)
    if not files:
        raise Refused("nothing matches it")
    return files


def _together(tables: dict[str, Table]) -> Table:
    """The rows of several files of one kind as those of one; an object may lack what another one has."""
    (named, first), *others = tables.items()
    for name, one in others:
        if (one.is_json, one.place) != (first.is_json, first.place) or not (
            one.is_json or one.titles == first.titles
        ):
            raise Refused(f"{shown(named)} and {shown(name)} do not have the same columns; name one of them")
    if first.is_json:
        return _of_objects(
            lambda: chain.from_iterable(one.originals() for one in tables.values()), first.place
        )
    return replace(
        first,
        rows=lambda: chain.from_iterable(one.rows() for one in tables.values()),
        originals=lambda: chain.from_iterable(one.originals() for one in tables.values()),
    )


def _one(file: Path, separator: str | None, names: Sequence[str]) -> Table:
    with file.open("rb") as raw:
        head = raw.read(4096)
    if b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise Refused("it is a binary file, not a table")
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    ending = file.suffix.lower()
    if ending in (".csv", ".tsv", ".tab") or first not in (b"{", b"["):
        return _csv(file, separator_named(separator, ending))
    return _json(file, names)


def _kept(stream: io.BufferedReader | Any) -> Path:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        shutil.copyfileobj(stream, file)
    return Path(file.name)


def separator_named(given: str | None, ending: str = "") -> str:
    """The character: `tab` is one. Raises Refused for a word that is none."""
    if ending in (".tsv", ".tab") and given in (None, ","):
        return "\t"
    named = _NAMED.get((given or ",").lower(), given or ",")
    if len(named) != 1:
        raise Refused(f"a separator is one character, such as ; or tab, and {shown(named)!r} is not")
    return named


def _text(file: Path) -> io.TextIOWrapper:
    with file.open("rb") as raw:
        wide = raw.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if wide else "utf-8-sig"
    return file.open("r", encoding=encoding, errors="replace" if wide else "surrogateescape", newline="")


# --- CSV ---------------------------------------------------------------------------------------------


def _csv(file: Path, separator: str | None) -> Table:
    csv.field_size_limit(1 << 24)
    with _text(file) as text:
        line = text.readline(1 << 20)
    chosen = _chosen(line, separator or ",")

    def rows() -> Iterator[Row]:
        with _text(file) as text:
            try:
                parts = (
                    (line.split() for line in text) if chosen == " " else csv.reader(text, delimiter=chosen)
                )
                for row in filter(None, parts):
                    yield [*row]
            except csv.Error as error:
                raise Refused(f"it cannot be read as a table: {error}") from None

    titles = [str(name) for name in next(rows(), [])]
    header = _unique(titles)
    if not header:
        raise Refused("it is empty")

    def body() -> Iterator[Row]:
        width = len(header)
        for row in islice(rows(), 1, None):
            yield (row + [None] * (width - len(row)))[:width]

    return Table(header, body, lambda: islice(rows(), 1, None), titles, chosen)


def _chosen(line: str, separator: str) -> str:
    """The separator that was named, or the one the first line is really made with."""
    if separator in line or separator == " ":
        return separator
    return max(_SEPARATORS, key=line.count) if any(map(line.count, _SEPARATORS)) else separator


def _unique(header: list[str]) -> list[str]:
    """A second column of the same name gets a number."""
    found: dict[str, None] = {}
    for name in header[:_MAX_COLUMNS]:
        others = (f"{name}_{number}" for number in range(2, len(header) + 2))
        found[next(one for one in chain([name], others) if one not in found)] = None
    return list(found)


# --- JSON --------------------------------------------------------------------------------------------


def _json(file: Path, names: Sequence[str]) -> Table:
    if _is_json_lines(file):
        return _json_lines(file)
    with _text(file) as text:
        try:
            document = json.load(text)
        except RecursionError:
            raise Refused("it is nested too deeply") from None
        except json.JSONDecodeError as error:
            raise Refused(f"it is no valid JSON: {error}") from None
    return _document(document, names)


def _is_json_lines(file: Path) -> bool:
    """Whether a first line is an object of its own, and others follow."""
    with _text(file) as text:
        first, second = text.readline(1 << 24), text.readline(1 << 10)
    try:
        return isinstance(json.loads(first), dict) and bool(second.strip())
    except (json.JSONDecodeError, RecursionError):
        return False


def _json_lines(file: Path) -> Table:
    def objects() -> Iterator[Any]:
        with _text(file) as text:
            for count, line in enumerate(text, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except (json.JSONDecodeError, RecursionError):
                        raise Refused(f"line {count} is no valid JSON") from None

    return _of_objects(objects)


def _document(document: Any, names: Sequence[str]) -> Table:
    where = place(document, [name.split(".") for name in names])
    found: Any = document
    for part in where:
        found = found[part]
    if isinstance(found, list):
        return _of_objects(lambda: found, ".".join(where))
    return _of_objects(lambda: [found])


def _of_objects(objects: Callable[[], Iterable[Any]], prefix: str = "") -> Table:
    flattened = list(dict.fromkeys(chain.from_iterable(map(flat, objects()))))
    header = flattened[:_MAX_COLUMNS]

    def rows() -> Iterator[Row]:
        for one in map(flat, objects()):
            yield [one.get(name) for name in header]

    named = [f"{prefix}.{name}" if prefix and name != "value" else name for name in header]
    return Table(named, rows, objects, titles=flattened, place=prefix)


# --- telling -----------------------------------------------------------------------------------------


def tell(header: Sequence[str], rows: Iterable[Sequence[Value]], limit: int) -> int:
    """The header and the rows, each a JSON array, for the reader outside; then how many were left out."""
    say(json.dumps(list(header)))
    number_of_rows = 0
    for number_of_rows, row in enumerate(rows, 1):
        if number_of_rows <= limit:
            say(json.dumps([_cell(value) for value in row]))
    say(json.dumps({"rows": number_of_rows, "shown": min(number_of_rows, limit)}))
    return 0


def _cell(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    text = "" if value is None else str(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"
