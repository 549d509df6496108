"""A text as a causal model reads it to label it: twice, and what its tokens are of the text's characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmos.engine.tokenizer import Tokenizer
from llmos.tune.labelled import Span

_MOST_TOKENS = 512  # of both copies
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Read:
    """`places` are the second copy's tokens in `ids`; `offsets` what each is of the text, without blanks."""

    text: str
    ids: Ints
    places: Ints
    offsets: tuple[tuple[int, int], ...]


def read(tokenizer: Tokenizer, text: str) -> Read:
    whole, start = f"{text}\n{text}", len(text) + 1
    tokenizer.hf.encode_special_tokens = True
    encoded = tokenizer.hf.encode(whole, add_special_tokens=False)
    places, offsets = [], []
    for place, (begins, last) in enumerate(encoded.offsets[:_MOST_TOKENS]):
        first = last - len(whole[begins:last].lstrip())
        if start <= first < last:
            places.append(place)
            offsets.append((first - start, last - start))
    ids = np.array(encoded.ids[:_MOST_TOKENS], np.int64)
    return Read(text, ids, np.array(places or [len(ids) - 1], np.int64), tuple(offsets or [(0, 0)]))


def tags_of(offsets: Sequence[tuple[int, int]], spans: Sequence[Span], tags: Sequence[str]) -> Ints:
    """BIO (Ramshaw and Marcus 1995): 0 outside, 1 + 2t where a span of tag t begins, 2 + 2t inside it."""
    found = np.zeros(len(offsets), np.int64)
    for span in spans:
        inside = [n for n, (start, end) in enumerate(offsets) if start < span.end and end > span.start]
        for number, token in enumerate(inside):
            found[token] = 1 + 2 * tags.index(span.tag) + (number > 0)
    return found


def spans_of(
    offsets: Sequence[tuple[int, int]], found: Sequence[int], tags: Sequence[str]
) -> tuple[Span, ...]:
    """The inverse. A token inside a span of another tag than the one before begins a span of its own; one
    that follows without a blank does not."""
    spans: list[Span] = []
    before = 0
    for (start, end), number in zip(offsets, found, strict=True):
        if number:
            tag = tags[(number - 1) // 2]
            same = before and (before - 1) // 2 == (number - 1) // 2
            if same and (number % 2 == 0 or start == spans[-1].end):
                spans[-1] = Span(spans[-1].start, end, tag)
            else:
                spans.append(Span(start, end, tag))
        before = number
    return tuple(spans)
