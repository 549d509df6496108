"""A slice of the race (race.py has all of it): eight seconds of swapping, and nothing gets out."""

from __future__ import annotations

import pytest

from tests.redteam import race

pytestmark = pytest.mark.sandbox


def test_a_swap_between_judgement_and_use_never_escapes() -> None:
    result = race.run(seconds=8)
    assert result.escapes == ()
    assert result.tries >= 400 and result.swaps >= 400


def test_without_a_sandbox_it_escapes_at_once() -> None:
    assert race.run(tries=5 * race.PER_CALL, sandboxed=False).escapes
