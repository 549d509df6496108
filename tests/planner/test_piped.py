"""A file that nobody named and that is not there is the piped data."""

from __future__ import annotations

import pytest

from llmos.messages import Think, ToolCall
from llmos.planner.piped import of_data


@pytest.mark.parametrize(
    ("say", "tool", "path", "meant"),
    [
        ("these are my messages, how many cancel?", "text.count", "messages.txt", "-"),
        ("who of these is from Bath", "text.query", "data.csv", "-"),
        ("这是购物清单，一共多少钱", "text.query", "购物清单", "-"),
        ("how many lines has notes.txt", "text.count", "notes.txt", "notes.txt"),
        ("how many lines have my notes", "text.count", "notes.txt", "notes.txt"),
        ("how many lines has Mail.log", "text.count", "mail.log", "mail.log"),
        ("the errors below logs", "text.search", "logs/app.log", "logs/app.log"),
        ("search all log files", "text.search", "*.log", "*.log"),
        ("look for TODO in this folder", "text.search", ".", "."),
        ("find it in the system log", "text.search", "/var/log/syslog", "/var/log/syslog"),
        ("delete these", "file.delete", "messages.txt", "messages.txt"),
    ],
)
def test_a_made_up_file_is_the_piped_data(say: str, tool: str, path: str, meant: str) -> None:
    call = ToolCall(tool=tool, args={"path": path, "pattern": "x"})
    think = Think(id="1", text=say, entries=("notes.txt", "logs/"), data_head="a\nb\n")
    assert of_data((call,), think) == (ToolCall(tool=tool, args={"path": meant, "pattern": "x"}),)
    assert of_data((call,), think.model_copy(update={"data_head": None})) == (call,)


def test_what_an_earlier_call_writes_is_there() -> None:
    written = ToolCall(tool="file.write", args={"path": "list.txt", "content": "a"})
    counted = ToolCall(tool="text.count", args={"path": "list.txt"})
    think = Think(id="1", text="put it into a list and count", data_head="a\n")
    assert of_data((written, counted), think) == (written, counted)


def test_of_a_large_folder_not_all_names_are_known() -> None:
    call = ToolCall(tool="text.count", args={"path": "notes.txt"})
    think = Think(
        id="1", text="how many are these", entries=tuple(f"{n}" for n in range(40)), data_head="a\n"
    )
    assert of_data((call,), think) == (call,)
