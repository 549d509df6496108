"""Ask the person at the terminal: yes, no, edit, explain, always, never.

The answer is read from the terminal itself, never from piped stdin (that is data), and what was typed
before the question stood there is thrown away, so that type-ahead approves nothing. It shows what the
broker says the call does; it judges nothing and runs nothing.
"""

from __future__ import annotations

import functools
import json
import os
import select
import sys
import termios
import time
import tty
from typing import Any, TextIO

from llmos.console import cloud, render, screen
from llmos.console.interrupts import Interrupts
from llmos.console.words import tr

JsonObject = dict[str, Any]

SHELL_TOOL = "shell.run"
FIXED_TOOLS = ("undo", "resume")  # they are what they are: not to be edited, nor remembered
_BURST_S = 0.02  # nobody presses two keys within it
_QUIET_S = 0.7
_NO_KEY = "\0"
_DECISIONS = {"y": "yes", "n": "no", "a": "always", "v": "never"}


@functools.cache
def open_terminal() -> int | None:
    """A descriptor to read keys from, or None when nobody can be asked; looked for once.

    Both ends must be there: stderr, where the question is shown, and a terminal to answer on, which is
    stdin or, where data is piped in, the controlling terminal.
    """
    if not sys.stderr.isatty():
        return None
    if sys.stdin is not None and sys.stdin.isatty():
        return sys.stdin.fileno()
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None


class Asker:
    """Puts approval questions to the person and returns their answer as the params of `approve`."""

    def __init__(self, terminal: int, stream: TextIO | None = None) -> None:
        self._terminal = terminal
        self._stream = stream if stream is not None else sys.stderr
        self._look = screen.look_of(self._stream)

    def ask(self, data: JsonObject, interrupts: Interrupts) -> JsonObject | None:
        """The decision on one `approval` event's data; None when Ctrl-C came instead of an answer."""
        if data.get("offload"):
            return self._ask_to_leave(data, interrupts)
        self._say(render.approval(data, self._look))
        fixed = data.get("tool") in FIXED_TOOLS
        while True:
            key = self._key(interrupts, only_yes_or_no=fixed)
            if key is None:
                return None
            if fixed and key in "eav":
                continue
            if key == "e" and (call := self._edit(data)) is not None:
                return {"decision": "edit", "call": call}
            if key in _DECISIONS:
                return {"decision": _DECISIONS[key]}
            if key == "x":
                self._say(render.explanation(data, self._look))
            elif key == "?":
                self._say(render.choices_help(screen.width(self._stream)))

    def _ask_to_leave(self, data: JsonObject, interrupts: Interrupts) -> JsonObject | None:
        """Whether what is shown may go to a cloud backend."""
        self._say(cloud.question(data, self._look))
        words = {"y": "yes", "o": "once", "n": "no"}
        while (key := self._one_of("yonx?", cloud.choices(self._look), interrupts)) is not None:
            if key in words:
                return {"decision": words[key]}
            self._say(cloud.question(data, self._look, whole=True) if key == "x" else cloud.choices_help())
        return None

    def confirm(self, question: str, interrupts: Interrupts) -> bool:
        """A plain yes-or-no question of the client itself; Enter means yes."""
        key = _read_key(self._terminal, interrupts, lambda: self._say(f"{question} [Y/n] "))
        self._say((key if key and key.isprintable() else "") + "\n")
        return key in ("y", "Y", "\r", "\n")

    def choose(self, keys: str, question: str, interrupts: Interrupts) -> str:
        """One of these keys; empty for anything else."""
        key = _read_key(self._terminal, interrupts, lambda: self._say(f"{question} [{keys[0]}-{keys[-1]}] "))
        chosen = key if key and key in keys else ""
        self._say(chosen + "\n")
        return chosen

    def _key(self, interrupts: Interrupts, *, only_yes_or_no: bool) -> str | None:
        """One of the choices to a call."""
        asked = render.choices(self._look, only_yes_or_no=only_yes_or_no)
        return self._one_of("ynexav?", asked, interrupts)

    def _one_of(self, keys: str, asked: str, interrupts: Interrupts) -> str | None:
        """One of these keys; end of input is a no. Who types something else is not answering: let pass."""
        key = _read_key(self._terminal, interrupts, lambda: self._say(asked))
        while key is not None:
            if key in ("\x04", ""):
                key = "n"
            if key.lower() in keys:
                self._say(key.lower() + "\n")
                return key.lower()
            if not _quiet(self._terminal, interrupts):
                break
            key = _read_key(self._terminal, interrupts, lambda: self._say(f"\n{asked}"))
        self._say("\n")
        return None

    def _edit(self, data: JsonObject) -> JsonObject | None:
        """Let the person change the call on a pre-filled line; None when they gave it up."""
        call = data.get("call") or {}
        tool, args = str(call.get("tool", "")), dict(call.get("args") or {})
        text, key = editable(tool, args)
        while (edited := edit_line(f"{tool} ", text, self._terminal, self._stream)) is not None:
            try:
                return {"tool": tool, "args": edited_args(args, key, edited)}
            except ValueError as error:
                self._say(f"  {tr('not a JSON object:')} {error}\n")
                text = edited
        return None

    def _say(self, text: str) -> None:
        screen.write(self._stream, text)


def editable(tool: str, args: JsonObject) -> tuple[str, str | None]:
    """What stands on the edit line: a shell command as itself (and its argument's name), else JSON."""
    texts = [key for key, value in args.items() if isinstance(value, str)]
    if tool == SHELL_TOOL and len(texts) == 1:
        return str(args[texts[0]]), texts[0]
    return json.dumps(args, ensure_ascii=False), None


def edited_args(args: JsonObject, key: str | None, text: str) -> JsonObject:
    """The arguments after editing; raises ValueError when the line is no JSON object."""
    if key is not None:
        return {**args, key: text}
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("write { … }")
    return value


def edit_line(prompt: str, text: str, terminal: int, stream: TextIO) -> str | None:
    """One pre-filled line (prompt_toolkit, imported only here); None on Ctrl-C, Ctrl-D or nothing."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.input import create_input
    from prompt_toolkit.output import create_output

    with os.fdopen(os.dup(terminal)) as keys:
        session: PromptSession[str] = PromptSession(
            input=create_input(stdin=keys), output=create_output(stdout=stream)
        )
        try:
            return session.prompt(prompt, default=text, handle_sigint=False).strip() or None
        except (KeyboardInterrupt, EOFError):
            return None


def _read_key(terminal: int, interrupts: Interrupts, ask: Any) -> str | None:
    """One key without Enter. What was typed before `ask()` wrote the question is discarded."""
    old = termios.tcgetattr(terminal)
    try:
        if ask is not None:
            tty.setcbreak(terminal, termios.TCSAFLUSH)
            ask()
        else:
            tty.setcbreak(terminal, termios.TCSANOW)
        seen = interrupts.count
        while interrupts.count == seen:
            ready, _, _ = select.select([terminal, interrupts.fileno()], [], [])
            if terminal in ready:
                time.sleep(_BURST_S)
                return _one_key(os.read(terminal, 4096).decode("latin-1"))
        return None
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, old)


def _one_key(come: str) -> str:
    """A key, with or without Enter. What comes in one go besides was pasted, and answers nothing."""
    key = come.rstrip("\r\n") or come[:1]
    return key if len(key) <= 1 else _NO_KEY


def _quiet(terminal: int, interrupts: Interrupts) -> bool:
    """Wait until nothing is typed any more, and forget what was; False where Ctrl-C came."""
    old, seen = termios.tcgetattr(terminal), interrupts.count
    tty.setcbreak(terminal, termios.TCSANOW)
    try:
        while interrupts.count == seen:
            ready, _, _ = select.select([terminal, interrupts.fileno()], [], [], _QUIET_S)
            if terminal not in ready:
                break
            if not os.read(terminal, 4096):
                break
        return interrupts.count == seen
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, old)
