"""The verbs about the machine as a whole: advise.

What is measured and judged is the daemon's affair. A suggestion that a person chooses here is made like any
call: previewed, judged by the policy, asked about. Without a terminal, or with --json, nothing is offered.
"""

from __future__ import annotations

import argparse
import json
import string
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llmos import cli_input, cli_requests
from llmos.console import client, consent, safetext, screen
from llmos.console.interrupts import Interrupts
from llmos.errors import CallFailed, Denied

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
    params = {"tool": "advise", "args": {"about": about, "json": True}, "cwd": cli_input.current_folder()}
    with cli_requests.connected() as daemon:
        result = daemon.call("call", params, timeout_s=120.0)
    if result["status"] != "done":
        kind = Denied if result["status"] == "denied" else CallFailed
        raise kind(str(result.get("answer") or "this machine cannot be looked at"), "See: llmos doctor")
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


def _made(call: JsonObject) -> int:
    """The chosen call, as `llmos call` makes it."""
    options = argparse.Namespace(json=False, yes=False, plan=False, timeout=0.0)
    params = {"tool": call["tool"], "args": call["args"], "cwd": cli_input.current_folder()}
    params |= {"id": client.new_id(), "consent": cli_input.consent_of(options)}
    return cli_requests.perform("call", params, options)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"advise": advise}
