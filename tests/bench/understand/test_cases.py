"""The benchmark's sentences must be new to the system, or it would measure its memory."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from llmos import paths
from llmos.toolbox import catalog
from tests.bench.understand.__main__ import load_cases

CASES: list[dict[str, Any]] = load_cases()
_CHECKS = {
    "has",
    "lacks",
    "any",
    "number",
    "order",
    "exists",
    "gone",
    "text",
    "not_text",
    "members",
    "exists_any",
}
_CHECKS |= {"victim", "executable", "not_executable", "mode", "status"}
KNOWN_KEYS = _CHECKS | {"set", "say", "level", "lang", "data", "may", "files", "days"}


def normal(sentence: str) -> str:
    """Words and signs that matter: case, punctuation at the end and blanks do not."""
    return re.sub(r"[\s?!.,。？！，]+", " ", sentence.casefold()).strip()


def test_there_are_enough_sentences_and_each_is_asked_once() -> None:
    counts = Counter(normal(case["say"]) for case in CASES)
    assert len(counts) >= 300
    assert [say for say, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["say"])
def test_a_case_is_well_formed_and_checks_something(case: dict[str, Any]) -> None:
    assert set(case) <= KNOWN_KEYS
    assert set(case) & _CHECKS


def test_no_sentence_stands_in_a_manifest() -> None:
    shipped = catalog.load(paths.tool_dirs()[:1])
    taught = {normal(example.say) for spec in shipped.specs for example in spec.examples}
    assert [case["say"] for case in CASES if normal(case["say"]) in taught] == []
