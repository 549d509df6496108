"""What is guessed is what stood behind the same tokens, the nearest source first."""

from __future__ import annotations

from llmos.engine.lookup import Lookup


def test_two_tokens_of_the_text_are_needed_and_one_of_a_hint() -> None:
    assert Lookup([1, 2, 3, 4, 2]).guess(3) == []
    assert Lookup([1, 2, 3, 4, 1, 2]).guess(2) == [3, 4]
    assert Lookup([1, 2, 3, 4, 2], [[2, 7, 8, 9]]).guess(2) == [7, 8]


def test_the_longest_likeness_counts_and_later_hints_before_earlier() -> None:
    assert Lookup([1, 2, 3, 9, 1, 2], [[2, 7]]).guess(1) == [3], "two tokens that are the same before one"
    assert Lookup([5], [[5, 1], [5, 2]]).guess(1) == [2]
    assert Lookup([1, 2, 3, 1, 2], [[1, 2, 8]]).guess(1) == [8], "of two as long, the hint"


def test_what_is_written_is_looked_in_too() -> None:
    lookup = Lookup([1])
    lookup.extend([6, 7, 8, 6, 7])
    assert lookup.guess(4) == [8, 6, 7]
