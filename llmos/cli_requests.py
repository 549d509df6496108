"""The verbs that carry a request to the daemon: ask, plan, call and translate.

What the request is (text, piped data, write roots) is read here; what happens to it is the daemon's
affair; how it is shown is the console's. With --json exactly one object goes to stdout, errors too.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmos.console import client, consent, render, safetext, screen
from llmos.console.interrupts import Interrupts
from llmos.console.turn import Turn
from llmos.errors import LlmosError, ModelError, UsageError

JsonObject = dict[str, Any]

MAX_DATA_BYTES = 8 << 20  # base64 of it fits into one frame
STDIN_NOTE_S = 2.0
# The contract's codes by status; the same table as `messages.EXIT_CODES`, which would import pydantic.
EXIT_CODES = {
    "done": 0,
    "denied": 3,
    "needs_approval": 4,
    "failed": 5,
    "needs_input": 6,
    "not_understood": 6,
}
_STATUS_OF_CODE = {3: "denied", 4: "needs_approval", 6: "not_understood"}


# --- verbs ---------------------------------------------------------------------------------------


def ask(options: argparse.Namespace) -> int:
    """`llmos TEXT`, `llmos ask` and `llmos plan`."""

    def params() -> JsonObject:
        text, data = request_input(options)
        return {"text": text, **common_params(options, data)}

    show = show_plan if options.plan else None
    return guarded(options, lambda: perform("plan" if options.plan else "ask", params(), options, show=show))


def call(options: argparse.Namespace) -> int:
    """`llmos call TOOL --args JSON`: one typed call through the same gate, without the model."""

    def params() -> JsonObject:
        made = {"tool": options.tool, "args": call_args(options.args)}
        data = read_data(sys.stdin) if not options.no_stdin else None
        extra = {"mode": "plan"} if options.plan else {}
        return {**made, **common_params(options, data), **extra}

    show = show_plan if options.plan else None
    return guarded(options, lambda: perform("call", params(), options, show=show))


def translate(options: argparse.Namespace) -> int:
    """`llmos translate`: the one shell command line that would do it, printed and not run."""

    def params() -> JsonObject:
        text = " ".join(options.text) or read_text(sys.stdin)
        return {"text": checked_text(text), "cwd": current_folder(), "id": client.new_id()}

    return guarded(options, lambda: perform("translate", params(), options, show=show_command))


def show_plan(result: JsonObject, turn: Turn) -> None:
    turn.stop()
    screen.write(sys.stdout, render.plan(result, screen.look_of(sys.stdout)))
    screen.write(sys.stderr, render.footer(result, screen.look_of(sys.stderr)))


def show_command(result: JsonObject, _turn: Turn) -> None:
    """The command alone on stdout, so that `$(llmos translate …)` holds nothing else."""
    out, err = screen.look_of(sys.stdout), screen.look_of(sys.stderr)
    command = str(result.get("command") or "")
    screen.write(sys.stdout, (safetext.exact(command) if out.terminal else command) + "\n")
    sure = f"{result.get('route', 'local')} · confidence {float(result.get('confidence') or 0):.2f}"
    screen.write(sys.stderr, err.style("dim", err.text(sure)) + "\n")


# --- what the request is -------------------------------------------------------------------------


def request_input(options: argparse.Namespace) -> tuple[str, bytes | None]:
    """(text, data). Text on the command line: piped stdin is data. No text, or `-`: stdin is the text."""
    words = [word for word in options.text if word != "-"]
    if not words:
        if sys.stdin is None or (sys.stdin.isatty() and "-" not in options.text):
            raise UsageError("the request is empty", 'Say what you want: llmos "list the files here"')
        return checked_text(read_text(sys.stdin)), None
    data = None if options.no_stdin else read_data(sys.stdin)
    return checked_text(" ".join(words)), data


def checked_text(text: str) -> str:
    """The text of a request; raises UsageError when there is none, or it is not text."""
    if not text.strip():
        raise UsageError("the request is empty", 'Say what you want: llmos "list the files here"')
    if not _is_utf8(text):
        raise UsageError(
            "the request is not text in UTF-8", "Pipe binary data in, beside a request in words."
        )
    return text


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def read_text(stream: Any) -> str:
    """A request's words from stdin; raises UsageError when they are not UTF-8 or far too many."""
    return _read_all(stream).decode("utf-8", "surrogateescape")


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


def call_args(text: str) -> JsonObject:
    """The JSON object after --args; raises UsageError that points at the place."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        step = """Quote it for the shell: --args '{"path": "."}'"""
        raise UsageError(f"--args is not JSON: {error}", step) from error
    if not isinstance(value, dict):
        raise UsageError("--args is not a JSON object", """Write it so: --args '{"path": "."}'""")
    return value


def common_params(options: argparse.Namespace, data: bytes | None) -> JsonObject:
    """What every request carries: id, folder, consent, write roots, data."""
    params: JsonObject = {"id": client.new_id(), "cwd": current_folder(), "consent": consent_of(options)}
    if options.write:
        params["write"] = [str(Path(path).expanduser().absolute()) for path in options.write]
    if data is not None:
        params["data_b64"] = base64.b64encode(data).decode("ascii")
    return params


def consent_of(options: argparse.Namespace) -> str:
    if options.yes:
        return "yes"
    return "none" if options.plan or consent.open_terminal() is None else "interactive"


def current_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise UsageError("the current folder no longer exists", "Go to one that does: cd ~") from error


# --- doing it ------------------------------------------------------------------------------------


def guarded(options: argparse.Namespace, run: Callable[[], int]) -> int:
    """Run a request verb; with --json an error, too, is one object on stdout and its exit code."""
    try:
        return run()
    except LlmosError as error:
        if not options.json:
            raise
        print_json(error_result(error))
        return error.exit_code


def perform(
    method: str,
    params: JsonObject,
    options: argparse.Namespace,
    *,
    show: Callable[[JsonObject, Turn], None] | None = None,
) -> int:
    """Send the request, follow it, print its result; returns the exit code. Raises LlmosError."""
    terminal = consent.open_terminal()
    asker = None if terminal is None else consent.Asker(terminal)
    with Interrupts() as interrupts, connected() as daemon:
        turn = Turn(asker, quiet=options.json)
        try:
            result = with_model(
                daemon,
                asker,
                interrupts,
                needed=method != "call",
                run=lambda: daemon.request(method, params, turn, interrupts, timeout_s=options.timeout),
            )
        finally:
            turn.stop()
    if options.json:
        print_json(result)
    else:
        (show or _show_result)(result, turn)
    return EXIT_CODES.get(str(result.get("status", "done")), 5)


def _show_result(result: JsonObject, turn: Turn) -> None:
    turn.show(result)


def with_model(
    daemon: client.Client,
    asker: consent.Asker | None,
    interrupts: Interrupts,
    *,
    needed: bool,
    run: Callable[[], JsonObject],
) -> JsonObject:
    """Run; where the weights are missing, offer to fetch them first and run again."""
    from llmos import first_use

    if needed and daemon.path != client.SYSTEM_SOCKET and first_use.nothing_here():
        first_use.fetch_missing(asker, interrupts)
    try:
        return run()
    except ModelError:
        if not needed or daemon.path == client.SYSTEM_SOCKET:
            raise
        if not first_use.fetch_missing(asker, interrupts):
            raise
        return run()


def connected(*, start: bool = True) -> client.Client:
    """A client of the daemon that answers, started first if need be and `start` allows it."""
    autostart = start and os.environ.get("LLMOS_AUTOSTART", "1") != "0"
    return client.open_client(_start_daemon if autostart else None, say)


def _start_daemon(path: Path) -> int:
    from llmos.daemon import supervisor

    return supervisor.start_daemon(path)


def say(text: str) -> None:
    """One line for the person, on stderr."""
    look = screen.look_of(sys.stderr)
    screen.write(sys.stderr, look.style("dim", f"llmos: {look.text(text)}") + "\n")


def print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    if not _is_utf8(text):  # bytes of a file name that is not UTF-8: escaped, the object stays valid
        text = json.dumps(value)
    screen.write(sys.stdout, text + "\n")


def error_result(error: LlmosError) -> JsonObject:
    """The contract's object for a request that ended in an error before it had a result."""
    timing = dict.fromkeys(
        ("queue_ms", "prefill_ms", "decode_ms", "policy_ms", "sandbox_ms", "total_ms"), 0.0
    )
    tokens = dict.fromkeys(("prompt_tokens", "cached_tokens", "generated_tokens", "forced_tokens"), 0)
    return {
        "id": client.new_id(),
        "status": _STATUS_OF_CODE.get(error.exit_code, "failed"),
        "route": "local",
        "calls": [],
        "answer": " ".join(f"{text.rstrip('. ')}." for text in (str(error), error.next_step) if text),
        "timing": {**timing, **tokens},
    }


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ask": ask,
    "plan": ask,
    "call": call,
    "translate": translate,
}
