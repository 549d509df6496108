"""How well a model foretells a text: exp of the mean negative log-likelihood of its tokens (Jelinek 1977).

The text is read in windows that know nothing of one another, so figures are comparable for one window length
and one tokenizer only. It judges number formats of one model against one another, not models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from llmos.engine.engine import Engine
from llmos.errors import UsageError

WINDOW = 512  # tokens
_CHUNK = 128  # of which logits over the whole vocabulary are held at once


@torch.inference_mode()
def perplexity(
    engine: Engine,
    ids: Sequence[int],
    *,
    window: int = WINDOW,
    on_progress: Callable[[float], None] | None = None,
) -> float:
    """Of every token that has another before it in its window. Raises UsageError for too short a text."""
    starts = [start for start in range(0, len(ids), window) if len(ids) - start > 1]
    if not starts:
        raise UsageError("the text is too short to be measured", "Give a text of a few hundred words.")
    total, count = 0.0, 0
    for number, start in enumerate(starts, 1):
        part = ids[start : start + window]
        total += _surprise(engine, torch.tensor(part))
        count += len(part) - 1
        if on_progress is not None:
            on_progress(number / len(starts))
    return math.exp(total / count)


def _surprise(engine: Engine, ids: torch.Tensor) -> float:
    """The sum of -log p over all but the first of `ids`."""
    cache = engine.model.new_cache(1, len(ids))
    total = 0.0
    for start in range(0, len(ids) - 1, _CHUNK):
        chunk = ids[start : min(start + _CHUNK, len(ids) - 1)]
        logits = engine.model(chunk.unsqueeze(0), cache, wanted=None)[0].float().cpu()
        after = ids[start + 1 : start + 1 + len(chunk)]
        total += float(F.cross_entropy(logits, after, reduction="sum"))
    return total


@torch.inference_mode()
def likelihood(engine: Engine, before: Sequence[int], ids: Sequence[int]) -> float:
    """log p(ids | before); `before` has at least one token."""
    read = torch.tensor([*before, *ids])
    cache = engine.model.new_cache(1, len(read))
    logits = engine.model(read[:-1].unsqueeze(0), cache, wanted=len(ids))[0].float().cpu()
    return -float(F.cross_entropy(logits, read[-len(ids) :], reduction="sum"))
