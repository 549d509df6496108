"""Secrets out of texts: what `policies/secrets.toml` describes is replaced before a text is kept or sent.

A pattern is compiled when a text first holds one of its keywords, so that the table costs nothing at the
start; texts in which nothing was found are remembered, for paths and rules come again and again.

What it does not protect against: a secret of a shape that is not in the table (a password as a bare word of
a sentence). Nothing is judged by how random it looks: a journal without its commit hashes is of no use.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from llmos import paths

HIDDEN = "[redacted]"
MAX_TEXT = 4000  # characters of one string that are kept
_LOOKED_AT = 4 * MAX_TEXT  # what may shrink to that; the rest is dropped unseen
_EDGE = 512  # a secret may have been cut in two there
_MAX_CLEAN = 4096
_TELLING = re.compile(
    r"(?i)(?:.*[_.-])?(?:passwor[dt]|passwd|passphrase|pass|secret|token|(?:api|access|secret|private)[_-]?key|pwd)"
)


class Kind(BaseModel):
    """A kind of secret. With `luhn` a match counts only when its digits have the check sum of a card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    keywords: tuple[str, ...]
    pattern: str
    luhn: bool = False


@functools.cache
def kinds() -> tuple[Kind, ...]:
    """The table. It is shipped, so whatever is wrong with it is our bug."""
    raw = tomllib.loads((paths.builtin_policy_dir() / "secrets.toml").read_text(encoding="utf-8"))
    return TypeAdapter(tuple[Kind, ...]).validate_python(raw["secret"])


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


_clean: set[str] = set()


def redact(value: Any) -> Any:
    """The value with what looks like a secret replaced, in strings at any depth; long strings are cut."""
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, dict):
        return {_cut(str(key)): _under(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return _in_list(list(value))
    return value


def _under(key: str, item: Any) -> Any:
    """{"password": "x"} has no context in the text itself."""
    return HIDDEN if isinstance(item, str) and item and _TELLING.fullmatch(key) else redact(item)


def _in_list(items: list[Any]) -> list[Any]:
    """Items one by one, and the words of an argv also in each other's context (`--password`, `x`)."""
    words = [item for item in items if isinstance(item, str)]
    found: set[str] = set()
    if len(words) == len(items) and 1 < sum(map(len, words)) < _LOOKED_AT:
        found = set(secrets_in(" ".join(words)))
    return [redact(_without(item, found)) for item in items]


def _without(item: Any, found: set[str]) -> Any:
    if not found or not isinstance(item, str):
        return item
    for secret in found:
        if item.endswith(secret) or (len(secret) > 5 and secret in item):
            item = item.replace(secret, HIDDEN)
    return item


def _cut(text: str) -> str:
    """Redacted and at most MAX_TEXT long; of what was cut off, how much it was is told."""
    kept = redact_text(text[:_LOOKED_AT])
    if len(text) > _LOOKED_AT and len(kept) <= MAX_TEXT:
        kept = kept[: max(0, len(kept) - _EDGE)]
    elif len(kept) <= MAX_TEXT:
        return kept
    return f"{kept[:MAX_TEXT]}… [{len(text)} characters]"


def redact_text(text: str) -> str:
    """The whole text, with every secret in it replaced."""
    if text in _clean or not text:
        return text
    result, lower = text, text.lower()
    for kind in kinds():
        if any(keyword in lower for keyword in kind.keywords):
            result = _compiled(kind.pattern).sub(functools.partial(_hide, kind), result)
    if result == text:
        _remember_clean(text)
    return result


def secrets_in(text: str) -> Iterator[str]:
    """The secrets themselves, for who has to find them elsewhere."""
    lower = text.lower()
    for kind in kinds():
        if any(keyword in lower for keyword in kind.keywords):
            for match in _compiled(kind.pattern).finditer(text):
                yield from (match.string[start:end] for start, end in _spans(kind, match))


def _hide(kind: Kind, match: re.Match[str]) -> str:
    text, base = match[0], match.start()
    for start, end in reversed(_spans(kind, match)):
        text = text[: start - base] + HIDDEN + text[end - base :]
    return text


def _spans(kind: Kind, match: re.Match[str]) -> list[tuple[int, int]]:
    """What of a match is secret: its groups, or all of it."""
    if kind.luhn:
        return [match.span()] if _luhn(match[0]) else []
    groups = [match.span(number) for number in range(1, len(match.groups()) + 1) if match[number] is not None]
    return sorted(groups) or [match.span()]


def _luhn(text: str) -> bool:
    """ISO/IEC 7812: from the right, every second digit doubled, the digits' sum divisible by ten."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _remember_clean(text: str) -> None:
    if len(text) < _EDGE:
        if len(_clean) >= _MAX_CLEAN:
            _clean.clear()
        _clean.add(text)
