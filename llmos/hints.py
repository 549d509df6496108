"""Two small linear heads over hashed words, read without any library: which words look like a secret by what
stands around them, and whether a sentence wants something changed or only looked at.

`llmos tune hints` makes `hints.json` and measures it. They are hints: what they find is hidden, or mentioned,
in addition to what rules find, and nothing is ever allowed or left visible because of them.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import re
import string
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

MIN_SECRET_CHARS, MAX_SECRET_CHARS = 4, 200
MAX_LINE_CHARS = 4000
SURELY_LOOKS = math.log(0.05 / 0.95)  # below it, a sentence wants nothing changed
_WORD = re.compile(r"[^\s\"'`,;()<>|，。；：、“”‘’\u4e00-\u9fff]+|[\u4e00-\u9fff]")
_TERMS = re.compile(r"[a-z]+|\d+|[\u4e00-\u9fff]|[/~.*$]")
_CHANGES = re.compile(
    r"(?i)\b(?:delet|remov|eras|wip|purg|clea[nr]|kill|stop|end|terminat|suspend|paus|mov|renam|cop|writ|sav|creat|mak|add"
    r"|append|chang|replac|set|install|uninstall|restart|start|enabl|disabl|limit|compress|zip|pack|extract|unpack)"
    r"(?:e|es|ed|y|ies|s|t)?\b|[删移改建停装启写存压]"
)
_MARKS = {
    ord(c): "0" if c.isdigit() else "A" if c.isupper() else "a" for c in string.digits + string.ascii_letters
}
_SORTS = tuple(map(re.compile, (r"[a-z]", r"[A-Z]", r"\d", r"[^A-Za-z0-9]")))
_HEX = re.compile(r"[0-9a-f]{7,}")
_TIME = re.compile(r"(?=.*[:.-])[\dT:.,Z+-]+")  # dates, addresses and versions of digits, too
_GLUED = re.compile(r"^(?P<key>--?[A-Za-z][\w-]*[=:]|[A-Za-z_][\w.]*[=:])(?P<value>.+)$")


@dataclass(frozen=True, slots=True)
class Head:
    """Weights of hashed features, in steps of `step`; above `threshold` (a log-odds) it says yes."""

    weights: array[int]
    step: float
    bias: float
    threshold: float

    def score(self, features: Sequence[int]) -> float:
        """Log-odds."""
        size = len(self.weights)
        return self.bias + self.step * sum(self.weights[number % size] for number in features)


@functools.cache
def heads() -> dict[str, Head]:
    """Shipped with the program, so whatever is wrong with it is our bug."""
    return read(json.loads(Path(__file__).with_name("hints.json").read_text("ascii")))


def read(card: dict[str, Any]) -> dict[str, Head]:
    return {
        name: Head(array("b", base64.b64decode(one["weights"])), one["step"], one["bias"], one["threshold"])
        for name, one in card["heads"].items()
    }


# --- secrets ---------------------------------------------------------------------------------------


def secrets_in(text: str) -> Iterator[str]:
    """Words that look like secrets where they stand."""
    head = heads()["secret"]
    for line in text.splitlines():
        for value, before, after in _words(line[:MAX_LINE_CHARS]):
            kind, own = _own_weight(value)
            if head.bias + head.step * (own + _weight_around(kind, before, after)) >= head.threshold:
                yield value


def candidates(line: str) -> Iterator[tuple[str, list[int]]]:
    """Every word that is long enough to be one, with its features; of `--password=x` the x."""
    for word, before, after in _words(line):
        kind, own = _alone(word)
        yield word, _hashed([*own, *_around(kind, before, after)])


def _words(line: str) -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    """What may be a secret, and the words before (as keys are: without dashes, equals signs) and after it."""
    words = [word.strip(".!?") if len(word) > 1 else word for word in _WORD.findall(line)]
    keys: list[str] = []
    for index, word in enumerate(words):
        if len(word) >= MIN_SECRET_CHARS:
            glued = _GLUED.match(word) if "=" in word or ":" in word else None
            value = glued["value"] if glued else word
            if _may_be(value):
                keys += map(_key, words[len(keys) : index])
                before = [*keys[max(0, index - 5) :], _key(glued["key"])] if glued else keys[-6:]
                yield value, before, words[index + 1 : index + 3]


@functools.lru_cache(maxsize=4096)
def _key(word: str) -> str:
    return word.lower().lstrip("-").rstrip("=:")


# What a candidate weighs is put together from sums that come again and again in a text.


@functools.lru_cache(maxsize=4096)
def _own_weight(value: str) -> tuple[str, int]:
    """Its kind, and what it weighs wherever it stands."""
    kind, own = _alone(value)
    return kind, sum(map(_weight, own))


def _weight_around(kind: str, near: Sequence[str], after: Sequence[str]) -> int:
    return (
        _last_weight(tuple(near[-2:]), kind)
        + sum(_near_weight(word, kind) for word in near)
        + sum(map(_after_weight, after))
    )


@functools.lru_cache(maxsize=4096)
def _last_weight(last: tuple[str, ...], kind: str) -> int:
    return sum(map(_weight, _of_last(last, kind)))


@functools.lru_cache(maxsize=16384)
def _near_weight(word: str, kind: str) -> int:
    return sum(map(_weight, _of_near(word, kind)))


@functools.lru_cache(maxsize=4096)
def _after_weight(word: str) -> int:
    return _weight(_of_after(word))


@functools.lru_cache(maxsize=16384)
def _weight(feature: str) -> int:
    weights = heads()["secret"].weights
    return weights[zlib.crc32(feature.encode()) % len(weights)]


@functools.lru_cache(maxsize=4096)
def _may_be(value: str) -> bool:
    """Paths, times and rows of dashes are none, wherever they stand."""
    if not MIN_SECRET_CHARS <= len(value) <= MAX_SECRET_CHARS or value.startswith(("/", "~", "./")):
        return False
    return sum(map(str.isalnum, value)) >= MIN_SECRET_CHARS and not _TIME.fullmatch(value)


def _around(kind: str, near: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    yield from _of_last(near[-2:], kind)
    for word in near:
        yield from _of_near(word, kind)
    yield from map(_of_after, after)


def _of_last(last: Sequence[str], kind: str) -> Iterator[str]:
    """Of the one or two words right before it."""
    yield from (f"{distance} {word}" for distance, word in enumerate(reversed(last), 1))
    if last:
        yield from (f"1 {last[-1]} {kind}", f"2 {' '.join(last)}")


def _of_near(word: str, kind: str) -> tuple[str, str]:
    return f"near {word}", f"near {word} {kind}"


def _of_after(word: str) -> str:
    return f"after {word.lower()}"


def _alone(value: str) -> tuple[str, tuple[str, ...]]:
    """Its kind, and what it says wherever it stands."""
    shape = _shape(value)
    kind = _kind(value, shape)
    low = value.lower()
    return kind, (
        f"shape {shape[:6]}",
        f"kind {kind}",
        f"length {min(len(value) // 4, 10)} {kind}",
        f"start {low[:3]}",
        *(f"tri {low[i : i + 3]}" for i in range(min(len(value) - 2, 24))),
    )


def _shape(value: str) -> str:
    """`Tiger-2024` is Aa-0."""
    if value.isascii():
        marks = value.translate(_MARKS)
    else:
        marks = "".join(
            "0" if char.isdigit() else "A" if char.isupper() else "a" if char.isalpha() else char
            for char in value
        )
    return "".join(mark for mark, _ in groupby(marks))


def _kind(value: str, shape: str) -> str:
    """How many sorts of characters, and how often they change: words of a language change little."""
    sorts = sum(bool(sort.search(value)) for sort in _SORTS)
    changes = len(shape) - 1
    marks = "".join(mark for mark in ".:/" if mark in value)
    return f"{sorts}{min(changes, 8)}{'h' if _HEX.fullmatch(value) else ''}{marks}"


# --- look or change --------------------------------------------------------------------------------


def wants_change(text: str) -> float:
    """0..1: how likely it asks for something to be changed rather than looked at."""
    return 1 / (1 + math.exp(-heads()["change"].score(of_sentence(text))))


def only_looks(text: str, below: float = SURELY_LOOKS) -> bool:
    """Whether it surely asks for nothing to be changed: by the head, whose log-odds are `below` that, and by
    no word that says otherwise.
    """
    if _CHANGES.search(text):
        return False
    return heads()["change"].score(of_sentence(text)) < below


def of_sentence(text: str) -> list[int]:
    terms = _TERMS.findall(text.lower())[:200]
    padded = ["^", *terms, "$"]
    pairs = (" ".join(padded[i : i + 2]) for i in range(len(padded) - 1))
    ends = (f"first {' '.join(padded[1:3])}", f"last {' '.join(padded[-3:])}")
    return _hashed(dict.fromkeys([*padded, *pairs, *ends]))


def _hashed(features: Any) -> list[int]:
    return [zlib.crc32(feature.encode()) for feature in features]
