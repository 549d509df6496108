"""Questions about commands, answered from manual pages that the test writes, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.explain import answers, questions, quoting
from llmos.explain.manual import Manual

PAGES = {
    "man8/lsof.8": ("lsof", "list open files", ""),
    "man1/free.1": ("free", "Display amount of free and used memory in the system", ""),
    "man1/shuf.1": (
        "shuf",
        "generate random permutations",
        ".TP\n\\fB\\-r\\fR\noutput lines can be repeated\n",
    ),
    "man1/frob.1": ("frob", "frobnicate widgets", ".TP\n\\fB\\-x\\fR\nexplode the widget\n"),
    "man1/frob_all_at_once.1": ("frob_all_at_once", "frobnicate all widgets", ""),
}


@pytest.fixture
def manual(tmp_path: Path) -> Manual:
    for place, (name, about, options) in PAGES.items():
        file = tmp_path / "man" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f".TH {name}\n.SH NAME\n{name} \\- {about}\n.SH OPTIONS\n{options}")
    return Manual((tmp_path / "man",), tmp_path / "cache" / "manual.sqlite")


def ask(text: str, manual: Manual) -> str | None:
    quotes = answers.answer(text, lambda words: "", manual=manual)
    return None if quotes is None else answers.told(quotes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("how do I list open files?", "lsof: list open files [lsof(8)]"),
        ("How can one see the open files", "lsof: list open files [lsof(8)]"),
        ("which command shows free memory?", "free: Display amount of free and used memory in the system"),
        ("what is shuf?", "shuf: generate random permutations [shuf(1)]"),
        ("shuf 是什么命令？", "shuf: generate random permutations [shuf(1)]"),
        ("how do I output repeated lines?", "shuf -r: output lines can be repeated [shuf(1)]"),
        ("how do I frobnicate widgets", "frob: frobnicate widgets [frob(1)]"),
    ],
)
def test_what_the_pages_say_is_quoted_with_its_page(text: str, said: str, manual: Manual) -> None:
    assert (ask(text, manual) or "").splitlines()[0].startswith(said)


def test_what_no_page_tells_is_not_answered(manual: Manual) -> None:
    assert ask("how do I bake bread?", manual) == ""
    assert ask("how do I list closed accounts?", manual) == ""


@pytest.mark.parametrize(
    "text",
    [
        *("how much memory is free?", "what is using port 80?", "which command is using the most memory?"),
        *("what is my ip address?", "hello", "delete the old logs", "is nginx running?", "what is running?"),
        *("how do I look at ./notes.txt?", "what does notes.txt say?", "why is this machine slow?"),
    ],
)
def test_what_is_asked_of_this_machine_is_no_question_about_commands(text: str, manual: Manual) -> None:
    assert answers.answer(text, lambda words: "", manual=manual, entries=("notes.txt",)) is None


def test_the_index_follows_the_pages(manual: Manual, tmp_path: Path) -> None:
    assert ask("how do I gargle?", manual) == ""
    (tmp_path / "man/man1/gargle.1").write_text(".SH NAME\ngargle \\- gargle with water\n")
    assert ask("how do I gargle?", manual) == "gargle: gargle with water [gargle(1)]"


def test_a_damaged_or_unwritable_index_is_no_hindrance(tmp_path: Path, manual: Manual) -> None:
    assert ask("what is lsof", manual)
    (tmp_path / "cache/manual.sqlite").write_bytes(b"no database")
    assert ask("what is lsof", manual) == "lsof: list open files [lsof(8)]"
    blocked = Manual((tmp_path / "man",), Path("/proc/nowhere/manual.sqlite"))
    assert ask("what is lsof", blocked) == "lsof: list open files [lsof(8)]"


def test_a_command_line_is_taken_apart() -> None:
    asked = questions.read("what does tar -xzf do?")
    assert asked is not None and asked.command == "tar -xzf"
    asked = questions.read("what does the -v option of grep do?")
    assert asked is not None and asked.command == "grep -v"


LOG = "start\nERROR no space left on device\nwarning: slow\nlistening on port 8080\nstopped: failed\n"


def test_lines_of_a_text_answer_by_their_numbers() -> None:
    assert quoting.told(quoting.lines("what went wrong?", LOG)) == (
        "line 2: ERROR no space left on device\nline 5: stopped: failed"
    )
    assert (
        quoting.told(quoting.lines("which port is it listening on?", LOG)) == "line 4: listening on port 8080"
    )
    assert quoting.lines("who is the president?", LOG) == quoting.Quoted()
    many = quoting.told(quoting.lines("what went wrong?", "error\n" * 20))
    assert many.endswith("line 20: error\n(and 12 more lines like these)")
    cut = quoting.told(quoting.lines("what went wrong?", "error\n" + "x\n" * quoting.MAX_LINES_READ))
    assert cut == "line 1: error\n(the last 1 lines were not looked at)"
    assert quoting.asks("why did it fail?") and not quoting.asks("summarise this")
