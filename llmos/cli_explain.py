"""`llmos explain -- COMMAND` and `llmos why`: what a command does, part by part, and why one failed.

Both work without a model and without a network. What a program's `--help` says is asked for in the sandbox,
where the policy allows that unasked; nothing else is run, and where no daemon answers it goes without.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmos import cli_input, cli_requests
from llmos.console import client, render, safetext, screen
from llmos.errors import LlmosError, UsageError

JsonObject = dict[str, Any]
SHELL_TOOL = "shell.run"
HELP_TIMEOUT_S = 15.0


def explain(options: argparse.Namespace) -> int:
    from llmos.explain import command

    text = _command(options)
    parts = command.explain(text, _help_of)
    verdict = _verdict(text)
    if options.json:
        cli_requests.print_json(
            {"command": text, "parts": [asdict(part) for part in parts], "policy": verdict}
        )
        return 0
    look = screen.look_of(sys.stdout)
    columns = screen.width(sys.stdout) or 100
    wide = min(max(safetext.columns(safetext.one_line(part.text)) for part in parts), 28)
    for part in parts:
        indent = "" if part.kind in ("program", "operator") else "  "
        head = safetext.pad(indent + safetext.one_line(part.text), wide + 2)
        style = {"program": "bold", "operator": "yellow", "option": "cyan"}.get(part.kind, "dim")
        room = max(30, columns - safetext.columns(head) - len(part.source) - 5)
        about = safetext.one_line(part.about)
        lines = _wrapped(about, room) or [""]
        source = look.style("dim", f"  [{part.source}]") if part.source else ""
        screen.write(sys.stdout, f"{look.style(style, head)}  {lines[0]}{source}\n")
        for line in lines[1:]:
            screen.write(sys.stdout, " " * (safetext.columns(head) + 2) + line + "\n")
    if verdict:
        screen.write(sys.stdout, "\n" + render.verdict(verdict, look))
    return 0


def _command(options: argparse.Namespace) -> str:
    words = options.words
    return words[0] if len(words) == 1 else shlex.join(words)


def _wrapped(text: str, room: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, room)


def _verdict(text: str) -> JsonObject:
    """What the policy says to it, where a daemon can be asked."""
    try:
        with cli_requests.connected() as daemon:
            return daemon.call(
                "policy.check", {"command": text, "cwd": cli_input.current_folder()}, timeout_s=10.0
            )
    except LlmosError:
        return {}


def _help_of(words: tuple[str, ...]) -> str:
    flag = "-h" if words[0] == "git" and len(words) > 1 else "--help"
    result = _in_sandbox(shlex.join((*words, flag)))
    ran = [call for call in result.get("calls") or () if call.get("exit_code") not in (None, 126, 127)]
    return "".join(str(call.get("stdout") or call.get("stderr") or "") for call in ran)


def _in_sandbox(command: str) -> JsonObject:
    """A command that the policy allows unasked; an empty result where it does not, or cannot be run."""
    params = {
        "tool": SHELL_TOOL,
        "args": {"command": command},
        "cwd": "/",
        "id": client.new_id(),
        "consent": "none",
    }
    try:
        params["cwd"] = cli_input.current_folder()
        with cli_requests.connected() as daemon:
            return daemon.call("call", params, timeout_s=HELP_TIMEOUT_S)
    except LlmosError:
        return {}


# --- why ---------------------------------------------------------------------------------------------


def why(options: argparse.Namespace) -> int:
    """Why a command failed: by what it said, or says again in the sandbox where it only looks."""
    from llmos.explain import failure

    text = _command(options)
    if not text.strip():
        raise UsageError(
            "there is no command to look at", "For instance: llmos why --code 1 -- cat /etc/shadow"
        )
    stderr, again = _stderr(options, text)
    found = failure.findings(text, options.code, stderr)
    left_out = max(0, len(stderr) - failure.MAX_STDERR)
    if options.json:
        told = {"command": text, "code": options.code, "run_again": again, "chars_left_out": left_out}
        cli_requests.print_json({**told, "findings": [asdict(item) for item in found]})
        return 0 if found else 6
    look = screen.look_of(sys.stdout)
    for item in found:
        line = f"{safetext.one_line(item.what)}\n  {look.style('dim', safetext.one_line(item.source))}\n"
        screen.write(sys.stdout, line + (f"  {safetext.one_line(item.step)}\n" if item.step else ""))
    if not found:
        said = f"nothing is known of exit code {options.code} of that"
        step = ", and it was not run again, as it may change something. Its messages: … 2>&1 | llmos why"
        screen.write(sys.stdout, f"{said}{'' if stderr or again else step}\n")
    if left_out:
        note = (
            f"Only the last {failure.MAX_STDERR:,} of {len(stderr):,} characters of its messages were read."
        )
        screen.write(sys.stdout, f"{look.style('dim', note)}\n")
    return 0 if found else 6


def _stderr(options: argparse.Namespace, text: str) -> tuple[str, bool]:
    """(what the command said, whether it was run again for that)."""
    if options.stderr:
        try:
            return Path(options.stderr).read_text(encoding="utf-8", errors="replace"), False
        except OSError as error:
            raise UsageError(f"{options.stderr} cannot be read: {error.strerror}", "Name a file.") from error
    if data := cli_input.read_data(sys.stdin) if not options.no_stdin else None:
        return data.decode("utf-8", "replace"), False
    if options.code in (126, 127) or options.code > 128:
        return "", False  # the code says it
    result = _in_sandbox(text)
    ran = [call for call in result.get("calls") or () if call.get("exit_code") is not None]
    return "".join(str(call.get("stderr") or "") for call in ran), bool(ran)


VERBS = {"explain": explain, "why": why}
