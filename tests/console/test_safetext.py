"""Nothing a command, a file name or a model says can steer the terminal or hide what will run."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.console import safetext


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("over\rwritten", "over^Mwritten"),
        ("\x1b[2J\x1b]0;title\x07", "^[[2J^[]0;title^G"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("del\x7f", "del^?"),
        ("byte \udcff", "byte \\xff"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("naïve 日本語 👩‍👩‍👧 العربية\u200f", "naïve 日本語 👩‍👩‍👧 العربية\u200f"),
    ],
)
def test_output(text: str, shown: str) -> None:
    assert safetext.output(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rm -- 'a b'", "rm -- 'a b'"),
        ("rm a\u200bb", "rm a\\u200bb"),
        ("ls\u00a0-l", "ls\\xa0-l"),
        ("echo \u2066x\u2069", "echo \\u2066x\\u2069"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("one\ntwo\t", "one\ntwo^I"),
    ],
)
def test_exact(text: str, shown: str) -> None:
    assert safetext.exact(text) == shown


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_what_is_shown_holds_nothing_a_terminal_obeys(text: str) -> None:
    for show, allowed in ((safetext.output, "\n\t"), (safetext.exact, "\n"), (safetext.one_line, "")):
        shown = show(text)
        controls = [char for char in shown if unicodedata.category(char) in ("Cc", "Cs")]
        assert all(char in allowed for char in controls)
        assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_clip_keeps_within_the_columns(text: str, width: int) -> None:
    clipped = safetext.clip(safetext.one_line(text), width)
    assert safetext.columns(clipped) <= width


def test_wide_characters_take_two_columns() -> None:
    assert safetext.columns("日本") == 4
    assert safetext.pad("日本", 6) == "日本  "
    assert safetext.clip("日本語文字", 5) == "日本…"
    assert safetext.columns("\x1b[32mdone\x1b[0m") == 4
