"""The next best replies of a real model: other than the first one, valid, and the same up to the branch."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest

from llmos import paths
from llmos.engine.engine import Engine
from llmos.engine.grammar import CallConstraint
from llmos.engine.otherwise import MAX_OTHERS, Otherwise, weakest
from llmos.errors import NotUnderstood
from llmos.messages import Think
from llmos.planner.loop import Loop
from llmos.toolbox import catalog

THINK = Think(id="one", text="show the file notes.txt", entries=("notes.txt", "other.txt"))


@pytest.fixture(scope="module")
def loop(tiny_model: Path) -> Loop:
    wanted = {"file.read", "file.list", "text.search", "shell.run", "ask", "answer"}
    specs = [spec for spec in catalog.load(paths.tool_dirs()[:1]).specs if spec.name in wanted]
    loop = Loop(Engine.load(tiny_model), context_tokens=4096)
    loop.teach(specs)
    return loop


def think(loop: Loop, attempt: int, request: str = "one", text: str = THINK.text) -> str:
    asked = THINK.model_copy(update={"attempt": attempt, "id": f"{request}.{attempt}", "text": text})
    thought = loop.think(asked, cancel=threading.Event(), on_text=lambda text: None)
    assert 0 < thought.confidence <= 1
    return str(thought.calls)


def test_each_reading_is_another_one_and_they_come_to_an_end(loop: Loop) -> None:
    readings = [think(loop, 0)]
    with pytest.raises(NotUnderstood, match="no other reading"):
        for attempt in range(1, MAX_OTHERS + 2):
            readings.append(think(loop, attempt))
    assert len(readings) > 1
    assert len(set(readings)) == len(readings)


def test_a_planner_that_has_not_heard_the_request_finds_another_reading_all_the_same(loop: Loop) -> None:
    first = think(loop, 0)
    loop._recent.clear()
    assert think(loop, 1) != first


def test_what_others_ask_in_between_costs_the_other_readings_nothing(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = think(loop, 0)
    think(loop, 1)
    think(loop, 0, "two", "list the folder docs")
    monkeypatch.delattr(Engine, "generate")  # nothing is left to be thought about
    assert think(loop, 1) != first


def test_the_branch_is_where_the_model_was_least_sure(loop: Loop) -> None:
    think(loop, 0)
    asked, calls = loop._recent[0], loop._calls
    assert calls is not None
    branch = weakest(asked.first, calls)
    assert branch is not None
    assert asked.first.tokens[: len(branch.kept) + 1] == (*branch.kept, branch.refused)
    assert min(asked.first.logprobs) <= math.log(0.999)
    assert weakest(asked.first, calls, skip=len(asked.first.logprobs)) is None


def test_a_branch_is_led_to_its_end_and_its_token_refused_there(loop: Loop) -> None:
    calls = loop._calls
    assert isinstance(calls, CallConstraint)
    think(loop, 0)
    branch = weakest(loop._recent[0].first, calls)
    assert branch is not None
    along = Otherwise(calls, branch)
    along.restart()
    if branch.kept:
        assert along.forced() == list(branch.kept)
        along.accept(branch.kept)
    assert along.forced() == []
    assert not along.mask()[branch.refused]
