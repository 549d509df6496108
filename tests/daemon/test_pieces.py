"""Texts that are longer than a prompt of the local model, through the real daemon and a scripted planner."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

import pytest

from llmos.daemon import pieces
from llmos.planner.route import MAX_PIECES, PIECE_CHARS

from . import support

FILLER = "The ferry was painted in spring, and nobody minded the colour of it.\n"
FACT = "Marta keeps the code of the vault, which reads 7319.\n"
ANSWER = {"calls": [{"tool": "answer", "args": {"text": "I read the beginning."}}]}
QUESTION = "Who knows the number of our safe and the vault?"
SCRIPT: dict[str, Any] = {
    QUESTION: {**ANSWER, "said": {"7319": "Marta knows it.", "*": "nothing"}},
    "summarise this": ANSWER,
    pieces._EACH: {"said": {"7319": "about a vault", "*": "about a ferry"}},
    pieces._ALL: {"said": {"vault": "a ferry and a vault"}},
    "translate this into Greek": ANSWER,
    "say hello": ANSWER,
}


def piped(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def client(start_daemon: Callable[..., support.Daemon]) -> support.Client:
    return start_daemon(SCRIPT).connect()


LONG = FILLER * 150 + FACT + FILLER * 150


def test_a_text_is_cut_without_losing_a_word() -> None:
    odd = "a" * 1000 + "\n\n" + "one two. " * 200 + "\nlast"
    for text in (LONG, odd):
        found = pieces.passages(text)
        assert max(len(one.text) for one in found) <= pieces.PASSAGE_CHARS + 20
        assert re.sub(r"\s", "", "".join(one.text for one in found)) == re.sub(r"\s", "", text)
    (place,) = [one for one in pieces.passages(LONG) if "7319" in one.text]
    assert place.line <= 151 < place.line + place.text.count("\n") + 1


def test_a_fact_in_the_middle_is_found_piece_by_piece(client: support.Client) -> None:
    events: list[dict[str, Any]] = []
    number = client.send("ask", text=QUESTION, cwd="/", data_b64=piped(LONG), route="local")
    result = client.reply(number, events)["result"]
    answer, places = result["answer"].split("\n", 1)
    assert answer == "Marta knows it." and "7319" in places.splitlines()[1]
    told = [event["data"].get("detail", "") for event in events if event["kind"] == "thinking"]
    count = -(-len(LONG) // PIECE_CHARS)
    assert [one for one in told if one] == [
        f"reading piece {n} of {len(told) - 1}" for n in range(1, len(told))
    ]
    assert count <= len(told) - 1 <= count + 1


def test_a_summary_is_made_of_the_parts(client: support.Client) -> None:
    answer = client.result("ask", text="summarise this", cwd="/", data_b64=piped(LONG))["answer"]
    whole, *parts = answer.splitlines()
    assert whole == "a ferry and a vault"
    assert [part.split(": ")[1] for part in parts].count("about a vault") == 1 and len(parts) >= 5


def test_what_is_too_long_is_refused_and_what_was_not_read_is_said(client: support.Client) -> None:
    refused = client.error("ask", text=QUESTION, cwd="/", data_b64=piped(FILLER * 5000))
    assert refused["data"]["kind"] == "TooLong" and f"at most {MAX_PIECES}" in refused["message"]
    said = client.result("ask", text="translate this into Greek", cwd="/", data_b64=piped("x" * 700))
    assert "only the first 600 of 700 characters" in said["answer"]
    whole = client.result("ask", text="translate this into Greek", cwd="/", data_b64=piped("x" * 600))
    assert whole["answer"] == "I read the beginning."
    chat = client.result("ask", text="say hello", cwd="/", data_b64=piped("x" * 700))
    assert "only the first 600 of 700 characters" in chat["answer"]


def test_a_note_that_rambles_takes_no_other_ones_place() -> None:
    held = pieces._within(["a" * 9000, "short", "b" * 9000])
    assert [line[:1] for line in held.splitlines()] == ["a", "s", "b"] and len(held) <= 2 * PIECE_CHARS + 2


def test_the_route_tells_of_pieces(client: support.Client) -> None:
    for text, words in ((LONG, "is read in"), (FILLER * 5000, "at most")):
        found = client.result("route", text="summarise this", cwd="/", data_b64=piped(text), route="local")
        assert found["facts"]["pieces"] == -(-len(text) // PIECE_CHARS)
        assert any(words in why for why in found["why"]), found["why"]


def test_it_stops_between_two_pieces(start_daemon: Callable[..., support.Daemon]) -> None:
    slow = {**SCRIPT, pieces._EACH: {"delay_s": 5, "said": {"*": "late"}}}
    client = start_daemon(slow).connect()
    number = client.send("ask", text="summarise this", cwd="/", data_b64=piped(LONG), id="s")
    while "piece 1" not in client.until("thinking")["data"].get("detail", ""):
        pass
    client.send("cancel", id="s")
    assert client.reply(number)["error"]["data"]["kind"] == "Cancelled"
