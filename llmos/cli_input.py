"""What a request is made of: its words, the piped data, the folder, the grants.

Text on the command line makes piped stdin the request's data. Without text, or with `-` for it, stdin
is the text itself. A terminal or a device such as /dev/null on stdin is never read. A pipe that nobody
closes is waited for, as `cat` would, and said so; `--no-stdin` leaves it alone.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import stat
import sys
from pathlib import Path
from typing import Any

from llmos.console import client, consent
from llmos.console.screen import say
from llmos.errors import UsageError

JsonObject = dict[str, Any]

MAX_DATA_BYTES = 8 << 20  # base64 of it fits into one frame
STDIN_NOTE_S = 2.0


def request_input(options: argparse.Namespace) -> tuple[str, bytes | None]:
    """(text, data) of a request; data only beside text on the command line."""
    text = request_text(options.text)
    if not _words(options.text) or options.no_stdin:
        return text, None
    return text, read_data(sys.stdin)


def request_text(given: list[str]) -> str:
    """The words of the command line, or stdin's text where there are none (or `-` alone)."""
    if words := _words(given):
        return checked_text(" ".join(words))
    if sys.stdin is None or (sys.stdin.isatty() and "-" not in given):
        return checked_text("")
    return checked_text(_read_all(sys.stdin).decode("utf-8", "surrogateescape"))


def _words(given: list[str]) -> list[str]:
    return [word for word in given if word != "-"]


def checked_text(text: str) -> str:
    """The text of a request; raises UsageError when there is none, or it is not text."""
    if not text.strip():
        raise UsageError("the request is empty", 'Say what you want: llmos "list the files here"')
    if not is_utf8(text):
        raise UsageError(
            "the request is not text in UTF-8", "Pipe binary data in, beside a request in words."
        )
    return text


def is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def read_data(stream: Any) -> bytes | None:
    """Piped data, or None where stdin is a terminal, a device such as /dev/null, or closed."""
    if stream is None:
        return None
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return None
    return _read_all(stream)


def _read_all(stream: Any) -> bytes:
    """To the end of input, with a word to the person when nothing comes."""
    ready, _, _ = select.select([stream], [], [], STDIN_NOTE_S)
    if not ready:
        say("reading data from stdin … (give --no-stdin when none is meant)")
    data: bytes = stream.buffer.read(MAX_DATA_BYTES + 1)
    if len(data) > MAX_DATA_BYTES:
        raise UsageError(
            f"more than {MAX_DATA_BYTES >> 20} MiB came in on stdin", "Save it and name the file instead."
        )
    return data


def call_args(text: str, option: str = "--args") -> JsonObject:
    """The JSON object after an option; raises UsageError that points at the place."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        step = f"""Quote it for the shell: {option} '{{"path": "."}}'"""
        raise UsageError(f"{option} is not JSON: {error}", step) from error
    if not isinstance(value, dict):
        raise UsageError(f"{option} is not a JSON object", f"""Write it so: {option} '{{"path": "."}}'""")
    return value


def later_call(tool: str, text: str) -> JsonObject:
    """A call of `--then TOOL JSON`."""
    return {"tool": tool, "args": call_args(text, f"--then {tool}")}


def common_params(options: argparse.Namespace, data: bytes | None) -> JsonObject:
    """What every request carries: id, folder, consent, write roots, data."""
    params: JsonObject = {"id": client.new_id(), "cwd": current_folder(), "consent": consent_of(options)}
    if options.write:
        params["write"] = [str(Path(path).expanduser().absolute()) for path in options.write]
    params |= route_params(options)
    if options.policy:
        params["policy"] = policy_text(options.policy)
    if data is not None:
        params["data_b64"] = base64.b64encode(data).decode("ascii")
    return params


def route_params(options: argparse.Namespace) -> JsonObject:
    """Where the request may be thought about; nothing where the person said nothing."""
    if getattr(options, "local", False):
        return {"route": "local"}
    if name := getattr(options, "backend", ""):
        return {"route": "cloud", "backend": name}
    return {"route": "cloud"} if getattr(options, "cloud", False) else {}


def policy_text(name: str) -> str:
    """The rules of --policy: the text of the file, or the name of a shipped set as it is."""
    if name in ("readonly", "unattended"):
        return name
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        step = "Name a policy file, or one of: readonly, unattended."
        raise UsageError(f"the policy {name} cannot be read: {error}", step) from error


def consent_of(options: argparse.Namespace) -> str:
    if options.yes:
        return "yes"
    return "none" if getattr(options, "plan", False) or consent.open_terminal() is None else "interactive"


def current_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise UsageError("the current folder no longer exists", "Go to one that does: cd ~") from error
