"""The journal for people: its newest lines as a table, one request as a story. Pure: data in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llmos.console import safetext
from llmos.console.listings import moment
from llmos.console.look import Look
from llmos.console.render import effect_lines, table

JsonObject = dict[str, Any]

_STYLES = {"allow": "green", "ask": "yellow", "deny": "red", "done": "green", "failed": "red"}
_KNOWN = frozenset({"seq", "prev", "time", "mac", "kind", "id"})


def tail(lines: Sequence[JsonObject], look: Look, columns: int) -> str:
    """Newest last: when, whose, what kind of line, and what it is about."""
    if not lines:
        return "nothing has been recorded yet\n"
    return table([_row(line, look) for line in lines], clip_last=columns)


def _row(line: JsonObject, look: Look) -> list[str]:
    word = _word(line)
    return [
        moment(line.get("time", "")),
        safetext.one_line(str(line.get("id", ""))),
        look.style(_STYLES.get(word, "dim"), safetext.one_line(word)),
        safetext.one_line(_about(line)),
    ]


def _word(line: JsonObject) -> str:
    match line.get("kind"):
        case "decided":
            return str(line.get("verdict"))
        case "finished":
            return "done" if line.get("ok") else "failed"
        case kind:
            return str(kind)


def _about(line: JsonObject) -> str:
    match line.get("kind"):
        case "decided":
            return str(line.get("command") or line.get("tool"))
        case "finished":
            return _ending(line)
        case _:
            return _facts(line)


def _ending(line: JsonObject) -> str:
    ways = [word for key, word in (("timed_out", "timed out"), ("cancelled", "cancelled")) if line.get(key)]
    return ", ".join([f"exit {line.get('exit_code')}", f"{_seconds(line)} s", *ways])


def _seconds(line: JsonObject) -> str:
    return f"{float(line.get('duration_ms') or 0) / 1000:.2f}"


def _facts(line: JsonObject) -> str:
    return " ".join(f"{key}={_short(value)}" for key, value in line.items() if key not in _KNOWN)


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"[{len(value)}]"
    if isinstance(value, dict):
        return f"{{{len(value)}}}"
    return str(value)


def request(name: str, lines: Iterable[JsonObject], look: Look) -> str:
    """All that the journal has on one request, in the order it happened."""
    return (
        look.style("bold", f"request {safetext.one_line(name)}")
        + "\n"
        + "".join(_entry(line, look) for line in lines)
    )


def _entry(line: JsonObject, look: Look) -> str:
    word = _word(line)
    head = f"{moment(line.get('time', ''))}  {look.style(_STYLES.get(word, 'bold'), safetext.one_line(word))}"
    match line.get("kind"):
        case "decided":
            return f"{head}  {safetext.one_line(str(line.get('tool')))}\n" + _indented(_decision(line, look))
        case "finished":
            return f"{head}  {_ending(line)}\n"
        case _:
            return f"{head}\n" + _indented(_fact_lines(line))


def _decision(line: JsonObject, look: Look) -> Iterable[str]:
    for part in safetext.exact(str(line.get("command") or line.get("args"))).split("\n"):
        yield look.style("cyan", part)
    yield f"in {safetext.one_line(str(line.get('cwd')))}, asked by uid {line.get('uid')}"
    yield f"rule {safetext.one_line(str(line.get('rule')))}: {safetext.one_line(str(line.get('reason')))}"
    yield _what_followed(line)
    yield from effect_lines(line.get("effects") or {})


def _what_followed(line: JsonObject) -> str:
    if not line.get("runs"):
        return "it was not run"
    return "it was approved and run" if line.get("approved") else "it was run without asking"


def _fact_lines(line: JsonObject) -> Iterable[str]:
    for key, value in line.items():
        if key in _KNOWN:
            continue
        items = value if isinstance(value, list) else [value]
        yield from (f"{safetext.one_line(key)}  {safetext.one_line(str(item))}" for item in items)


def _indented(lines: Iterable[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)
