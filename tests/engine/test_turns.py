"""Side by side: passes go round, a short reply overtakes a long one, and nobody's reply changes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from llmos.engine.engine import Engine
from llmos.engine.generate import Generation
from llmos.engine.grammar import LineConstraint
from llmos.engine.turns import Turns


def test_turns_go_round() -> None:
    turns, order = Turns(), []

    def want(name: str) -> None:
        for _ in range(3):
            with turns:
                order.append(name)
                time.sleep(0.05)  # the others ask meanwhile

    threads = [threading.Thread(target=want, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(order) == 9
    assert all(set(order[at : at + 3]) == set("abc") for at in (0, 3, 6))


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return Engine.load(tiny_model, dtype="auto", context_tokens=1024)


def ask(engine: Engine, text: str, count: int) -> Generation:
    chat = engine.tokenizer.render_chat([{"role": "user", "content": text}])
    return engine.generate(
        engine.tokenizer.encode(chat, special=True),
        max_tokens=count,
        constraint=LineConstraint(engine.tokenizer),
    )


ASKED = {"Count in words from one to ninety-nine.": 120, "Say yes.": 4, "Name a colour.": 6}


@pytest.mark.weights
def test_replies_side_by_side_are_those_of_one_after_the_other(engine: Engine) -> None:
    alone = {text: ask(engine, text, count) for text, count in ASKED.items()}
    engine.forget()
    done: dict[str, Generation] = {}

    def one(text: str, count: int) -> None:
        done[text] = ask(engine, text, count)

    threads = [threading.Thread(target=one, args=asked) for asked in ASKED.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(done)[-1] == next(iter(ASKED)), "the long one came first and ends last"
    for text, reply in done.items():
        assert (reply.tokens, reply.logprobs) == (alone[text].tokens, alone[text].logprobs)


@pytest.mark.weights
def test_what_a_running_reply_has_read_is_not_read_again(engine: Engine) -> None:
    engine.forget()
    text = "List everything you know about the city of Paris. " * 10
    ask(engine, text, 1)
    long = threading.Thread(target=ask, args=(engine, text + "Now.", 100))
    long.start()
    while not any(slot.busy for slot in engine._slots):
        time.sleep(0.001)
    assert ask(engine, text + "Then.", 2).cached_tokens > 80
    assert long.is_alive()
    long.join()


@pytest.mark.weights
def test_a_copy_of_a_constraint_goes_its_own_way(engine: Engine) -> None:
    first = LineConstraint(engine.tokenizer)
    before = first.mask()
    copy = first.copy()
    copy.accept(engine.tokenizer.encode("ls"))
    assert copy.complete
    assert not first.complete
    assert first.mask().equal(before)
