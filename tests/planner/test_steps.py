"""Which steps a sentence names, and what calls leave of them."""

from __future__ import annotations

import pytest

from llmos.messages import ToolCall
from llmos.planner import steps


def shell(command: str) -> ToolCall:
    return ToolCall(tool="shell.run", args={"command": command})


LIST = ToolCall(tool="files.list", args={"path": "."})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("list the files", ("list the files",)),
        ("find the largest file, then compress it", ("find the largest file", "compress it")),
        (
            "make a folder a; put b.txt in it and then list it",
            ("make a folder a", "put b.txt in it", "list it"),
        ),
        ("show a.txt. After that, delete it", ("show a.txt", "delete it")),
        ("先列出文件，然后删除最大的", ("先列出文件", "删除最大的")),
        ("查看 notes.txt 的最后三行", ("查看 notes.txt 的最后三行",)),
        ("what was changed by then", ("what was changed by then",)),
        ("is the lengthened file there?", ("is the lengthened file there?",)),
    ],
)
def test_the_steps_that_a_sentence_names(text: str, named: tuple[str, ...]) -> None:
    assert steps.named(text) == named


def test_what_is_left_after_some_calls() -> None:
    text = "find the largest file, then compress it, then delete the old one"
    assert steps.left(text, [LIST]) == "compress it, then delete the old one"
    assert steps.left(text, [LIST] * 3) == steps.left(text, [LIST] * 4) == ""
    assert steps.left("list the files", [LIST]) == ""


def test_a_command_line_may_take_several_steps() -> None:
    text = "find the largest file, then compress it, then delete it"
    assert steps.left(text, [shell("ls -S | head -1")]) == "compress it, then delete it"
    assert steps.left(text, [shell("ls -S"), shell("gzip a && rm b")]) == ""


def test_a_step_that_speaks_of_what_another_finds() -> None:
    assert steps.looks_back("find the largest file, then compress it")
    assert steps.looks_back("list the logs and then delete each of them")
    assert steps.looks_back("找到最大的文件，然后压缩它")
    assert not steps.looks_back("delete old.log, then show what is left")
    assert not steps.looks_back("make a folder, then list the files, then delete it")  # told by the next one
    assert not steps.looks_back("is it there?")


def test_a_name_that_was_found_stands_for_the_word() -> None:
    found = "exit code 0\n3.0M  2026-11-27  video.mp4\n1.0M  2026-11-20  src/old.log\n"
    assert steps.resolved("compress it", found) == "compress video.mp4"
    assert steps.resolved("count the lines of each", found) == "count the lines of video.mp4, src/old.log"
    assert steps.resolved("压缩它", found) == "压缩video.mp4"
    assert steps.resolved("delete the second of them", found) == "delete src/old.log"
    assert steps.resolved("delete the third of them", found) == "delete the third of them"
    assert steps.resolved("删除其中最后一个", found) == "删除src/old.log"
    assert steps.resolved("compress it", "exit code 0\n12 files\n") == "compress it"
    assert steps.resolved("delete it", "notes.txt:2: TODO") == "delete notes.txt"
