"""Completion on Tab in the shell: slash commands, tool names where a tool is meant, paths elsewhere, and the
names of processes, units and containers in sentences that speak of such.

Only names are read, of one folder at a time; a name that a terminal should not be shown is left out.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from llmos.console.names import Names, Source

_TAKES_TOOL = ("/tools", "/call")
_TAKES_FOLDER = ("cd",)
MAX_PATHS = 500
_OPENED = re.compile(r"(?:^|\s)((['\"])(?:(?!\2).)*)$", re.DOTALL)


class ShellCompleter(Completer):
    def __init__(self, commands: Sequence[str], tools: Source, containers: Source) -> None:
        self._commands = commands
        self._tools = tools
        self._names = Names(containers)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        word = last_word(before)
        first, _, rest = before.lstrip().partition(" ")
        if before.lstrip() == word and word.startswith("/") and "/" not in word[1:]:
            yield from _matching(self._commands, word)
        if first in _TAKES_TOOL and " " not in rest.strip():
            yield from _matching(self._tools(), word)
            return
        for path in path_candidates(word, folders_only=first in _TAKES_FOLDER):
            yield Completion(quoted(path), start_position=-len(word), display=path)
        if word and "/" not in word and first not in _TAKES_FOLDER:
            yield from _matching(self._names.after(before[: len(before) - len(word)]), word)


def _matching(names: Iterable[str], word: str) -> Iterable[Completion]:
    return (Completion(name, start_position=-len(word)) for name in names if name.startswith(word))


def last_word(text: str) -> str:
    """The word at the end; a quote opened before it makes the spaces since then part of it.

    An apostrophe inside a word ("what's") opens nothing.
    """
    opened = _OPENED.search(text)
    if opened:
        return opened.group(1)
    return text.rsplit(maxsplit=1)[-1] if text and not text[-1].isspace() else ""


def path_candidates(word: str, *, folders_only: bool = False) -> list[str]:
    """Paths that begin with `word`, folders with a slash at the end; hidden ones when a dot was typed."""
    typed = word.lstrip("\"'")
    folder, _, stem = typed.rpartition("/")
    head = folder + "/" if "/" in typed else ""
    try:
        with os.scandir(Path(head or ".").expanduser()) as entries:
            found = [entry for entry in islice(entries, MAX_PATHS * 10) if _fits(entry, stem, folders_only)]
    except (OSError, RuntimeError):  # RuntimeError: no home for that ~user
        return []
    names = sorted(found, key=lambda entry: entry.name)[:MAX_PATHS]
    return [head + entry.name + ("/" if _is_folder(entry) else "") for entry in names]


def _fits(entry: os.DirEntry[str], stem: str, folders_only: bool) -> bool:
    if not entry.name.startswith(stem) or not entry.name.isprintable():
        return False
    if entry.name.startswith(".") and not stem.startswith("."):
        return False
    return not folders_only or _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def quoted(path: str) -> str:
    """As it has to stand in a sentence or a command: in quotes when it holds spaces; `~` stays outside."""
    if path.startswith("~") and "/" in path:
        home, rest = path.split("/", 1)
        return f"{home}/{shlex.quote(rest) if rest else ''}"
    return shlex.quote(path)
