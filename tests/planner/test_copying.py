"""Names that were copied wrongly, as the default model did with the default adapter, and what must stay."""

from __future__ import annotations

import pytest

from llmos import paths
from llmos.messages import ToolCall
from llmos.planner.copying import Copies
from llmos.toolbox import catalog

SPECS = {spec.name: spec for spec in catalog.load(paths.tool_dirs()[:1]).specs}


def count_tokens(word: str) -> int:
    """About as a BPE vocabulary cuts: a frequent word is one token, another is cut every three letters."""
    frequent = {
        "photos",
        "python",
        "pythons",
        "firefox",
        "errors",
        "error",
        "install",
        "reinstall",
        "apper",
        "debts.csv",
    }
    return 1 if word in frequent else -(-len(word) // 3)


ZIPPED = {"action": "create", "archive": "huxlanqui.zip", "path": "huxlanqui"}


def mended(text: str, tool: str, *, entries: tuple[str, ...] = (), **args: object) -> dict[str, object]:
    copies = Copies(text, entries, count_tokens)
    (call,) = copies.mended((ToolCall(tool=tool, args=args),), SPECS)
    return dict(call.args)


@pytest.mark.parametrize(
    ("text", "tool", "wrong", "right"),
    [
        ("kill the process napper please", "process.stop", {"name": "apper"}, {"name": "napper"}),
        ("结束napper进程", "process.stop", {"name": "apper"}, {"name": "napper"}),
        ("is torhux running?", "process.find", {"name": "tor"}, {"name": "tor"}),
        ("delete flilan.txt", "file.delete", {"path": "filename.txt"}, {"path": "flilan.txt"}),
        (
            "rename wobjalfli.md to flihuxyan.md",
            "file.move",
            {"path": "wobjalfli.md", "to": "flixyan.md"},
            {"path": "wobjalfli.md", "to": "flihuxyan.md"},
        ),
        ("open ./nodyan.db", "process.holders", {"path": "nodayan.db"}, {"path": "nodyan.db"}),
        ("mkdir zuvexdo", "file.mkdir", {"path": "zuvdo/"}, {"path": "zuvexdo/"}),
    ],
)  # fmt: skip
def test_a_name_that_stands_nowhere_becomes_the_word_it_was_copied_from(
    text: str, tool: str, wrong: dict[str, str], right: dict[str, str]
) -> None:
    assert mended(text, tool, **wrong) == right


@pytest.mark.parametrize(
    ("text", "tool", "args"),
    [
        ("delete old.log", "file.delete", {"path": "old.log"}),
        ("kill all pythons", "process.stop", {"name": "python"}),
        ("stop frefox", "process.stop", {"name": "firefox"}),  # an error of typing
        ("find the python files", "file.find", {"name": "*.py"}),
        ("what is in my home directory", "file.list", {"path": "~"}),
        ("zip the huxlanqui folder", "file.archive", ZIPPED),
        ("make a backup of wobdata.csv", "file.copy", {"path": "wobdata.csv", "to": "wobdata.csv.bak"}),
        ("count the errors in app.log", "text.count", {"path": "app.log", "pattern": "error"}),
        ("write flizubadabu into a.txt", "file.write", {"path": "a.txt", "content": "flizubada"}),
        ("run jalfliquix", "shell.run", {"command": "jalfliqui"}),
    ],
)  # fmt: skip
def test_what_was_meant_so_stays(text: str, tool: str, args: dict[str, str]) -> None:
    assert mended(text, tool, **args) == args


def test_what_the_folder_has_under_that_name_stays() -> None:
    assert mended("show wobjalflix.md", "file.read", path="wobjalfli.md") == {"path": "wobjalflix.md"}
    assert mended("show wobjalflix.md", "file.read", path="wobjalfli.md", entries=("wobjalfli.md",)) == {
        "path": "wobjalfli.md"
    }


def test_a_name_that_the_folder_has_need_not_be_rare() -> None:
    read = ("text.count", {"path": "debors.csv"})
    assert mended("rows of debts.csv?", read[0], **read[1]) == read[1]
    assert mended("rows of debts.csv?", read[0], entries=("debts.csv",), **read[1]) == {"path": "debts.csv"}
    shown = {"path": "\u8bd7\u4e66.txt"}  # of a name that no blank parts from the words around it
    real = "\u53e4\u8bd7\u8bcd.txt"
    assert mended(f"\u628a{real}\u6253\u5f00", "file.read", entries=(real,), **shown) == {"path": real}
    assert mended("show My Poems.txt", "file.read", entries=("My Poems.txt",), path="My Poem.txt") == {
        "path": "My Poems.txt"
    }


def test_what_changes_something_is_not_led_to_a_file_that_is_only_mentioned() -> None:
    there = ("notes.txt", "app.log", "port")
    for text, tool, args in (
        ("summarize notes.txt into a new file", "file.write", {"path": "note.txt", "content": "x"}),
        ("remove the backup of app.log", "file.delete", {"path": "app2.log"}),
        ("show the report", "file.read", {"path": "pot"}),
    ):
        few = Copies(text, there, lambda word: 2)
        assert few.mended((ToolCall(tool=tool, args=args),), SPECS)[0].args == args


def test_blanks_that_became_underscores_are_blanks_again() -> None:
    said = "a new folder called Holidays 2027"
    assert mended(said, "file.mkdir", path="Holidays_2027") == {"path": "Holidays 2027"}
    assert mended(said, "file.mkdir", path="holidays_2027/") == {"path": "Holidays 2027/"}
    assert mended("mkdir my_files, not my files", "file.mkdir", path="my_files") == {"path": "my_files"}
    assert mended("a volume for my data", "docker.volume.create", name="my_data") == {"name": "my_data"}
    text = "my file.txt should have underscores instead of blanks"
    assert mended(text, "file.move", path="my file.txt", to="my_file.txt")["to"] == "my_file.txt"
    assert (
        mended("tidy my file.txt", "file.move", path="my file.txt", to="my_file.txt")["to"] == "my_file.txt"
    )
    assert mended("find my name", "file.find", name="my_name") == {"name": "my_name"}


def test_an_entry_is_named_in_its_own_case() -> None:
    there = ("Inbox", "Notes.txt")
    move = mended("pdfs out of inbox into new", "file.move", entries=there, path="inbox/*.pdf", to="inbox2/")
    assert move == {"path": "Inbox/*.pdf", "to": "inbox2/"}
    assert mended("read notes.txt", "file.read", entries=there, path="notes.txt") == {"path": "Notes.txt"}
    assert mended("mkdir inbox", "file.mkdir", entries=there, path="inbox") == {"path": "inbox"}
    both = ("Notes.txt", "notes.txt")
    assert mended("read notes.txt", "file.read", entries=both, path="notes.txt") == {"path": "notes.txt"}
    assert mended("is firefox on?", "process.find", entries=("Firefox",), name="firefox") == {
        "name": "firefox"
    }


def test_an_exception_is_copied_right_and_its_name_is_no_other_arguments() -> None:
    text = "move all txt to flilan, but not flihuxyan.txt"
    told = {"path": "*.txt", "to": "flilan/"}
    right = {**told, "except": ["flihuxyan.txt"]}
    assert mended(text, "file.move", **right) == right
    assert mended(text, "file.move", **{**told, "except": ["flixyan.txt"]}) == right


@pytest.mark.parametrize(
    ("text", "spared", "left"),
    [
        ("all .tmp files in Scans away but keep everything else", ["*.tmp"], []),
        ("all .tmp files in Scans away but keep everything else", ["Scans/*.tmp", "a.tmp"], ["a.tmp"]),
        ("all .tmp files in Scans away but the first", ["*.tmp"], ["*.tmp"]),
        ("keep the .tmp files and delete everything else in Scans", ["*.tmp"], ["*.tmp"]),
        ("keep the .tmp in Scans, delete the rest", ["*.tmp"], ["*.tmp"]),
    ],
)
def test_what_goes_is_no_exception_where_others_stay(text: str, spared: list[str], left: list[str]) -> None:
    assert mended(text, "file.delete", **{"path": "Scans/*.tmp", "except": spared})["except"] == left
