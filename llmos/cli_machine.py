"""The verbs about the machine as a whole: advise, goals, top.

What is measured and judged is the daemon's affair. A suggestion that a person chooses here is made like any
call: previewed, judged by the policy, asked about. Without a terminal, or with --json, nothing is offered.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import string
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llmos import cli_input, cli_requests
from llmos.console import client, consent, safetext, screen
from llmos.console.interrupts import Interrupts
from llmos.errors import CallFailed, Denied, LlmosError, UsageError

JsonObject = dict[str, Any]
_KEYS = "123456789" + string.ascii_lowercase.replace("q", "")
_MARKS = {"high": "red", "medium": "yellow", "low": "dim"}


def advise(options: argparse.Namespace) -> int:
    return cli_requests.guarded(options, lambda: _advise(options))


def _advise(options: argparse.Namespace) -> int:
    found = _looked(options.about)
    if options.json:
        cli_requests.print_json(found)
        return 0
    offered = _offered(found["findings"])
    screen.write(sys.stdout, _text(found))
    terminal = consent.open_terminal()
    if terminal is None or not offered or not sys.stdout.isatty():
        return 0
    with Interrupts() as interrupts:
        key = consent.Asker(terminal).choose(_KEYS[: len(offered)], "Which call? Enter for none", interrupts)
    return _made(offered[_KEYS.index(key)]) if key else 0


def _looked(about: str) -> JsonObject:
    return observed("advise", {"about": about})


def observed(tool: str, args: JsonObject) -> JsonObject:
    """What a read-only tool says as JSON. Raises Denied, CallFailed."""
    params = {"tool": tool, "args": {**args, "json": True}, "cwd": cli_input.current_folder()}
    with cli_requests.connected() as daemon:
        result = daemon.call("call", params, timeout_s=120.0)
    if result["status"] != "done":
        kind = Denied if result["status"] == "denied" else CallFailed
        raise kind(str(result.get("answer") or f"{tool} gave no answer"), "See: llmos doctor")
    found: JsonObject = json.loads(result["calls"][0]["stdout"])
    return found


def _offered(findings: Sequence[JsonObject]) -> list[JsonObject]:
    """The calls that have a key, in the order in which they are shown."""
    return [call for one in findings for call in one["suggestions"]][: len(_KEYS)]


def _text(found: JsonObject) -> str:
    look = screen.look_of(sys.stdout)
    keys = iter(_KEYS)
    lines = []
    for one in found["findings"]:
        lines.append(look.style(_MARKS[one["severity"]], look.text(f"● {one['what']}")))
        lines += [look.style("dim", look.text(f"    {line}")) for line in one["evidence"]]
        for call in one["suggestions"]:
            args = json.dumps(call["args"], ensure_ascii=False)
            lines.append(look.text(f"  [{next(keys, ' ')}] {call['tool']} {args}  {call['why']}"))
    if not lines:
        lines.append("Nothing is wrong, as far as can be measured.")
    lines += [safetext.one_line(f"Not looked at: {one}.") for one in found["unseen"]]
    return "\n".join(lines) + "\n"


def _made(call: JsonObject, *, yes: bool = False, as_json: bool = False) -> int:
    """The chosen call, as `llmos call` makes it."""
    options = argparse.Namespace(json=as_json, yes=yes, plan=False, timeout=0.0)
    params = {"tool": call["tool"], "args": call["args"], "cwd": cli_input.current_folder()}
    params |= {"id": client.new_id(), "consent": cli_input.consent_of(options)}
    return cli_requests.perform("call", params, options)


# --- goals -------------------------------------------------------------------------------------------


def goals(options: argparse.Namespace) -> int:
    words = options.words or ["list"]
    if words[0] == "remove" and len(words) == 2:
        call = {"tool": "goal.remove", "args": {"id": words[1]}}
        return cli_requests.guarded(options, lambda: _made(call, yes=options.yes, as_json=options.json))
    if words != ["list"]:
        raise UsageError("list, or remove with an ID", "For instance: llmos goals remove g1a2b3c")
    return cli_requests.guarded(options, lambda: _listed(options))


def _listed(options: argparse.Namespace) -> int:
    found = observed("goal.list", {})
    if options.json:
        cli_requests.print_json(found)
        return 0
    lines = [safetext.one_line(f"{one['id']}  {one['protect']} before {one['against'] or 'everything else'}: "
                               f"{one['told']}") for one in found["goals"]]  # fmt: skip
    nothing = 'there is no goal; set one: llmos "keep make from slowing nginx down"'
    screen.write(sys.stdout, "\n".join(lines or [nothing]) + "\n")
    return 0


# --- top ---------------------------------------------------------------------------------------------


def top(options: argparse.Namespace) -> int:
    """The machine as it goes. A daemon is not started for it: what it would tell is then left out."""
    from llmos.console import dashboard

    with contextlib.ExitStack() as stack:
        sampler = dashboard.Sampler(_status(stack))
        if options.json:
            cli_requests.print_json(dashboard.once(sampler, min(options.every, 1.0)).as_json)
        elif options.once or not dashboard.can_be_live():
            dashboard.show_once(sampler, min(options.every, 1.0))
        else:
            with contextlib.suppress(KeyboardInterrupt):
                dashboard.live(sampler, options.every)
    return 0


def _status(stack: contextlib.ExitStack) -> Callable[[], JsonObject]:
    """What asks the daemon; once it is gone, or was never there, nothing is told."""
    daemon: client.Client | None = None
    with contextlib.suppress(LlmosError):
        daemon = stack.enter_context(cli_requests.connected(start=False))

    def told() -> JsonObject:
        nonlocal daemon
        try:
            return daemon.call("status", {}, timeout_s=5.0) if daemon else {}
        except LlmosError:
            daemon = None
            return {}

    return told


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"advise": advise, "goals": goals, "top": top}
