"""Which token comes next: greedy, or sampled (temperature; top-k; nucleus top-p, Holtzman et al. 2020; min-p,
Nguyen et al. 2024).

The output matrix is a third of what decoding a token reads. Where a constraint leaves few tokens, only their
rows of it are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmos.engine.loading import AnyModel

FEW = 2048  # allowed tokens: up to so many are looked at alone


@dataclass(frozen=True, slots=True)
class Sampling:
    """Greedy with temperature 0 (the default). `seed` makes a sampled run repeatable."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> tuple[int, float]:
    """One index into float logits [n] (what is forbidden at -inf), and its log-probability."""
    if sampling.temperature <= 0:
        token = int(logits.argmax())
        return token, float(logits[token] - logits.logsumexp(0))
    logprobs = (logits / sampling.temperature).log_softmax(0)
    kept = _filtered(logprobs, sampling)
    token = int(torch.multinomial(kept.softmax(0), 1, generator=generator))
    return token, float(logprobs[token])


def _filtered(logprobs: Tensor, sampling: Sampling) -> Tensor:
    """[n] log-probabilities with what top-k, min-p and top-p cut off at -inf; the best always stays."""
    kept = logprobs.clone()
    if 0 < sampling.top_k < kept.numel():
        kept[kept < kept.topk(sampling.top_k).values[-1]] = -torch.inf
    if sampling.min_p > 0:
        kept[kept < kept.max() + torch.tensor(sampling.min_p).log()] = -torch.inf
    if sampling.top_p < 1:
        ordered, order = kept.softmax(0).sort(descending=True)
        beyond = ordered.cumsum(0) - ordered >= sampling.top_p
        kept[order[1:][beyond[1:]]] = -torch.inf
    return kept


class Ahead:
    """What may follow each of a few positions, of which the model has computed `states` [positions, hidden].

    Logits are computed when they are asked for. They do not depend on how many are computed together where
    the model is `exact`; so neither does what is chosen, nor its probability.
    """

    def __init__(self, model: AnyModel, states: Tensor) -> None:
        self._model, self._states = model, states
        self._logits: Tensor | None = None  # of the positions from `_first` on
        self._first = 0

    def choose(
        self, position: int, mask: Tensor | None, sampling: Sampling, generator: torch.Generator | None
    ) -> tuple[int, float]:
        """One token that `mask` (bool [vocab], None: any) allows, and its log-probability."""
        if mask is None:
            return choose(self._all(position), sampling, generator)
        if int(mask.count_nonzero()) > FEW:
            return choose(self._all(position).masked_fill(~mask, -torch.inf), sampling, generator)
        allowed = mask.nonzero().squeeze(1)
        index, logprob = choose(self._of(position, allowed), sampling, generator)
        return int(allowed[index]), logprob

    def _all(self, position: int) -> Tensor:
        """Float [vocab]. Further positions are computed with it: the matrix is read only once."""
        if self._logits is None:
            self._first = position
            self._logits = self._model.logits(self._states[position:]).float().cpu()
        return self._logits[position - self._first]

    def _of(self, position: int, ids: Tensor) -> Tensor:
        """Float [len(ids)]."""
        if self._logits is not None:
            return self._all(position)[ids]
        return self._model.logits_of(self._states[position], ids).float().cpu()
