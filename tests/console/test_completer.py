"""Tab in the shell."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from llmos.console.completer import ShellCompleter, last_word, path_candidates


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("notes.txt", "my file.log", ".hidden", "bell\x07"):
        (tmp_path / name).touch()
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completions(text: str) -> list[str]:
    completer = ShellCompleter(
        ["/help", "/history", "/tools", "/call"],
        lambda: ["file.find", "file.list", "text.count"],
        lambda: ["web-1"],
    )
    return [found.text for found in completer.get_completions(Document(text), CompleteEvent())]


def test_commands_and_tools(folder: Path) -> None:
    assert completions("/he") == ["/help"]
    assert completions("/tools fi") == ["file.find", "file.list"]
    assert completions("/call text.") == ["text.count"]


def test_paths_are_quoted_and_folders_end_with_a_slash(folder: Path) -> None:
    assert completions("count lines in no") == ["notes.txt"]
    assert completions("what's in my") == ["'my file.log'"]
    assert completions("look into s") == ["src/"]
    assert completions("cd ") == ["src/"]
    assert completions(f"list {folder}/sr") == [f"{folder}/src/"]


def test_hidden_names_only_when_asked_and_unprintable_ones_never(folder: Path) -> None:
    assert path_candidates("") == ["my file.log", "notes.txt", "src/"]
    assert path_candidates(".h") == [".hidden"]
    assert path_candidates("bell") == []
    assert path_candidates("~nobody-at-all/") == []
    assert path_candidates("missing/x") == []


def test_containers_where_a_sentence_speaks_of_one() -> None:
    assert completions("restart the container we") == ["web-1"]
    assert completions("list the files of we") == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", ""),
        ("list ", ""),
        ("list no", "no"),
        ("what's my", "my"),
        ("open 'my fi", "'my fi"),
        ('say "a b" c', "c"),
    ],
)
def test_last_word(text: str, word: str) -> None:
    assert last_word(text) == word
