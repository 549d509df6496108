"""The natural-language shell: read a line, have it done, show it, again.

A line is a request in words. `!COMMAND` is a shell command through the same policy and sandbox, `cd` and
`export` change what follows, a `&` at the end sends a request to the background, `/help` lists the rest.
Ctrl-C cancels the running request and never the shell; Ctrl-D leaves. What a line does goes through
`Actions`: this module only reads and shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.output import create_output

from llmos import paths
from llmos.console import listings, render, safetext, screen, welcome
from llmos.console.completer import ShellCompleter
from llmos.console.consent import SHELL_TOOL
from llmos.console.jobs import Job, Jobs, told
from llmos.console.names import listed
from llmos.console.promptline import (
    check_needs_no_terminal,
    exported,
    is_folder,
    key_bindings,
    meant,
    open_history,
    toolbar,
    unquoted,
)
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
    "/undo [ID]": "take back the newest change, or that one (Alt-u: the newest)",
    "/jobs [N]": "requests in the background, or what came of one",
    "/approve ITEM": "give your word to what waits in the inbox",
    "/quit": "leave (or Ctrl-D)",
    "!COMMAND": "a shell command, through the same policy and sandbox",
    "TEXT &": "a request or !COMMAND in the background; what needs your word waits in the inbox",
    "cd [FOLDER]": "change the folder of what follows",
    "export NAME=VALUE": "set a variable for commands after ! (unset NAME)",
}
_ASSIGNMENT = {
    "export": re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL),
    "unset": re.compile(r"[A-Za-z_]\w*"),
}


class Actions(Protocol):
    """What the shell can have done; each shows its own result. Raise LlmosError."""

    def request(self, method: str, params: JsonObject) -> None: ...

    def question(self, method: str, params: JsonObject, say: Callable[[str], None] = ...) -> JsonObject: ...

    def unattended(self, asked: JsonObject) -> JsonObject: ...


class Shell:
    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._previous = ""
        self._specs: list[JsonObject] = []
        self._toolbar = ""
        self._variables: dict[str, str] = {}
        self._jobs = Jobs(actions.unattended, self._wake)
        self._news: list[str] = []  # lines to be shown when nothing else is
        self._session = self._new_session()
        self._slash: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/plan": lambda text: self._words("plan", text),
            "/translate": lambda text: self._words("translate", text),
            "/call": self._call,
            "/tools": self._tools,
            "/status": self._status,
            "/history": self._history,
            "/jobs": self._list_jobs,
            "/approve": lambda item: self._actions.request("inbox.approve", {"item": item}),
            "/undo": lambda undo_id: self._actions.request("undo", {"undo_id": undo_id}),
        }

    def run(self) -> int:
        """Read and do lines until the person leaves."""
        threading.Thread(target=self._learn_aside, daemon=True).start()
        while True:
            try:
                self._tell_news()
                line = self._session.prompt(
                    self._prompt, bottom_toolbar=self._status_bar, pre_run=self._wake_for_news
                )
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
        if line.endswith(" &"):
            self._start_job(line[:-1].strip())
        elif line.startswith("!"):
            self._actions.request("call", self._command(line[1:].strip()))
        elif name in ("export", "unset") and _ASSIGNMENT[name].fullmatch(rest.strip()):
            self._set_variable(rest.strip())
        elif name == "cd" and (not rest or is_folder(rest)):
            self._change_folder(rest.strip())
        elif name in self._slash:
            self._slash[name](rest.strip())
        elif line in ("help", "?"):
            self._help("")
        elif name.startswith("/") and "/" not in name[1:] and not Path(name).exists():
            raise UsageError(f"there is no {name}", meant(name, self._slash))
        else:
            self._words("ask", line)

    # --- lines ---

    def _words(self, method: str, text: str) -> None:
        if not text:
            raise UsageError(
                f"/{method} needs words after it", f"For instance: /{method} list the files here"
            )
        self._actions.request(method, {"text": text})

    def _start_job(self, line: str) -> None:
        """A request or a command in the background."""
        job = self._jobs.start(line, self._command(line[1:].strip()) if line[:1] == "!" else {"text": line})
        self._show(f"[{job.number}] {safetext.one_line(job.text)}\n")

    def _command(self, command: str) -> JsonObject:
        """The call that a line after `!` is. Raises UsageError."""
        if not command:
            raise UsageError("! needs a command after it", "For instance: !ls -l")
        check_needs_no_terminal(command)
        command = exported(self._variables) + command
        return {"tool": SHELL_TOOL, "args": {self._command_argument(): command}}

    def _command_argument(self) -> str:
        spec = next((spec for spec in self._specs if spec.get("name") == SHELL_TOOL), {})
        return str(spec.get("raw") or "command")

    def _call(self, text: str) -> None:
        tool, _, given = text.partition(" ")
        try:
            args = json.loads(given or "{}")
        except ValueError as error:
            raise UsageError(f"not JSON: {error}", 'For instance: /call file.list {"path": "."}') from error
        self._actions.request("call", {"tool": tool, "args": args})

    def _set_variable(self, text: str) -> None:
        """`NAME=VALUE` sets it for the commands that follow, `NAME` alone takes it away."""
        name, equals, value = text.partition("=")
        self._variables.pop(name, None)
        if equals:
            self._variables[name] = unquoted(value)

    def _list_jobs(self, number: str) -> None:
        found = [job for job in self._jobs.all if number in ("", str(job.number))]
        if not found:
            none = tr("nothing is or was in the background")
            raise UsageError(none, "Send something there: list the files here &")
        for job in found:
            self._show(told(job))
            if number:
                self._show_job(job)

    def _show_job(self, job: Job) -> None:
        if job.error is not None:
            self._complain(job.error)
        elif job.result is not None:
            out, err = screen.look_of(sys.stdout), screen.look_of(sys.stderr)
            shown = render.result(job.result, out, err)
            screen.write(sys.stdout, shown.out)
            screen.write(sys.stderr, "" if job.item else shown.err)
        if job.item:
            self._show(tr("It needs your word: /approve {item}").format(item=job.item) + "\n")

    def _wake(self) -> None:
        """From another thread: there is news. Told above the line that is being typed, else before it."""
        app = self._session.app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(lambda: run_in_terminal(self._tell_news), context=app.context)

    def _wake_for_news(self) -> None:
        """What came between the last telling and this prompt, when nobody could be woken."""
        if self._news or self._jobs.has_news():
            self._wake()

    def _tell_news(self) -> None:
        """What has ended in the background, and what came of asking the daemon."""
        while self._news:
            screen.write(sys.stderr, self._news.pop(0))
        for job in self._jobs.news():
            self._show(told(job))
            self._show_job(job)

    def _change_folder(self, folder: str) -> None:
        target = self._previous if folder == "-" and self._previous else folder or "~"
        here = str(Path.cwd())
        try:
            os.chdir(Path(unquoted(target)).expanduser())
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot go to {target}: {why}", "See what is there: !ls") from error
        self._previous = here

    def _tools(self, name: str) -> None:
        self._learn()  # anew: what has been added is shown
        found = [spec for spec in self._specs if spec.get("name") == name]
        if name and not found:
            raise UsageError(f"there is no tool {name!r}", "See: /tools")
        columns = screen.width(sys.stdout)
        self._show(listings.tool(found[0]) if name else listings.tools(self._specs, columns))

    def _status(self, _rest: str) -> None:
        self._show(listings.status(self._actions.question("status", {}), screen.look_of(sys.stdout)))

    def _history(self, _rest: str) -> None:
        found = self._actions.question("history", {"limit": 20})
        self._show(listings.history(found, screen.look_of(sys.stdout), screen.width(sys.stdout)))

    def _help(self, _rest: str) -> None:
        rows = [(f"  {name:<18} ", tr(meaning)) for name, meaning in HELP.items()]
        self._show(render.hanging(rows, screen.width(sys.stdout)))

    # --- around the prompt ---

    def _learn(self, say: Callable[[str], None] = screen.say) -> None:
        """What the daemon has: tools for completion, model and policy for the toolbar. Raises LlmosError."""
        self._toolbar = toolbar(self._actions.question("status", {}, say))
        self._session.app.invalidate()  # drawn anew, from whichever thread
        with contextlib.suppress(LlmosError):  # an older daemon does not know it
            self._actions.question("wake", {}, say)  # the model loads while the person types
        found = self._actions.question("tools", {}, say)
        self._specs = found.get("tools") or found.get("value") or []

    def _learn_aside(self) -> None:
        """While the person types already: a daemon that has to be started takes a moment."""
        look = screen.look_of(sys.stderr)
        try:
            self._learn(lambda text: self._news.append(screen.said(text)))
        except LlmosError as error:
            self._news.append(render.error(str(error), error.next_step, look))
        self._wake()

    def _prompt(self) -> FormattedText:
        return FormattedText([("bold", f"{welcome.folder()} "), ("ansicyan", welcome.MARK)])

    def _status_bar(self) -> str:
        running = self._jobs.running()
        return self._toolbar + (
            f" · {tr('{count} in the background').format(count=running)}" if running else ""
        )

    def _new_session(self) -> PromptSession[str]:
        commands = [name.split()[0] for name in HELP if name.startswith("/")]
        return PromptSession(
            history=open_history(paths.state_dir() / "shell_history"),
            completer=ShellCompleter(commands, self._tool_names, self._containers),
            complete_while_typing=False,
            enable_history_search=True,
            auto_suggest=AutoSuggestFromHistory(),
            key_bindings=key_bindings(),
            output=create_output(stdout=welcome.stream()),
            enable_suspend=True,
        )

    def _tool_names(self) -> list[str]:
        return [str(spec.get("name")) for spec in self._specs]

    def _containers(self) -> list[str]:
        """For Tab; none where no engine can be asked."""
        params = {"tool": "docker.container.list", "args": {"all": True}, "cwd": str(Path.cwd())}
        try:
            return listed(self._actions.question("call", params))
        except LlmosError:
            return []

    def _complain(self, error: LlmosError) -> None:
        screen.write(sys.stderr, render.error(str(error), error.next_step, screen.look_of(sys.stderr)))

    def _show(self, text: str) -> None:
        screen.write(sys.stdout, text)
