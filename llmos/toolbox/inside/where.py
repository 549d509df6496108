"""`city = New York and age > 30` as an SQL condition with parameters: nothing a person writes becomes SQL.

    or, and, not, ( )    = != <> < <= > >=    contains, starts with, ends with, like    in (a, b)
    between a and b      is [not] empty

On the left stands a column; on the right a value, quoted or not, or another column. Numbers are compared as
numbers, everything else as text; `contains` and `like` do not mind case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llmos.toolbox.inside.numbers import Value, number
from llmos.toolbox.inside.tables import Table
from llmos.toolbox.inside.told import Refused, shown

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`)|(?P<sign><=|>=|<>|!=|==|=~|&&|\|\||[=<>(),])"""
    r"""|(?P<word>[^\s'"`<>=!(),&|]+|[!&|]))"""
)
_SIGNS = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_JOINS = {"and": "AND", "&&": "AND", "or": "OR", "||": "OR"}
_VERBS = ("contains", "starts", "ends", "like", "in", "between", "is", "not", "has")
_MAX_TOKENS = 2000
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    kind: str

    @property
    def low(self) -> str:
        return "" if self.kind == "text" else self.text.lower()


@dataclass(slots=True)
class Condition:
    """The SQL of a condition, its columns c0, c1 …, and what its question marks stand for.

    `texts`: of each text that a column is to be, or not to be, the column and the place among the values.
    """

    sql: str = ""
    values: list[Value] = field(default_factory=list)
    texts: list[tuple[str, int]] = field(default_factory=list)


def parse(text: str, table: Table) -> Condition:
    """Raises Refused for what is no condition on the columns of this table."""
    parser = _Parser(_tokens(text), table)
    condition = Condition(parser.either(), parser.values, parser.texts)
    if parser.left:
        raise Refused(f"`where` is not understood from {shown(parser.left[0].text)!r} on")
    return condition


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise Refused(f"`where` is not understood at {shown(text[at : at + 20])!r}: is a quote missing?")
        word = match[match.lastgroup]
        quote = word[0]
        if match.lastgroup == "text":
            word = word[1:-1].replace(quote * 2, quote)
        found.append(_Token(word, match.lastgroup))
        at = match.end()
    if len(found) > _MAX_TOKENS:
        raise Refused("`where` is too long")
    return found


class _Parser:
    """Recursive descent; each method takes tokens off the front and gives SQL back."""

    def __init__(self, tokens: list[_Token], table: Table) -> None:
        self.left = tokens
        self.values: list[Value] = []
        self.texts: list[tuple[str, int]] = []
        self._table = table
        self._depth = 0

    def either(self) -> str:
        return self._joined("OR", lambda: self._joined("AND", self._one))

    def _joined(self, how: str, part: object) -> str:
        assert callable(part)
        found = [part()]
        while self.left and _JOINS.get(self.left[0].low) == how:
            self.left.pop(0)
            found.append(part())
        return found[0] if len(found) == 1 else f"({f' {how} '.join(found)})"

    def _one(self) -> str:
        if not self.left:
            raise Refused("`where` ends too early: write it as COLUMN = VALUE")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Refused("`where` is nested too deeply")
        try:
            if self.left[0].low in ("not", "!"):
                self.left.pop(0)
                return f"NOT ({self._one()})"
            if self.left[0].low == "(":
                self.left.pop(0)
                inner = self.either()
                self._expect(")")
                return f"({inner})"
            return self._comparison()
        finally:
            self._depth -= 1

    def _expect(self, text: str) -> None:
        if not self.left or self.left[0].low != text:
            raise Refused(f"`where` lacks {text!r}")
        self.left.pop(0)

    def _take(self, *words: str) -> bool:
        if self.left and self.left[0].low in words:
            self.left.pop(0)
            return True
        return False

    def _comparison(self) -> str:
        column = self._column()
        if not self.left:
            raise Refused("`where` ends too early: write it as COLUMN = VALUE")
        sign = self.left.pop(0)
        if sign.low in _SIGNS:
            return self._compared(column, _SIGNS[sign.low])
        if sign.low == "is":
            return self._is(column)
        if sign.low == "not":
            return f"NOT ({self._worded(column, self.left.pop(0).low if self.left else '')})"
        return self._worded(column, sign.low)

    def _column(self) -> str:
        """The words up to an operator, as many as make a column's name."""
        words: list[str] = []
        while self.left and not self._is_operator(self.left[0]):
            words.append(self.left.pop(0).text)
            longer = " ".join([*words, *(token.text for token in self.left[:1])])
            if self._table.has(" ".join(words)) and not self._table.has(longer):
                break
        return f"c{self._table.index(' '.join(words))}"

    def _is_operator(self, token: _Token) -> bool:
        return token.kind == "sign" or token.low in _VERBS

    def _value(self) -> tuple[str, bool]:
        """The words up to the next `and`, `or`, `)` or `,`, and whether they were quoted."""
        if self.left and self.left[0].kind == "text":
            return self.left.pop(0).text, True
        words: list[str] = []
        while self.left and self.left[0].low not in (*_JOINS, ")", ","):
            words.append(self.left.pop(0).text)
        if not words:
            raise Refused("`where` lacks a value")
        return " ".join(words), False

    def _compared(self, column: str, sign: str) -> str:
        text, quoted = self._value()
        if not quoted and self._table.has(text) and number(text) is None:
            return _columns_compared(column, sign, f"c{self._table.index(text)}")
        value = None if quoted else number(text)
        if value is None:
            if sign in ("=", "<>"):
                self.texts.append((column, len(self.values)))
            self.values.append(text)
            return f"coalesce(CAST({column} AS TEXT), '') {sign} ?"
        if sign in ("=", "<>"):
            self.values += [value, text]
            same = f"(coalesce(num({column}) = ?, 0) OR coalesce(CAST({column} AS TEXT) = ?, 0))"
            return same if sign == "=" else f"NOT {same}"
        self.values.append(value)
        return f"coalesce(num({column}) {sign} ?, 0)"

    def _is(self, column: str) -> str:
        no = "NOT " if self._take("not") else ""
        if self._take("empty", "null", "missing", "none"):
            return f"{no}(coalesce({column}, '') = '')"
        return f"{no}({self._compared(column, '=')})"

    def _worded(self, column: str, verb: str) -> str:
        if verb == "in":
            return self._in(column)
        if verb == "between":
            return self._between(column)
        if verb in ("starts", "ends"):
            self._take("with")
        patterns = {"contains": "%{}%", "has": "%{}%", "starts": "{}%", "ends": "%{}", "like": "{}"}
        if verb not in patterns:
            raise Refused(f"`where` is not understood at {shown(verb)!r}: write it as COLUMN = VALUE")
        text, _ = self._value()
        if verb == "like":
            pattern = text.replace("*", "%")
        else:
            pattern = patterns[verb].format(re.sub(r"([%_\\])", r"\\\1", text))
        self.values.append(pattern)
        return f"coalesce(CAST({column} AS TEXT) LIKE ? ESCAPE '\\', 0)"

    def _in(self, column: str) -> str:
        self._expect("(")
        parts = [self._compared(column, "=")]
        while self._take(","):
            parts.append(self._compared(column, "="))
        self._expect(")")
        return f"({' OR '.join(parts)})"

    def _between(self, column: str) -> str:
        low = self._compared(column, ">=")
        self._expect("and")
        return f"({low} AND {self._compared(column, '<=')})"


def _columns_compared(one: str, sign: str, other: str) -> str:
    """Two numbers as numbers, two texts as texts; a number and a text only differ."""
    return (
        f"CASE WHEN num({one}) IS NOT NULL AND num({other}) IS NOT NULL THEN num({one}) {sign} num({other}) "
        f"WHEN num({one}) IS NULL AND num({other}) IS NULL "
        f"THEN coalesce({one}, '') {sign} coalesce({other}, '') ELSE {int(sign == '<>')} END"
    )
