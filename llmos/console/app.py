"""The natural-language shell: read a line, have it done, show it, again.

A line is a request in words. `!COMMAND` is a shell command through the same policy and sandbox, `cd`
changes the folder of what follows, `/help` lists the rest. Ctrl-C cancels the running request and never
the shell; Ctrl-D leaves. What a line does goes through `Actions`: this module only reads and shows.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from llmos import __version__, paths
from llmos.console import listings, safetext, screen
from llmos.console.completer import ShellCompleter
from llmos.console.consent import SHELL_TOOL
from llmos.console.words import tr
from llmos.errors import LlmosError, UsageError

JsonObject = dict[str, Any]

HELP = {
    "/help": "this list",
    "/plan TEXT": "show what a request would do; nothing runs",
    "/translate TEXT": "the one shell command that would do it, not run",
    "/call TOOL JSON": "one typed call, without the model",
    "/tools [NAME]": "the tools, or one of them",
    "/status": "the running daemon",
    "/history": "what was done",
    "/undo [ID]": "take back the newest change, or that one",
    "/quit": "leave (or Ctrl-D)",
    "!COMMAND": "a shell command, through the same policy and sandbox",
    "cd [FOLDER]": "change the folder of what follows",
}
INTRO = (
    "llmos {version}: say what you want done here. Each step is judged by the policy, runs in a\n"
    "sandbox and is recorded. /help lists more, Tab completes, Ctrl-C cancels a request, Ctrl-D leaves.\n"
)


class Actions(Protocol):
    """What the shell can have done; each shows its own result. Raise LlmosError."""

    def request(self, method: str, params: JsonObject) -> None: ...

    def question(self, method: str, params: JsonObject) -> JsonObject: ...


class Shell:
    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._previous = ""
        self._specs: list[JsonObject] = []
        self._toolbar = ""
        self._slash: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/plan": lambda text: self._words("plan", text),
            "/translate": lambda text: self._words("translate", text),
            "/call": self._call,
            "/tools": self._tools,
            "/status": self._status,
            "/history": self._history,
            "/undo": lambda undo_id: self._actions.request("undo", {"undo_id": undo_id}),
        }

    def run(self) -> int:
        """Read and do lines until the person leaves."""
        screen.write(sys.stderr, tr(INTRO).format(version=__version__))
        self._learn()
        session = self._session()
        while True:
            try:
                line = session.prompt(self._prompt, bottom_toolbar=lambda: self._toolbar)
            except KeyboardInterrupt:
                continue  # the line is given up, the shell is not
            except EOFError:
                return 0
            if line.strip() in ("/quit", "/exit", "quit", "exit"):
                return 0
            self.do(line)

    def do(self, line: str) -> None:
        """Carry out one line; an error ends the line, not the shell."""
        try:
            self._do(line.strip())
        except LlmosError as error:
            self._complain(error)
        except KeyboardInterrupt:
            screen.write(sys.stderr, "\n")

    def _do(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if not line:
            return
        if line.startswith("!"):
            self._run_command(line[1:].strip())
        elif name == "cd" and (not rest or is_folder(rest)):
            self._change_folder(rest.strip())
        elif name in self._slash:
            self._slash[name](rest.strip())
        elif name.startswith("/") and "/" not in name[1:] and not Path(name).exists():
            raise UsageError(f"there is no {name}", "See: /help")
        else:
            self._words("ask", line)

    # --- lines ---

    def _words(self, method: str, text: str) -> None:
        if not text:
            raise UsageError(
                f"/{method} needs words after it", f"For instance: /{method} list the files here"
            )
        self._actions.request(method, {"text": text})

    def _run_command(self, command: str) -> None:
        if not command:
            raise UsageError("! needs a command after it", "For instance: !ls -l")
        self._actions.request("call", {"tool": SHELL_TOOL, "args": {self._command_argument(): command}})

    def _command_argument(self) -> str:
        if not self._specs:
            self._learn()
        spec = next((spec for spec in self._specs if spec.get("name") == SHELL_TOOL), {})
        return str(spec.get("raw") or "command")

    def _call(self, text: str) -> None:
        tool, _, given = text.partition(" ")
        try:
            args = json.loads(given or "{}")
        except ValueError as error:
            raise UsageError(f"not JSON: {error}", 'For instance: /call file.list {"path": "."}') from error
        self._actions.request("call", {"tool": tool, "args": args})

    def _change_folder(self, folder: str) -> None:
        target = self._previous if folder == "-" and self._previous else folder or "~"
        here = str(Path.cwd())
        try:
            os.chdir(Path(unquoted(target)).expanduser())
        except (OSError, RuntimeError) as error:
            raise UsageError(f"cannot go to {target}: {error}", "See what is there: !ls") from error
        self._previous = here

    def _tools(self, name: str) -> None:
        self._learn()
        found = [spec for spec in self._specs if spec.get("name") == name]
        if name and not found:
            raise UsageError(f"there is no tool {name!r}", "See: /tools")
        columns = screen.width(sys.stdout)
        self._show(listings.tool(found[0]) if name else listings.tools(self._specs, columns))

    def _status(self, _rest: str) -> None:
        self._show(listings.facts(self._actions.question("status", {}), screen.look_of(sys.stdout)))

    def _history(self, _rest: str) -> None:
        found = self._actions.question("history", {"limit": 20})
        self._show(listings.history(found, screen.look_of(sys.stdout), screen.width(sys.stdout)))

    def _help(self, _rest: str) -> None:
        self._show("".join(f"  {name:<16} {tr(meaning)}\n" for name, meaning in HELP.items()))

    # --- around the prompt ---

    def _learn(self) -> None:
        """What the daemon has: tools for completion, model and policy for the toolbar."""
        try:
            found = self._actions.question("tools", {})
            self._specs = found.get("tools") or found.get("value") or []
            self._toolbar = toolbar(self._actions.question("status", {}))
        except LlmosError as error:
            self._complain(error)

    def _prompt(self) -> FormattedText:
        folder = safetext.one_line(tilde(str(Path.cwd())))
        return FormattedText([("bold", f"{folder} "), ("ansicyan bold", "» ")])

    def _session(self) -> PromptSession[str]:
        commands = [name.split()[0] for name in HELP if name.startswith("/")]
        names = [str(spec.get("name")) for spec in self._specs]
        return PromptSession(
            history=open_history(paths.state_dir() / "shell_history"),
            completer=ShellCompleter(commands, names),
            complete_while_typing=False,
            enable_history_search=True,
            auto_suggest=AutoSuggestFromHistory(),
            key_bindings=key_bindings(),
            output=create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr),
        )

    def _complain(self, error: LlmosError) -> None:
        from llmos.console import render

        screen.write(sys.stderr, render.error(str(error), error.next_step, screen.look_of(sys.stderr)))

    def _show(self, text: str) -> None:
        screen.write(sys.stdout, text)


def key_bindings() -> KeyBindings:
    """Enter sends; Alt-Enter begins a new line. A paste of several lines is inserted, never sent."""
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

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


def tilde(path: str) -> str:
    home = str(Path.home())
    return "~" + path[len(home) :] if path == home or path.startswith(home + "/") else path


def unquoted(text: str) -> str:
    quotes = ("'", '"')
    return text[1:-1] if len(text) > 1 and text[0] in quotes and text[-1] == text[0] else text


def is_folder(text: str) -> bool:
    """Does `cd TEXT` name one place? Several words are a folder only if it exists; else it is a sentence."""
    text = unquoted(text.strip())
    return " " not in text or os.path.isdir(os.path.expanduser(text))  # noqa: PTH111, PTH112 - never raises
