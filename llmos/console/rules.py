"""What the policy says, as text: explanations, rules, and a journal judged again. Pure: data in, text out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llmos.console import safetext
from llmos.console.listings import moment
from llmos.console.look import Look
from llmos.console.render import table, verdict

JsonObject = dict[str, Any]


def explained(found: JsonObject, look: Look) -> str:
    """Why a verdict is what it is: effect by effect, the rules that matched, and the facts they looked at."""
    text = verdict(found, look)
    for asked in found.get("questions") or ():
        mark = "*" if asked["decides"] else " "
        subject = safetext.one_line(str(asked["subject"]))
        text += f"\n{mark} {asked['action']} {subject}: {asked['verdict']} ({asked['rule']})\n"
        for rule in asked["matched"]:
            why = safetext.one_line(rule["why"])
            text += f"    {rule['decision']:<5} {rule['rule']}, {rule['tier']}: {why}\n"
            text += "".join(f"          {line}\n" for line in _facts_seen(rule["facts"]))
        if not asked["matched"]:
            text += "    no rule matches: what no rule speaks of is asked\n"
    return text + "\n* decided; see also: llmos policy list\n"


def _facts_seen(found: JsonObject) -> list[str]:
    return [f"{name} = {safetext.one_line(json.dumps(value))}" for name, value in found.items()]


def replayed(changes: Sequence[JsonObject], judged: int, columns: int) -> str:
    """What would be decided otherwise, oldest first, and how much was looked at."""
    rows = [
        [
            moment(change["time"]),
            f"{change['before']} -> {change['after']}",
            safetext.one_line(str(change["after_rule"])),
            safetext.one_line(str(change["command"])),
        ]
        for change in changes
    ]
    text = table(rows, clip_last=columns)
    return f"{text}{len(changes)} of {judged} decisions would be different\n"


def rules(found: JsonObject, columns: int) -> str:
    """The rules in force; then what the policy grants and hides."""
    rows = [
        [
            str(rule["tier"]),
            str(rule["decision"]),
            safetext.one_line(rule["rule"]),
            safetext.one_line(rule["why"]),
        ]
        for rule in found.get("rules") or ()
    ]
    text = table(rows, clip_last=columns)
    granted = {
        "write": "may be written",
        "network": "may be reached",
        "processes": "root may signal and limit the processes of",
        "hide": "is hidden",
    }
    for key, what in granted.items():
        text += "".join(f"{what}: {safetext.one_line(str(value))}\n" for value in found.get(key) or ())
    return text
