"""The ranker that `llmos tune answers` sets beside the weights in use, and the questions it judges by."""

from __future__ import annotations

import torch

from llmos.explain import answers as in_use
from llmos.tune import answers


def test_the_ranker_learns_what_tells_right_entries_apart() -> None:
    """Where the fourth feature alone tells, the weights in use are wrong and the learnt ones right."""
    right = torch.tensor([True, False])
    features = torch.zeros(2, len(in_use.WEIGHTS))
    features[0, 3], features[1, 0] = 1.0, 0.3
    ranked = [(features, right)] * 10
    assert answers._first(ranked, [torch.tensor(in_use.WEIGHTS)] * 10) == 0
    assert answers._first(ranked, answers._learnt(ranked)) == 1


def test_the_questions_are_told_from_those_to_the_machine() -> None:
    asked = answers._questions()
    assert len(asked) > 100 and len({text for text, _ in asked}) == len(asked)
    machine = [text for text, pages in asked if "x" in pages]
    assert answers._left(machine) == f"{len(machine) - 1} of {len(machine)} left alone"  # "what is running?"
