"""Numbers as people write them: `12`, `1,234.5`, `1.234,5`, `$7`, `7 EUR`."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

Value = str | int | float | None
_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?([eE][-+]?\d{1,3})?")
# What can be nothing else: 12,5 and 0,125 and 1.234,56 - but 1,234 is a thousand and more.
_DECIMAL_COMMA = re.compile(r"[-+]?(\d+,(\d{1,2}|\d{4,})|0,\d+|\d{1,3}(\.\d{3})+,\d+)")
_BEFORE, _BEHIND = (
    re.compile(r"([-+]?)[$€£¥] ?"),
    re.compile(r" ?([$€£¥%元]|EUR|USD|GBP|CHF|CNY)$", re.IGNORECASE),
)
_MOST_NUMBER_CHARS = 40
_MONEY = 2  # decimals from which on a result is rounded to as many as there were


def number(value: Value) -> int | float | None:
    """The number that is written there: `12`, `-3.50`, `1,234.5`, `1.234,5`, `$7`, `7 EUR`, `7%`.

    A leading zero makes it a text.
    """
    if isinstance(value, int | float) or value is None:
        return value
    text = value.strip()
    if len(text) > _MOST_NUMBER_CHARS:
        return None
    text = _BEHIND.sub("", _BEFORE.sub(r"\1", text, count=1) if _BEFORE.match(text) else text)
    if _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    if not _NUMBER.fullmatch(text) or re.match(r"[-+]?0\d", text):
        return None
    plain = text.replace(",", "")
    return int(plain) if re.fullmatch(r"[-+]?\d{1,18}", plain) else float(plain)


def written(value: Value, like: str) -> str:
    """A number as another one is written: with its decimals, comma and currency: 5 as `$12.50` is `$5.00`.

    More decimals than that are rounded where there are two or more of them, as with money; and never to 0.
    """
    before, behind = _BEFORE.match(like), _BEHIND.search(like)
    bare = _BEHIND.sub("", _BEFORE.sub(r"\1", like, count=1) if before else like).strip()
    comma = bool(_DECIMAL_COMMA.fullmatch(bare))
    _, mark, decimals = bare.rpartition("," if comma else ".")
    exact = Decimal(value) if isinstance(value, int) else Decimal(f"{float(value or 0):.15g}")
    if mark and decimals.isdecimal():
        rounded = exact.quantize(Decimal(1).scaleb(-len(decimals)), ROUND_HALF_UP)
        exact = rounded if rounded == exact or (len(decimals) >= _MONEY and rounded) else exact
    plain = f"{abs(exact):f}"
    if "." in plain and not (mark and len(plain.rpartition(".")[2]) == len(decimals)):
        plain = plain.rstrip("0").rstrip(".")
    sign = "-" if exact < 0 else ""
    around = like[before.end(1) : before.end()] if before else ""
    return f"{sign}{around}{plain.replace('.', ',') if comma else plain}{behind[0] if behind else ''}"
