"""Questions to a table: which rows, which columns, grouped by what, summed up how. sqlite3 does the work.

The SQL is made here from column numbers alone; names and values of the person and of the file are only ever
parameters or looked up. Not protected against: a table larger than the sandbox's scratch space, which ends
in an error.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmos.toolbox.inside import where
from llmos.toolbox.inside.computed import CALL, column_of, computed, operands_of, sides_of
from llmos.toolbox.inside.numbers import Value, number
from llmos.toolbox.inside.tables import Row, Table, read, tell
from llmos.toolbox.inside.told import Refused, shown, some

_BATCH = 1000
MOST_CHARS = 4000  # of one part of a question
_OWN = re.compile(r"c(\d+)")  # a column as it is
_PLAIN = (".txt", ".log", ".md")  # a first line of these is no header
_FUNCTIONS = {"sum": "sum", "total": "sum", "avg": "avg", "average": "avg", "mean": "avg", "min": "min",
              "max": "max", "count": "count"}  # fmt: skip


def main(args: dict[str, Any]) -> int:
    with answered(args, any_case=True) as answer:
        return tell(answer.header, answer.rows(), args["limit"])


@dataclass(frozen=True, slots=True)
class Answer:
    """A question in SQL, and the base that can answer it."""

    table: Table
    columns: list[tuple[str, str]]  # names, and what is computed for each
    distinct: str
    rest: str  # which rows, in which groups and order
    values: tuple[Value, ...]
    base: sqlite3.Connection

    @property
    def header(self) -> list[str]:
        return [name for name, _ in self.columns]

    def rows(self) -> Iterator[Sequence[Value]]:
        computed = ", ".join(sql for _, sql in self.columns)
        yield from self.base.execute(f"SELECT {self.distinct}{computed} FROM t{self.rest}", self.values)  # noqa: S608

    @property
    def chosen(self) -> list[int] | None:
        """The places of the columns, where rows are only chosen and put in order: nothing is computed."""
        computed = self.distinct or "GROUP BY" in self.rest
        places = [_OWN.fullmatch(sql) for _, sql in self.columns]
        return None if computed or not all(places) else [int(place[1]) for place in places if place]

    def rows_of(self, columns: str) -> Iterator[Sequence[Any]]:
        """The number of each row that fits, from 1, and these columns of it, in SQL of our own making."""
        yield from self.base.execute(f"SELECT rowid, {columns} FROM t{self.rest}", self.values)  # noqa: S608

    @property
    def number_of_all(self) -> int:
        """Of the rows there are, whether they fit or not."""
        return int(self.base.execute("SELECT count(*) FROM t").fetchone()[0])

    def numbers(self) -> Iterator[int]:
        """Of the rows, from 1; only where they are `chosen`."""
        yield from (row[0] for row in self.base.execute(f"SELECT rowid FROM t{self.rest}", self.values))  # noqa: S608


@contextmanager
def answered(args: dict[str, Any], *, any_case: bool = False) -> Iterator[Answer]:
    """The answer to the question in `args`; the table has been read. Raises Refused, also for what is done
    with it. With `any_case` a text that is nowhere in its column may be one that differs only in case.
    """
    try:
        table = read(args["path"], args["separator"], _names(args), args.get("to"))
        if len(table.header) == 1 and not args["separator"] and Path(args["path"]).suffix.lower() in _PLAIN:
            raise Refused("it has lines and no columns; its lines can be counted or searched")
        with sqlite3.connect("") as base:
            yield _answer(table, args, base, any_case=any_case)
    except Refused as refused:
        raise Refused(f"{shown(args['name'])}: {refused}") from None
    except RecursionError:
        raise Refused(f"{shown(args['name'])}: the question is nested too deeply") from None
    except sqlite3.Error as error:
        raise Refused(f"{shown(args['name'])}: {error}") from None


def _names(args: dict[str, Any]) -> list[str]:
    """Whatever of the question may be a path into a JSON document."""
    texts = (_dotted(args[key]) for key in ("select", "group", "sum", "sort", "where") if args[key])
    return [name.strip("-") for text in texts for name in re.findall(r"[\w.-]+", text)]


def _dotted(text: str) -> str:
    """`.users[].name` and `$.users[*].name` are `users.name`."""
    if len(text) > MOST_CHARS:
        raise Refused(f"the question is longer than {MOST_CHARS} characters")
    return re.sub(r"(?<![\w)])[$]?\.(?=\w)", "", re.sub(r"\[\*?\]", "", text))


def _answer(table: Table, args: dict[str, Any], base: sqlite3.Connection, *, any_case: bool) -> Answer:
    asked = {key: " ".join(_dotted(args[key] or "").split()) for key in ("select", "group", "sum", "sort")}
    condition = where.parse(_dotted(args["where"]), table) if args["where"] else where.Condition()
    groups = [column_of(name, table) for name in _split(asked["group"])]
    distinct, columns = _columns(asked, table, groups)
    _fill(base, table)
    _look_for_other_case(base, condition, take=any_case)
    rest = f" WHERE {condition.sql}" if condition.sql else ""
    rest += f" GROUP BY {', '.join(sql for _, sql in groups)}" if groups else ""
    rest += _order(asked, table, columns, grouped=bool(groups))
    for text in _split(asked["sum"]):
        for name in operands_of(text, table):
            _check_numbers(base, name, table, condition)
    return Answer(table, columns, distinct, rest, tuple(condition.values), base)


def _fill(base: sqlite3.Connection, table: Table) -> None:
    base.create_function("num", 1, number, deterministic=True)
    width = len(table.header)
    base.execute(f"CREATE TABLE t ({', '.join(f'c{index}' for index in range(width))})")
    rows = table.rows()
    marks = ", ".join("?" * width)
    while batch := list(islice(rows, _BATCH)):
        base.executemany(f"INSERT INTO t VALUES ({marks})", map(_storable, batch))  # noqa: S608 - marks


def _look_for_other_case(base: sqlite3.Connection, condition: where.Condition, *, take: bool) -> None:
    """A text that is nowhere in its column, but is there in another case: it is told, and where it is the
    only one, and nothing is changed by it, taken. People type "tom".
    """
    base.create_function("fold", 1, _folded, deterministic=True)
    for column, place in condition.texts:
        text, wanted = f"CAST({column} AS TEXT)", str(condition.values[place])
        if base.execute(f"SELECT 1 FROM t WHERE {text} = ? LIMIT 1", (wanted,)).fetchone():  # noqa: S608
            continue
        like = f"SELECT DISTINCT {text} FROM t WHERE fold({text}) = ? LIMIT 3"  # noqa: S608 - a column's number
        found = [str(row[0]) for row in base.execute(like, (wanted.casefold(),))]
        taken = take and len(found) == 1
        if found:
            sys.stderr.write(f"No {shown(wanted)} is there, but {some(found)}{', which is taken' * taken}.\n")
        if taken:
            condition.values[place] = found[0]


def _folded(value: Value) -> Value:
    return value.casefold() if isinstance(value, str) else value


def _check_numbers(base: sqlite3.Connection, name: str, table: Table, condition: where.Condition) -> None:
    """Raises Refused for a column that is to be added up and has none; says how many values are left out."""
    title, column = column_of(name, table)
    only = f" AND ({condition.sql})" if condition.sql else ""
    sql = f"SELECT count(*), count(num({column})), min({column}) FROM t WHERE {column} <> ''{only}"  # noqa: S608
    filled, numbers, one = base.execute(sql, condition.values).fetchone()
    if filled and not numbers:
        raise Refused(f"{shown(title)} has no numbers to add up, but {shown(str(one))}")
    if numbers < filled:
        sys.stderr.write(
            f"{shown(title)}: {filled - numbers} of {filled} values are no numbers and left out\n"
        )


def _storable(row: Row) -> list[Value]:
    """Text that is no valid Unicode, and numbers beyond 64 bits, as something sqlite takes."""
    return [_clean(value) for value in row]


def _clean(value: Value) -> Value:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63:
        return str(value)
    return value


# --- what to show ------------------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _columns(
    asked: dict[str, str], table: Table, groups: list[tuple[str, str]]
) -> tuple[str, list[tuple[str, str]]]:
    """DISTINCT or nothing, and each column with its SQL."""
    distinct, select = _distinct(asked["select"])
    shown_columns = [column for part in _split(select) for column in _selected(part, table)]
    sums = [_summed(part, table) for part in _split(asked["sum"])]
    if groups:
        chosen = [column for column in shown_columns if column not in groups]
        return "", [*groups, *chosen, *(sums or ([] if chosen else [("count", "count(*)")]))]
    if sums or shown_columns:
        return distinct, [*shown_columns, *sums]
    return distinct, [(name, f"c{index}") for index, name in enumerate(table.header)]


def _selected(part: str, table: Table) -> list[tuple[str, str]]:
    if part == "*":
        return [(name, f"c{index}") for index, name in enumerate(table.header)]
    if table.has(part):
        return [column_of(part, table)]
    if part.lower() == "count" or CALL.fullmatch(part):
        return [_summed(part, table)]
    if sides_of(part, table):
        return [computed(part, table)]
    below = [(name, f"c{index}") for index, name in enumerate(table.header) if name.startswith(f"{part}.")]
    return below or [column_of(part, table)]


def _summed(part: str, table: Table) -> tuple[str, str]:
    """`amount` or `price * qty` is added up; there are avg(x), min, max, count and count(distinct x) too."""
    call = CALL.fullmatch("count()" if part.lower() == "count" else part)
    if call is None or table.has(part):
        name, sql = computed(part, table)
        return f"sum({name})", f"sum({sql})"
    function = _FUNCTIONS.get(call[1].lower())
    if function is None:
        raise Refused(f"there is no function {shown(call[1])!r}; there are sum, avg, min, max and count")
    if function == "count":
        return _counted(call[2], table)
    name, sql = computed(call[2], table)
    made = f"{function}({sql})"
    if function in ("min", "max") and table.has(call[2]):
        # The first and the last date or name, where there are no numbers.
        made = f"coalesce({made}, {function}(nullif({column_of(call[2], table)[1]}, '')))"
    return f"{function}({name})", made


def _counted(what: str, table: Table) -> tuple[str, str]:
    if what in ("", "*"):
        return "count", "count(*)"
    distinct, name = _distinct(what)
    name, column = column_of(name, table)
    return f"count({distinct}{name})", f"count({distinct}nullif({column}, ''))"


def _distinct(text: str) -> tuple[str, str]:
    """`distinct city`: the word in SQL, if it stands there, and the rest."""
    rest = re.sub(r"^distinct\s+", "", text, flags=re.IGNORECASE)
    return "" if rest == text else "distinct ", rest


def _order(asked: dict[str, str], table: Table, columns: list[tuple[str, str]], *, grouped: bool) -> str:
    """As was said; groups without a word on it by what they come to, the largest first."""
    if not asked["sort"]:
        return f" ORDER BY {columns[-1][1]} DESC" if grouped else ""
    made = {_key(name): sql for name, sql in columns}
    parts = []
    for part in _split(asked["sort"]):
        name = re.sub(r"^-|\s+(desc|asc)\w*$", "", part, flags=re.IGNORECASE).strip()
        down = " DESC" if part.startswith("-") or re.search(r"\sdesc\w*$", part, re.IGNORECASE) else ""
        sql = made.get(_key(f"sum({name})")) if grouped else None  # what each group comes to
        sql = sql or made.get(_key(name)) or _sortable(name, table)
        parts.append(f"num({sql}) IS NULL, num({sql}){down}, {sql}{down}")
    return f" ORDER BY {', '.join(parts)}"


def _key(name: str) -> str:
    return name.replace(" ", "").casefold()


def _sortable(name: str, table: Table) -> str:
    return (computed if sides_of(name, table) else column_of)(name, table)[1]
