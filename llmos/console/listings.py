"""Tables and fact sheets: tools, history, status, doctor's checks. Pure: data in, text out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from llmos.amounts import human_duration, human_size
from llmos.console import safetext
from llmos.console.look import Look
from llmos.console.render import table
from llmos.console.words import tr

JsonObject = dict[str, Any]

_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
_STATUS_STYLE = {"done": "green", "denied": "red", "failed": "red", "needs_approval": "yellow"}


def tools(specs: Sequence[JsonObject], columns: int) -> str:
    """One line per tool: its name and the sentence of its manifest."""
    rows = [[safetext.one_line(str(spec.get(key, ""))) for key in ("name", "summary")] for spec in specs]
    return table(rows, clip_last=columns)


def tool(spec: JsonObject) -> str:
    """A tool's sentence, arguments and examples."""
    parameters = spec.get("parameters") or {}
    required = set(parameters.get("required") or ())
    text = f"{spec.get('name')}: {spec.get('summary')}\n"
    rows = [
        [
            f"  {name}",
            _type(schema),
            "required" if name in required else "",
            str(schema.get("description", "")),
        ]
        for name, schema in (parameters.get("properties") or {}).items()
    ]
    text += table(rows)
    for example in (spec.get("examples") or ())[:8]:
        given = json.dumps(example.get("args") or {}, ensure_ascii=False)
        text += f'  "{example.get("say")}"  →  {given}\n'
    return safetext.output(text)


def _type(schema: JsonObject) -> str:
    if choices := schema.get("enum"):
        return "|".join(map(str, choices))
    kind = schema.get("type", "any")
    text = "|".join(map(str, kind)) if isinstance(kind, list) else str(kind)
    return f"{text} (default {schema['default']})" if schema.get("default") is not None else text


def history(found: JsonObject, look: Look, columns: int) -> str:
    """Newest last, as a shell's history: time, status, what was asked or called."""
    entries = found.get("entries") or found.get("history") or found.get("value") or []
    if not entries:
        return tr("nothing has been done yet") + "\n"
    return table([_history_row(entry, look) for entry in entries], clip_last=columns)


def _history_row(entry: JsonObject, look: Look) -> list[str]:
    when = entry.get("time") or entry.get("at") or ""
    status = str(entry.get("status") or entry.get("verdict") or "")
    what = str(entry.get("text") or entry.get("command") or entry.get("tool") or "")
    return [
        moment(when),
        safetext.one_line(str(entry.get("id", ""))),
        look.style(_STATUS_STYLE.get(status, "dim"), safetext.one_line(tr(status))),
        {"committed": tr("undoable"), "undone": tr("undone")}.get(str(entry.get("undo")), ""),
        safetext.one_line(what),
    ]


def remembered(rules: Sequence[JsonObject], columns: int) -> str:
    """Answers given for good: id, until when, below which folder, for what."""
    if not rules:
        return (
            tr("nothing is remembered; at a question, `a` (always) and `v` (never) remember the answer")
            + "\n"
        )
    rows = [
        [
            safetext.one_line(str(rule["id"])),
            tr("until {day}").format(day=moment(rule["expires"])[:10]),
            tr("never") if rule.get("never") else tr("always"),
            safetext.one_line(tr("below {folder}").format(folder=rule["prefix"])),
            safetext.one_line(str(rule["command"])),
        ]
        for rule in rules
    ]
    return table(rows, clip_last=columns)


def moment(when: object) -> str:
    """Local time of seconds since the epoch; anything else as it is."""
    if isinstance(when, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
    return safetext.one_line(str(when))


def status(found: JsonObject, look: Look) -> str:
    """How the daemon stands, for a person: without what only programs count (see --json, llmos metrics)."""
    shown = {name: value for name, value in found.items() if value is not None and name != "max_queued"}
    if counts := shown.get("counts"):
        shown["counts"] = {name: counts.get(name) for name in ("ended", "judged")}
    return facts(_readable(shown), look)


def _readable(found: JsonObject) -> JsonObject:
    """Sizes and times as people write them."""
    fresh: JsonObject = {}
    for name, value in found.items():
        if isinstance(value, dict):
            fresh[name] = _readable(value)
        elif name.endswith("bytes") and isinstance(value, int):
            fresh[name.removesuffix("_bytes")] = human_size(value)
        elif name == "uptime_s":
            fresh["up"] = human_duration(float(value))
        elif value is not None:
            fresh[name] = value
    return fresh


def facts(found: JsonObject, look: Look) -> str:
    """`key: value`, one a line; nested objects indented under their key."""
    return "".join(f"{line}\n" for line in _fact_lines(found, look, ""))


def _fact_lines(found: JsonObject, look: Look, indent: str) -> list[str]:
    width = max((len(key) for key in found), default=0)
    lines = []
    for key, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{look.style('bold', key)}:", *_fact_lines(value, look, indent + "  ")]
        else:
            lines.append(f"{indent}{look.style('bold', key)}:{' ' * (width - len(key))} {_value(value)}")
    return lines


def _value(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list):
        return safetext.one_line(", ".join(_value(item) for item in value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={_value(item)}" for key, item in value.items())
    return safetext.one_line(str(value))


def checks(found: Sequence[JsonObject], look: Look) -> str:
    """Doctor's findings: state, name, detail, and under what is not well the command that mends it."""
    width = max((len(str(check["name"])) for check in found), default=0)
    text = ""
    for check in found:
        mark, style = _MARKS[str(check["state"])]
        name = str(check["name"]).ljust(width)
        text += f"{look.style(style, mark.ljust(4))}  {name}  {safetext.one_line(str(check['detail']))}\n"
        if check["state"] != "ok" and check.get("mend"):
            mend = tr("mend it: {how}").format(how=safetext.one_line(str(check["mend"])))
            text += f"      {'':{width}}  {mend}\n"
    return text
