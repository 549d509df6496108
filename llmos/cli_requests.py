"""The verbs that carry a request to the daemon: ask, plan, call and translate.

What the request is (text, piped data, write roots) is read here; what happens to it is the daemon's
affair; how it is shown is the console's. With --json exactly one object goes to stdout, errors too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmos import cli_input, paths
from llmos.console import client, consent, dial, render, safetext, screen
from llmos.console.interrupts import Interrupts
from llmos.console.turn import Turn
from llmos.errors import LlmosError, ModelError

JsonObject = dict[str, Any]

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
        text, data = cli_input.request_input(options)
        return {"text": text, **cli_input.common_params(options, data)}

    show = show_plan if options.plan else None
    return guarded(options, lambda: perform("plan" if options.plan else "ask", params(), options, show=show))


def call(options: argparse.Namespace) -> int:
    """`llmos call TOOL --args JSON`: typed calls through the same gate, without the model."""

    def params() -> JsonObject:
        made = {"tool": options.tool, "args": cli_input.call_args(options.args)}
        if options.then:
            made["then"] = [cli_input.later_call(tool, text) for tool, text in options.then]
        data = cli_input.read_data(sys.stdin) if not options.no_stdin else None
        extra = {"mode": "plan"} if options.plan else {}
        return {**made, **cli_input.common_params(options, data), **extra}

    show = show_plan if options.plan else None
    return guarded(options, lambda: perform("call", params(), options, show=show))


def translate(options: argparse.Namespace) -> int:
    """`llmos translate`: the one shell command line that would do it, printed and not run."""

    def params() -> JsonObject:
        text = cli_input.request_text(options.text)
        made = {"text": text, "cwd": cli_input.current_folder(), "id": client.new_id()}
        asked = "none" if consent.open_terminal() is None else "interactive"
        return {**made, "consent": asked, **cli_input.route_params(options)}

    return guarded(options, lambda: perform("translate", params(), options, show=show_command))


def undo(options: argparse.Namespace) -> int:
    """`llmos undo [ID]`: take back a change, or have it again; shown and asked about first."""

    def params() -> JsonObject:
        made = {"id": client.new_id(), "consent": cli_input.consent_of(options)}
        return made | undo_params(options.undo_id or "", plan=options.plan)

    show = show_plan if options.plan else None
    return guarded(options, lambda: perform("undo", params(), options, show=show))


def undo_params(undo_id: str, *, plan: bool = False) -> JsonObject:
    return {"undo_id": undo_id} | ({"mode": "plan"} if plan else {})


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
                needed=method not in ("call", "undo", "inbox.approve", "resume")
                and params.get("route") != "cloud",
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

    if needed and daemon.path != paths.SYSTEM_SOCKET and first_use.nothing_here():
        first_use.fetch_missing(asker, interrupts)
    try:
        return run()
    except ModelError:
        if not needed or daemon.path == paths.SYSTEM_SOCKET:
            raise
        if not first_use.fetch_missing(asker, interrupts):
            raise
        return run()


def connected(*, start: bool = True, say: Callable[[str], None] = screen.say) -> client.Client:
    """A client of the daemon that answers, started first if need be and `start` allows it; `say` tells so."""
    autostart = start and os.environ.get("LLMOS_AUTOSTART", "1") != "0"
    return dial.open_client(_start_daemon if autostart else None, say)


def _start_daemon(path: Path) -> int:
    from llmos.daemon import supervisor

    return supervisor.start_daemon(path)


def print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    if not cli_input.is_utf8(text):  # bytes of a file name that is not UTF-8: escaped, the object stays valid
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
    "undo": undo,
}
