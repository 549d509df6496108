"""The default model goes on from what came of a call: real weights and the shipped tools."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llmos.engine import adapter, store
from llmos.engine.engine import Engine
from llmos.messages import Taken, Think, ToolCall
from llmos.paths import tool_dirs
from llmos.planner.loop import Loop
from llmos.toolbox import catalog

pytestmark = pytest.mark.weights
NAMES = ("access.log", "app.py", "notes.txt", "old.log", "util.py")


@pytest.fixture(scope="module")
def loop(default_model: Path) -> Loop:
    adapted = adapter.find(store.sha256_of("default") or "")
    engine = Engine.load(default_model, context_tokens=4096, adapter=adapted, threads=1)
    made = Loop(engine, context_tokens=4096)
    made.teach(catalog.load(tool_dirs()[:1]).specs)
    return made


@pytest.mark.parametrize(
    ("text", "first", "outcome", "next_calls"),
    [
        (
            "look which file contains TODO, then delete it",
            ToolCall(tool="text.search", args={"pattern": "TODO"}),
            "exit code 0\nnotes.txt:2: TODO call Anna\n",
            [ToolCall(tool="file.delete", args={"path": "notes.txt"})],
        ),
        (
            "find the newest log here, then show its last 5 lines",
            ToolCall(tool="file.list", args={"path": "*.log", "sort": "newest", "limit": 1}),
            "exit code 0\naccess.log\n",
            [
                ToolCall(tool="text.tail", args={"path": "access.log", "lines": 5}),
                ToolCall(tool="file.read", args={"path": "access.log", "last": 5}),  # shows the same
            ],
        ),
    ],
)
def test_the_next_call_is_about_what_was_found(
    loop: Loop, text: str, first: ToolCall, outcome: str, next_calls: list[ToolCall]
) -> None:
    think = Think(id="t", text=text, entries=NAMES, taken=(Taken(call=first, outcome=outcome),))
    thought = loop.think(think, cancel=threading.Event(), on_text=lambda text: None)
    assert thought.calls in [(call,) for call in next_calls] and thought.confidence > 0.5
