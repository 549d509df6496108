"""What comes in with a request: refused with the reason, or clean."""

from __future__ import annotations

import base64
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.daemon import request
from llmos.errors import UsageError
from llmos.messages import Ask, Caller, ToolCall

MAX_CHARS = 16_000
ME = Caller(uid=os.getuid(), gid=os.getgid())


@pytest.mark.parametrize(
    "text",
    [
        "free space?",
        "最大的文件是哪些？",
        "ما هي أكبر الملفات؟",
        "quelle heure est-il à Zürich ?",
        "two\nlines\tand a tab",
        "🏳️‍🌈 and 👩‍👩‍👧 are fine",
        "שלום \u200fעולם",  # a plain right-to-left mark, as honest Hebrew text has it
    ],
)
def test_ordinary_text_of_any_language_passes_unchanged(text: str) -> None:
    assert request.clean_text(text, MAX_CHARS) == unicodedata.normalize("NFC", text)


def test_text_is_normalised_and_trimmed() -> None:
    assert request.clean_text("  cafe\u0301\r\nnow \n", MAX_CHARS) == "café\nnow"


@pytest.mark.parametrize("text", ["", "   ", "\n\t\r\n"])
def test_an_empty_request_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="empty") as caught:
        request.clean_text(text, MAX_CHARS)
    assert "llmos" in caught.value.next_step


def test_a_megabyte_is_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="1000000 characters; at most 16000") as caught:
        request.clean_text("a" * 1_000_000, MAX_CHARS)
    assert "pipe" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\0b", r"control character \(U\+0000\) at character 2"),
        ("\x1b[31mred", r"U\+001B"),
        ("bell\x07", r"U\+0007"),
        ("c1\x9b31m", r"U\+009B"),
        ("delete \u202etxt.exe", r"bidirectional.*U\+202E"),
        ("isolate \u2067x\u2069", r"bidirectional.*U\+2067"),
        ("hidden\U000e0041\U000e0042", r"invisible tag.*U\+E0041"),
        ("broken \ud800", r"lone surrogate.*U\+D800"),
    ],
)
def test_text_that_could_mislead_is_refused_with_the_place(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        request.clean_text(text, MAX_CHARS)


@given(st.text(max_size=200))
def test_whatever_passes_has_nothing_hidden_in_it(text: str) -> None:
    try:
        clean = request.clean_text(text, 100)
    except UsageError as error:
        assert error.next_step
        return
    assert clean and len(clean) <= 100
    assert not any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" for char in clean)
    assert not any("\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069" for char in clean)
    assert request.clean_text(clean, 100) == clean


def test_data_comes_through_byte_for_byte_even_when_it_is_binary() -> None:
    blob = bytes(range(256)) * 10
    assert request.decode_data(base64.b64encode(blob).decode()) == blob
    assert request.decode_data(None) is None
    assert request.decode_data("") == b""


def test_eight_mebibytes_of_data_are_taken_and_more_are_not() -> None:
    most = base64.b64encode(bytes(request.MAX_DATA_BYTES)).decode()
    assert len(request.decode_data(most) or b"") == request.MAX_DATA_BYTES
    with pytest.raises(UsageError, match="more than 8 MiB") as caught:
        request.decode_data(base64.b64encode(bytes(request.MAX_DATA_BYTES + 10)).decode())
    assert "Name the file" in caught.value.next_step


@pytest.mark.parametrize("text", ["!!!", "YQ", "é", "YWJj\n!"])
def test_data_that_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="base64"):
        request.decode_data(text)


def test_the_planner_sees_a_short_printable_head_of_the_data() -> None:
    lines = "\n".join(f"line {number}" for number in range(100)).encode()
    head = request.data_head(lines)
    assert head is not None
    assert head.splitlines() == [f"line {number}" for number in range(request.HEAD_LINES)]
    assert request.data_head(b"\x1b[2J\x00\xff ok") == "·[2J·\ufffd ok"
    assert len(request.data_head("é".encode() * 100_000) or "") <= request.HEAD_CHARS
    assert request.data_head(None) is None


def test_the_folder_must_be_there_and_absolute(tmp_path: Path) -> None:
    assert request.check_folder(str(tmp_path), ME) == str(tmp_path.resolve())
    for wrong, says in (
        ("here", "not absolute"),
        (f"{tmp_path}/none", "no folder"),
        ("/a\0b", "not absolute"),
    ):
        with pytest.raises(UsageError, match=says):
            request.check_folder(wrong, ME)


def test_entries_are_names_of_the_folder_newest_first_without_lying_ones(tmp_path: Path) -> None:
    for number, name in enumerate(["old.txt", "new.txt", "bad\nname", "evil\u202etxt", "x" * 200]):
        file = tmp_path / name
        file.touch()
        os.utime(file, (number, number))
    assert request.entries(str(tmp_path), ME) == ("new.txt", "old.txt")
    assert request.entries(str(tmp_path / "none"), ME) == ()


def test_the_heads_of_files_are_read_as_the_caller_may_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("buyer,eur\nA,1\n")
    (tmp_path / "link.csv").symlink_to("orders.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    names = ("orders.csv", "link.csv", "pipe.csv", "folder.csv", "gone.csv")
    found = {name: request.heads(f"add up {name}", str(tmp_path), (name,), ME) for name in names}
    assert found.pop("orders.csv") == ("Columns of orders.csv: buyer, eur",)
    assert found.pop("link.csv") == ("Columns of link.csv: buyer, eur",)
    assert set(found.values()) == {()}
    terminal, other = os.openpty()
    (tmp_path / "tty.csv").symlink_to(os.ttyname(other))
    assert request.heads("add up tty.csv", str(tmp_path), ("tty.csv",), ME) == ()
    os.close(terminal)
    os.close(other)
    if os.getuid() == 0:
        (tmp_path / "orders.csv").chmod(0o600)
        assert request.heads("orders", str(tmp_path), names, Caller(uid=61000, gid=61000)) == ()


def test_a_typed_calls_text_is_not_a_sentence_and_not_judged_as_one(tmp_path: Path) -> None:
    ask = Ask(text="file.list {}", cwd=str(tmp_path), write=("sub",))
    job = request.check(ask, ME, 5, (ToolCall(tool="file.list"),))
    assert job.calls[0].tool == "file.list"
    assert job.write_roots == (str(tmp_path / "sub"),)


def test_what_is_in_a_folder_that_is_named_is_told_as_the_caller_may_see_it(tmp_path: Path) -> None:
    for name in ("Trip/a.jpg", "Trip/b c.png", "notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "shut").mkdir(mode=0o700)
    (tmp_path / "shut/secret").touch()
    tmp_path.chmod(0o755)
    names = ("Trip", "notes", "shut")
    (line,) = request.heads("the pictures in Trip", str(tmp_path), names, ME)
    assert line.startswith("Files in Trip: ") and "a.jpg" in line and '"b c.png"' in line
    assert request.heads("look into notes", str(tmp_path), names, ME) == ()  # a file
    if os.geteuid() == 0:
        assert request.heads("look into shut", str(tmp_path), names, Caller(uid=61000, gid=61000)) == ()
