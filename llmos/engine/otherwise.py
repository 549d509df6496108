"""The next best reply: the same up to where the model was least sure, and from there without what it chose.

One branch of a beam search, taken at the weakest token and decoded greedily from there. What stands before it
is read in one pass, and the prompt is in the cache, so that it costs about what the rest of a reply does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

from llmos.engine.generate import Generation
from llmos.engine.grammar import GrammarConstraint
from llmos.errors import NotUnderstood

MAX_OTHERS = 3  # branches: each costs a reply, and further ones are hardly ever what was meant


@dataclass(frozen=True, slots=True)
class Branch:
    """Keep `kept`, then choose anything but `refused`."""

    kept: tuple[int, ...]
    refused: int


def weakest(generation: Generation, constraint: GrammarConstraint, *, skip: int = 0) -> Branch | None:
    """Where the model was least sure of what it chose (`skip`: next to that, …); None where it had no choice.

    `logprobs` has no entries for forced tokens, so the constraint is walked once more to tell them apart.
    """
    places: list[tuple[float, int]] = []
    constraint.restart()
    tokens, at = generation.tokens, 0
    while at < len(tokens) and len(places) < len(generation.logprobs):
        forced = constraint.forced()
        if not forced:
            places.append((generation.logprobs[len(places)], at))
        taken = forced or [tokens[at]]
        constraint.accept(taken)
        at += len(taken)
    if skip >= len(places):
        return None
    at = sorted(places)[skip][1]
    return Branch(tokens[:at], tokens[at])


def others(
    first: Generation, constraint: GrammarConstraint, decode: Callable[[Otherwise], Generation]
) -> list[Generation]:
    """The replies at the weakest places of the first one, likeliest first; `decode` runs the model."""
    found: dict[str, Generation] = {}
    for skip in range(MAX_OTHERS):
        branch = weakest(first, constraint, skip=skip)
        if branch is None:
            break
        with suppress(NotUnderstood):  # it came to no end
            other = decode(Otherwise(constraint, branch))
            found.setdefault(other.text, other)
    found.pop(first.text, None)  # the same in other tokens
    return sorted(found.values(), key=lambda other: -sum(other.logprobs))


class Otherwise:
    """A constraint (`engine.generate.Constraint`) that leads along a branch and is `inner` from there on."""

    def __init__(self, inner: GrammarConstraint, branch: Branch) -> None:
        self._inner, self._branch = inner, branch
        self._num_taken = 0

    def restart(self) -> None:
        self._inner.restart()
        self._num_taken = 0

    def forced(self) -> list[int]:
        kept = self._branch.kept
        if self._num_taken < len(kept):
            return list(kept[self._num_taken :])
        return [] if self._at_branch else self._inner.forced()

    def mask(self) -> Tensor:
        mask = self._inner.mask()
        if self._at_branch:
            mask[self._branch.refused] = False
        return mask

    def accept(self, ids: Sequence[int]) -> None:
        self._inner.accept(ids)
        self._num_taken += len(ids)

    @property
    def finished(self) -> bool:
        return self._inner.finished

    @property
    def complete(self) -> bool:
        return self._inner.complete

    @property
    def _at_branch(self) -> bool:
        return self._num_taken == len(self._branch.kept)
