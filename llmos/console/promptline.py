"""What stands around the shell's prompt: keys, the history file, the status bar."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prompt_toolkit.application import get_app
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from llmos import paths
from llmos.console import safetext
from llmos.console.words import tr
from llmos.errors import LlmosError, UsageError

JsonObject = dict[str, Any]

_WANT_A_TERMINAL = frozenset(
    {"vi", "vim", "nvim", "nano", "emacs", "micro", "mc", "htop", "btop", "tmux", "screen"}
)


def key_bindings() -> KeyBindings:
    """Enter sends, Alt-Enter begins a new line, Alt-u takes back. Pasted lines are inserted, never sent."""
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("escape", "u", filter=Condition(lambda: not get_app().current_buffer.text))
    def _undo(event: KeyPressEvent) -> None:
        """On an empty line; else it is what it is in every line editor, upper case."""
        event.current_buffer.insert_text("/undo")
        event.current_buffer.validate_and_handle()

    return keys


def open_history(file: Path) -> History:
    """The history file, readable by its owner alone; in memory only where it cannot be had."""
    try:
        paths.ensure_private(file.parent)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600))
        file.chmod(0o600)
    except (LlmosError, OSError):
        return InMemoryHistory()
    return FileHistory(str(file))


def toolbar(status: JsonObject) -> str:
    """` model default · policy default · /help` from what `status` says."""
    planner = status.get("planner")
    name = planner.get("model") if isinstance(planner, dict) else None
    parts = [
        tr("model {name}").format(name=name or "?"),
        tr("policy {name}").format(name=status.get("policy") or "?"),
    ]
    return safetext.one_line(" " + " · ".join(parts) + " · /help")


def unquoted(text: str) -> str:
    quotes = ("'", '"')
    return text[1:-1] if len(text) > 1 and text[0] in quotes and text[-1] == text[0] else text


def exported(variables: Mapping[str, str]) -> str:
    """What stands before a command, so that the policy sees what it is given; it knows people's own ones."""
    given = "".join(f" {name}={shlex.quote(value)}" for name, value in variables.items())
    return f"export{given}; " if given else ""


def is_folder(text: str) -> bool:
    """Does `cd TEXT` name one place? Several words are a folder only if it exists; else it is a sentence."""
    text = unquoted(text.strip())
    return " " not in text or os.path.isdir(os.path.expanduser(text))  # noqa: PTH111, PTH112 - never raises


def check_needs_no_terminal(command: str) -> None:
    """Raises UsageError for a program that would wait for keys which nobody can press."""
    if (name := command.split(maxsplit=1)[0]) in _WANT_A_TERMINAL:
        raise UsageError(
            f"{name} wants a terminal of its own, which a command in the sandbox has not",
            "Run it in another terminal. To look at a file: !cat FILE; at the machine: llmos top",
        )


def meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"Did you mean {near[0]}?" if near else "See: /help"
