"""Hints are what a call may quote, and nothing that the request does not say."""

from __future__ import annotations

import pytest

from llmos.messages import ToolSpec
from llmos.planner import hints
from llmos.planner.retrieval import Shot

COPY = ToolSpec(
    name="file.copy",
    summary="copy",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string"}, "to": {"type": "string"}, "many": {"type": "array"}},
    },
)


@pytest.mark.parametrize(
    ("say", "parts"),
    [
        ("copy a.txt to b.txt", ['file.copy {"path":"a.txt","to":"b.txt"}']),
        ("copy c.txt to b.txt", ['file.copy {"path":"', '","to":"b.txt"}']),
        ("copy it", ['file.copy {"path":"', '","to":"', '"}']),
    ],
)
def test_values_that_the_request_does_not_say_are_cut_out(say: str, parts: list[str]) -> None:
    shot = Shot("copy a.txt to b.txt", COPY, {"path": "a.txt", "to": "b.txt"})
    assert list(hints.openings([shot], say)) == [parts]


def test_the_nearest_shot_stands_last_and_lists_are_looked_into() -> None:
    near, far = (Shot("x", COPY, {"many": [name]}) for name in ("near.txt", "far.txt"))
    assert list(hints.openings([near, far], "near.txt")) == [
        ['file.copy {"many":["', '"]}'],
        ['file.copy {"many":["near.txt"]}'],
    ]


@pytest.mark.parametrize(
    ("say", "words"),
    [
        ("delete old.txt, then /tmp/x.", ['":"/tmp/x"}', '":"old.txt"}']),
        ("restart the container web", ['":"web"}']),
        ("删除 a.log", ['":"a.log"}']),
        ("", []),
        ("?!", []),
    ],
)
def test_words_that_look_like_names_come_as_arguments(say: str, words: list[str]) -> None:
    assert hints.quoted(say) == words
