"""Text classification and sequence labelling by heads on one backbone, learnt together.

A linear head for the kind of a request reads the last token; another tells of each token which span it
begins or is in (`echo`). A causal model has not seen what follows a word when it reads it, so the text is
given twice and the second copy is labelled (Springer et al. 2024, "Repetition Improves Language Model
Embeddings"). The backbone is frozen and its features are computed once, or all of it learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmos.engine.tokenizer import Tokenizer
from llmos.tune.echo import Ints, Read, read, spans_of, tags_of
from llmos.tune.labelled import TAGS, Labelled, Span
from llmos.tune.network import Network, Whole

_AT_ONCE = 4096  # tokens whose features are computed in one pass


class Heads(nn.Module):
    """Two linear layers on standardised features: a backbone's are of very different sizes."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, kinds: int, tags: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.kinds, self.tags = nn.Linear(width, kinds), nn.Linear(width, 1 + 2 * tags)

    def standardise_by(self, features: Tensor) -> None:
        """features [N, width], of training sentences."""
        self.mean.copy_(features.mean(0))
        self.spread.copy_(features.std(0).clamp(min=1e-4))

    def norm(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread


@dataclass(slots=True)
class Sample:
    """`kind` -1: not to be learnt. `features` [tokens of the second copy, width], where they are fixed."""

    read: Read
    tags: Ints
    kind: int
    ids: Ints
    learnt: np.ndarray[Any, np.dtype[np.bool_]]
    reply: Ints
    features: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """`last` are the places of each text's last token among all tokens, N of them; `kinds` is -1 where none
    is known; `order` puts losses of tokens and then of texts with a kind into the order of the samples."""

    features: Tensor | None
    ids: Tensor
    rows: Tensor
    columns: Tensor
    tags: Tensor
    last: Tensor
    kinds: Tensor
    order: Tensor


class Learning(nn.Module):
    """Both heads, and the backbone where it learns too: a `network.Learner`."""

    def __init__(self, heads: Heads, whole: Whole | None) -> None:
        super().__init__()
        self.heads, self.whole = heads, whole
        self.trained = nn.ModuleList([heads, *([whole.trained] if whole else [])])

    def collate(self, samples: Sequence[Any], device: torch.device) -> Batch:
        counts = [len(sample.tags) for sample in samples]
        ids = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(sample.ids) for sample in samples], batch_first=True
        )
        fixed = samples[0].features is not None
        order: list[int] = []
        token, text = 0, sum(counts)
        for sample in samples:
            order += range(token, token + len(sample.tags))
            token += len(sample.tags)
            if sample.kind >= 0:
                order.append(text)
                text += 1
        parts = Batch(
            torch.cat([sample.features for sample in samples]).float() if fixed else None,
            ids,
            torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts)),
            torch.from_numpy(np.concatenate([sample.read.places for sample in samples])),
            torch.from_numpy(np.concatenate([sample.tags for sample in samples])),
            torch.tensor(counts).cumsum(0) - 1,
            torch.tensor([sample.kind for sample in samples]),
            torch.tensor(order),
        )
        moved = [getattr(parts, name) for name in parts.__slots__]
        features = None if moved[0] is None else moved[0].to(device)
        return Batch(features, *(part.to(device) for part in moved[1:]))

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of tags [N, 1 + 2 tags], and of kinds [texts, kinds]."""
        if batch.features is not None:
            features = batch.features
        else:
            assert self.whole is not None
            features = self.whole.hidden(batch.ids)[batch.rows, batch.columns].float()
        features = self.heads.norm(features)
        return self.heads.tags(features), self.heads.kinds(features[batch.last])

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        tags, kinds = self.logits(batch)
        known = batch.kinds >= 0
        parts = ((tags, batch.tags), (kinds[known], batch.kinds[known]))
        losses = torch.cat([F.cross_entropy(logits, wanted, reduction="none") for logits, wanted in parts])
        hits = torch.cat([logits.argmax(-1) == wanted for logits, wanted in parts])
        return losses[batch.order], hits[batch.order]


def samples(tokenizer: Tokenizer, texts: Sequence[Labelled], kinds: Sequence[str]) -> list[Sample]:
    made = []
    for text in texts:
        one = read(tokenizer, text.text)
        tags = tags_of(one.offsets, text.spans, TAGS)
        number = kinds.index(text.kind) if text.kind in kinds else -1
        count = len(tags) + (number >= 0)
        made.append(Sample(one, tags, number, one.ids, np.ones(count, bool), np.zeros(count, np.int64)))
    return made


@torch.inference_mode()
def add_features(network: Network, texts: Sequence[Sample], device: torch.device) -> None:
    """What the frozen backbone says of each labelled token, kept in half precision."""
    left = sorted(texts, key=lambda sample: len(sample.ids))
    while left:
        longest = len(left[min(len(left), 64) - 1].ids)
        some = left[: max(1, _AT_ONCE // longest)]
        del left[: len(some)]
        ids = nn.utils.rnn.pad_sequence([torch.from_numpy(sample.ids) for sample in some], batch_first=True)
        hidden = network.hidden(ids.to(device)).to(torch.float16).cpu()
        for row, sample in zip(hidden, some, strict=True):
            sample.features = row[torch.from_numpy(sample.read.places)].clone()


# --- what came of it ------------------------------------------------------------------------------------


@torch.inference_mode()
def predict(
    learning: Learning, texts: Sequence[Sample], device: torch.device
) -> list[tuple[int, float, list[int]]]:
    """For each text: its likeliest kind, how likely, and its tokens' tags."""
    learning.trained.eval()
    found = []
    for start in range(0, len(texts), 64):
        some = texts[start : start + 64]
        tags, kinds = learning.logits(learning.collate(some, device))
        chances, numbers = kinds.softmax(-1).max(-1)
        per_text = torch.split(tags.argmax(-1), [len(sample.tags) for sample in some])
        found += [
            (int(number), float(chance), part.tolist())
            for number, chance, part in zip(numbers, chances, per_text, strict=True)
        ]
    return found


def figures(
    kinds: Sequence[tuple[str, str]], spans: Sequence[tuple[set[Span], set[Span]]]
) -> dict[str, float]:
    """(wanted, found) of each text: accuracy and macro F1 of kinds; of exact spans precision, recall, F1."""
    names = sorted({wanted for wanted, _ in kinds})
    ones = []
    for name in names:
        right = sum(wanted == found == name for wanted, found in kinds)
        among = sum(wanted == name for wanted, _ in kinds) + sum(found == name for _, found in kinds)
        ones.append(2 * right / among)
    right = sum(len(wanted & found) for wanted, found in spans)
    wanted, found = (sum(len(pair[side]) for pair in spans) for side in (0, 1))
    precision, recall = right / max(1, found), right / max(1, wanted)
    return {
        "kind_accuracy": round(sum(a == b for a, b in kinds) / max(1, len(kinds)), 4),
        "kind_macro_f1": round(sum(ones) / max(1, len(ones)), 4),
        "span_precision": round(precision, 4),
        "span_recall": round(recall, 4),
        "span_f1": round(2 * precision * recall / max(1e-9, precision + recall), 4),
    }


def judged(
    learning: Learning, texts: Sequence[Labelled], read_texts: Sequence[Sample], kinds: Sequence[str],
    device: torch.device,
) -> dict[str, float]:  # fmt: skip
    said = predict(learning, read_texts, device)
    return figures(
        [(text.kind, kinds[number]) for text, (number, _, _) in zip(texts, said, strict=True) if text.kind],
        [
            (set(text.spans), set(spans_of(sample.read.offsets, tags, TAGS)))
            for text, sample, (_, _, tags) in zip(texts, read_texts, said, strict=True)
        ],
    )
