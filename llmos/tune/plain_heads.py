"""What the heads on a backbone are compared with: a linear model of hashed words, and rules for spans."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence

import torch
from torch import nn

from llmos.tune.labelled import Labelled, Span

_BUCKETS = 1 << 15
_WORD = re.compile(r"[a-z0-9_.]+|[^\x00-\x7f]")
_RULES = (
    ("path", re.compile(r"(?<!\S)[~\w*./-]*(?:/[\w*.~-]*|\.\w{1,5})(?=[\s,;:?!，。]|$)")),
    ("number", re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")),
)


def learn_words(texts: Sequence[Labelled], kinds: Sequence[str], *, epochs: int = 30) -> nn.EmbeddingBag:
    """Logistic regression on words and pairs of them (Joulin et al. 2017 without the inner layer)."""
    bag = nn.EmbeddingBag(_BUCKETS, len(kinds), mode="sum")
    nn.init.zeros_(bag.weight)
    optimizer = torch.optim.AdamW(bag.parameters(), lr=0.02, weight_decay=0.01)
    known = [(features(text.text), kinds.index(text.kind)) for text in texts if text.kind in kinds]
    for _ in range(epochs):
        order = torch.randperm(len(known)).tolist()
        for start in range(0, len(order), 256):
            some = [known[index] for index in order[start : start + 256]]
            loss = nn.functional.cross_entropy(
                _logits(bag, [one for one, _ in some]), torch.tensor([k for _, k in some])
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return bag


@torch.inference_mode()
def words_say(bag: nn.EmbeddingBag, texts: Sequence[str]) -> list[int]:
    return [int(number) for number in _logits(bag, [features(text) for text in texts]).argmax(-1)]


def features(text: str) -> list[int]:
    words = _WORD.findall(text.lower())
    found = [*words, *(" ".join(pair) for pair in itertools.pairwise(words))]
    return [zlib.crc32(word.encode()) % _BUCKETS for word in found or [""]]


def _logits(bag: nn.EmbeddingBag, found: Sequence[list[int]]) -> torch.Tensor:
    ends = torch.tensor([0, *map(len, found)]).cumsum(0)[:-1]
    logits: torch.Tensor = bag(torch.tensor([number for one in found for number in one]), ends)
    return logits


def rules_say(text: str) -> set[Span]:
    taken: list[Span] = []
    for tag, pattern in _RULES:
        for match in pattern.finditer(text):
            if all(match.end() <= span.start or match.start() >= span.end for span in taken):
                taken.append(Span(match.start(), match.end(), tag))
    return set(taken)
