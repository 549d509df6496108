"""One turn's own arithmetic, and turns on the tiny model without a process around them."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest

from llmos import paths
from llmos.engine.engine import Engine
from llmos.engine.grammar import CallConstraint, render_call
from llmos.engine.weights import open_source
from llmos.errors import Cancelled, ConfigError, NotUnderstood, UsageError
from llmos.messages import Example, Think, ToolCall, ToolSpec, Worked
from llmos.planner.loop import AnswerText, Loop, _once, confidence, probability
from llmos.toolbox import catalog

TEXT = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
SHELL = ToolSpec(
    name="shell.run",
    summary="run a command",
    parameters=TEXT,
    raw="command",
    examples=tuple(
        Example(say=say, args={"command": "date"})
        for say in ("show the date", "show today's date", "show the date now", "show me the date")
    ),
)
UNENFORCEABLE = ToolSpec(
    name="worse.example",
    summary="a keyword that no grammar enforces",
    parameters={"type": "object", "properties": {"a": {"type": "string", "format": "nonsense"}}},
)
TWO_LINES = SHELL.model_copy(
    update={"name": "bad.example", "examples": (Example(say="x", args={"command": "a\nb"}),)}
)


def taught(engine: Engine, *, max_reply_tokens: int) -> Loop:
    loop = Loop(engine, context_tokens=1024, max_reply_tokens=max_reply_tokens)
    loop.teach((SHELL, TWO_LINES, UNENFORCEABLE))
    return loop


@pytest.fixture(scope="module")
def loop(tiny_model: Path) -> Loop:
    return taught(Engine.load(tiny_model), max_reply_tokens=24)


def test_confidence_is_the_geometric_mean_probability() -> None:
    assert confidence([math.log(0.5), math.log(0.125)]) == pytest.approx(0.25)
    assert confidence([]) == 1.0


def test_calls_are_the_less_probable_the_more_surprising_they_are() -> None:
    found = [probability(logprobs) for logprobs in ([], [-0.1], [-0.1, -0.9], [-0.5] * 9, [-9.0] * 90)]
    assert found == sorted(found, reverse=True) and found[0] > 0.98 and 0 < found[-1] < 0.05
    assert probability([1e-9]) <= 1  # rounding


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["ans", "wer The", " sky"], "The sky"),
        (["answer ", "yes"], "yes"),
        (["ask Which", " file?"], "Which file?"),
        (["shell.run ls", " -la"], ""),
        (["answering.tool {", "}"], ""),
        (["file.list {}\nanswer no"], ""),
    ],
)
def test_only_the_text_of_an_answer_is_streamed(pieces: list[str], shown: str) -> None:
    seen: list[str] = []
    stream = AnswerText(seen.append)
    for piece in pieces:
        stream(piece)
    assert "".join(seen) == shown


@pytest.mark.weights
def test_translate_gives_one_command_line(loop: Loop) -> None:
    think = Think(id="t", text="show the date", mode="translate")
    thought = loop.think(think, cancel=threading.Event(), on_text=lambda text: None)
    assert thought.command == "date"
    assert thought.calls == ()


@pytest.mark.weights
def test_a_tool_that_cannot_be_written_or_enforced_is_left_out(loop: Loop) -> None:
    with pytest.raises(ConfigError):
        CallConstraint(loop._engine.tokenizer, (UNENFORCEABLE,))
    thought = loop.think(Think(id="c", text="what day"), cancel=threading.Event(), on_text=lambda text: None)
    assert {call.tool for call in thought.calls} == {"shell.run"}


@pytest.mark.weights
def test_a_reply_that_ran_out_of_tokens_is_never_used(tiny_model: Path) -> None:
    loop = taught(Engine.load(tiny_model), max_reply_tokens=4)
    for mode in ("ask", "translate"):
        with pytest.raises(NotUnderstood, match="4 tokens"):
            loop.think(
                Think(id="l", text="list a, b, c, d, e, f and g, each by its own", mode=mode),
                cancel=threading.Event(),
                on_text=lambda text: None,
            )


@pytest.mark.weights
def test_every_shipped_example_is_a_reply_that_the_grammar_allows(tiny_model: Path) -> None:
    tokenizer = open_source(tiny_model).tokenizer
    specs = catalog.load(paths.tool_dirs()[:1]).specs
    constraint = CallConstraint(tokenizer, specs)
    for spec in specs:
        for example in spec.examples:
            constraint.restart()
            constraint.accept(tokenizer.encode(render_call(spec, example.args)))
            assert constraint.complete, example.say


@pytest.mark.weights
def test_a_cancelled_request_and_one_too_long_are_told_apart(loop: Loop) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        loop.think(Think(id="a", text="show the date"), cancel=cancelled, on_text=lambda text: None)
    with pytest.raises(UsageError, match=r"the request has \d+ tokens and \d+ fit"):
        loop.think(Think(id="b", text="word " * 2000), cancel=threading.Event(), on_text=lambda text: None)


def test_a_persons_own_example_decides_what_the_model_proposes_for_their_phrase(tiny_model: Path) -> None:
    """Undone by leaving it out: nothing of it stays in the model."""
    loop = Loop(Engine.load(tiny_model), context_tokens=2048, max_reply_tokens=48)
    loop.teach(
        tuple(catalog.load(paths.tool_dirs()[:1]).tools[name].spec for name in ("file.copy", "shell.run"))
    )
    usual = Worked(
        say="the usual backup", calls=(ToolCall(tool="file.copy", args={"path": "docs", "to": "/srv/b"}),)
    )

    def proposed(*examples: Worked) -> tuple[ToolCall, ...]:
        think = Think(id="1", text="the usual backup", examples=examples)
        return loop.think(think, cancel=threading.Event(), on_text=lambda text: None).calls

    before = proposed()
    assert proposed(usual) == usual.calls != before
    gone = Worked(say="the usual backup", calls=(ToolCall(tool="no.such", args={}),))
    assert proposed(gone) == before


def test_a_call_said_twice_is_made_once_where_that_is_all_it_can_mean() -> None:
    replaced = ToolCall(tool="text.replace", args={"path": "a", "find": "b", "replace": "c"})
    started = ToolCall(tool="process.start", args={"command": "./worker"})
    assert _once([replaced, replaced]) == [replaced]
    assert _once([started, started, replaced]) == [started, started, replaced]
