"""What a reply to a request may contain, for the engine to guess by: examples near it, and its own words.

Only time depends on it. A call of an example that is like the request is likely as far as its values go; what
the request does not say is cut out. Words that look like names, paths or numbers are what calls quote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmos.engine.grammar import render_call
from llmos.planner.retrieval import Retriever, Shot

_WORD = re.compile(r"[^\s,;:!?'\"`，。？！]+")
_NAME = re.compile(r"[\d./_~*-]")
_MAX_WORDS, _MAX_SHOTS = 6, 6


def tokens(
    encode: Callable[[str], list[int]], retriever: Retriever, say: str, before: list[int]
) -> list[list[int]]:
    """Token sequences that the reply may contain, likelier ones later; `before` are the prompt's last."""
    found = [encode(text) for text in quoted(say)]
    for first, *others in openings(retriever.nearest(say, _MAX_SHOTS, per_tool=2), say):
        found += [*map(encode, others), [*before, *encode(first)]]
    return found


def openings(shots: Sequence[Shot], say: str) -> Iterator[list[str]]:
    """The parts of each shot's call, the nearest shot last; only a first part opens a reply."""
    for shot in reversed(shots):
        yield _without(render_call(shot.spec, shot.args), _values(shot.args), say)


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _values(inner)


def _without(call: str, values: Iterator[str], say: str) -> list[str]:
    """The call in the parts that are left between values which the request does not contain."""
    parts = [call]
    for value in values:
        if value and value not in say:
            head, found, tail = parts[-1].partition(value)
            parts[-1:] = [head, tail] if found else [head]
    return [part for part in parts if part]


def quoted(say: str) -> list[str]:
    """The request's words as an only argument, the likeliest last."""
    words = [word.rstrip(".") for word in _WORD.findall(say)]
    names = [word for word in words if _NAME.search(word)] or words[-1:]
    return [f'":"{word}"}}' for word in reversed(names[:_MAX_WORDS])]
