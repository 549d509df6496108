"""What leaves the machine and what it costs, as text: the question, routes, usage, backends. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from llmos.console import safetext, words
from llmos.console.look import Look
from llmos.console.render import table
from llmos.console.words import tr

JsonObject = dict[str, Any]

_MAX_SHOWN_LINES = 30
_BAR_COLUMNS = 40
_MAX_FILLED_DAYS = 62


def question(data: JsonObject, look: Look, *, whole: bool = False) -> str:
    """What would leave: the redacted text, its size, where it goes, and what it can cost at most."""
    told = data.get("offload") or {}
    lines = safetext.exact(str(told.get("text") or "")).split("\n")
    shown = lines if whole else lines[:_MAX_SHOWN_LINES]
    text = (
        look.style("bold", tr("This would leave the machine ({what}):").format(what=told.get("what"))) + "\n"
    )
    text += "".join("    " + look.style("cyan", line) + "\n" for line in shown)
    if len(lines) > len(shown):
        hidden = tr("… {count} more lines; x shows all").format(count=len(lines) - len(shown))
        text += f"    {hidden}\n"
    sizes = tr("and {tools} bytes that describe the tools; {all} bytes in all")
    text += f"  {sizes.format(tools=told.get('tools_bytes'), all=told.get('bytes'))}\n"
    if replaced := told.get("replaced"):
        kinds = ", ".join(f"{count} {kind}" for kind, count in replaced.items())
        text += f"  {tr('replaced in it, and put back in the answer:')} {safetext.one_line(kinds)}\n"
    for number, one in enumerate(told.get("destinations") or ()):
        word = tr("to") if number == 0 else tr("or")
        text += "  " + look.style("yellow", f"{word} {_destination(one)}") + "\n"
    because = tr("because {reason}").format(reason=words.told(str(data.get("reason"))))
    return text + "  " + look.style("dim", safetext.one_line(because)) + "\n"


def _destination(one: JsonObject) -> str:
    price = tr("about {about}, at most {most}").format(
        about=_usd(one.get("about_usd")), most=_usd(one.get("ceiling_usd"))
    )
    return safetext.one_line(f"{one.get('backend')}: {one.get('url')} ({one.get('model')}), {price}")


def choices(look: Look) -> str:
    return look.style(
        "bold", tr("send it? [y]es, and such requests from now on  [o]nce  [n]o  e[x]plain  [?] ")
    )


CHOICES = (
    ("y", "yes, and requests of this kind may go there unasked (llmos backend forget NAME revokes it)"),
    ("o", "yes, this once"),
    ("n", "no, it stays here"),
    ("x", "explain: all of the text"),
    ("?", "this help"),
)


def choices_help() -> str:
    return "".join(f"    {key}  {tr(meaning)}\n" for key, meaning in CHOICES)


def route(found: JsonObject, look: Look, *, full: bool) -> str:
    """Where it would be thought about and why; with `full`, every fact."""
    order = ", then ".join(found.get("order") or ())
    head = str(found.get("route")) + (f": {order}" if order else "")
    text = look.style("bold", safetext.one_line(head)) + "\n"
    text += "".join(f"  {safetext.one_line(str(why))}\n" for why in found.get("why") or ())
    return text + (_facts(found.get("facts") or {}) if full else "")


def _facts(facts: JsonObject) -> str:
    rows = [
        [f"  {name}", safetext.one_line(str(value))]
        for name, value in facts.items()
        if not isinstance(value, dict | list)
    ]
    for one in facts.get("local") or ():
        said = one.get("problem") or f"confidence {one.get('confidence')}"
        rows.append([f"  {one.get('where')}", safetext.one_line(str(said))])
    for one in facts.get("backends") or ():
        fits = "fits" if one.get("fits") else "does not fit"
        said = (
            one.get("problem")
            or f"{fits} its {one.get('window')} tokens, at most {_usd(one.get('ceiling_usd'))}"
        )
        rows.append([f"  {one.get('name')}", safetext.one_line(str(said))])
    return "facts\n" + table(rows)


def cut_off(found: JsonObject, columns: int) -> str:
    """Requests that may go on, one a line, with how far they came."""
    rows = []
    for one in found.get("waiting") or ():
        steps, unknown = one["steps"], [step for step in one["steps"] if step["outcome"] == "unknown"]
        far = f"{len(steps)} steps" + (f", {len(unknown)} cut off" if unknown else "")
        text = safetext.one_line(f"{one['text']}  ({one['cwd']})")
        rows.append([safetext.one_line(str(one["id"])), far, text])
    if not rows:
        return "nothing was cut off that could go on\n"
    return table([["id", "came to", "request"], *rows], clip_last=columns)


def usage(found: JsonObject, columns: int) -> str:
    """A table by day and backend, a bar for each day, and what is left under each cap."""
    rows = found.get("days") or ()
    if not rows:
        return "nothing has left this machine yet\n" + _caps(found)
    head = [["day", "backend", "attempts", "tokens in", "out", "USD"]]
    body = [
        [
            str(row["day"]),
            safetext.one_line(str(row["backend"])),
            str(row["attempts"]) + ("*" if row["unsettled"] else ""),
            str(row["prompt_tokens"]),
            str(row["reply_tokens"]),
            f"{row['usd']:.6f}",
        ]
        for row in rows
    ]
    note = "* with attempts whose price is not known: counted as the most they can cost\n"
    starred = note if any(row["unsettled"] for row in rows) else ""
    return table(head + body) + starred + "\n" + _plot(rows, columns) + _caps(found)


def _plot(rows: Sequence[JsonObject], columns: int) -> str:
    """One bar a day, for two months also where nothing was spent; by tokens where all of it was free."""
    by_usd = any(row["usd"] for row in rows)
    named = sorted({date.fromisoformat(row["day"]) for row in rows})
    length = (named[-1] - named[0]).days + 1
    if length <= _MAX_FILLED_DAYS:
        named = [named[0] + timedelta(n) for n in range(length)]
    days = {str(day): 0.0 for day in named}
    for row in rows:
        spent = row["usd"] if by_usd else row["prompt_tokens"] + row["reply_tokens"]
        days[row["day"]] += spent
    most = max(days.values()) or 1.0
    width = max(10, min(_BAR_COLUMNS, columns - 30))
    lines = []
    for day, spent in days.items():
        bar = "█" * round(width * spent / most) or ("▏" if spent else "")
        said = f"{spent:.6f} USD" if by_usd else f"{spent:.0f} tokens"
        lines.append(f"{day}  {bar} {said}\n")
    return "".join(lines) + "\n"


def _caps(found: JsonObject) -> str:
    caps, left = found.get("caps") or {}, found.get("left") or {}
    rows = [[f"{name}", f"{cap:g}", f"{left.get(name, 0):.6g} left"] for name, cap in caps.items()]
    return "caps\n" + table([[f"  {name}", cap, rest] for name, cap, rest in rows])


def backends(found: JsonObject, columns: int) -> str:
    rows = [
        [
            safetext.one_line(str(one["name"])),
            safetext.one_line(str(one["model"])),
            str(one["window"]),
            f"{one['price_in'] or 0:g}/{one['price_out'] or 0:g}",
            f"key {one['key']}",
            "allowed: " + (", ".join(one["allowed"]) or "ask"),
            safetext.one_line(f"{one['url']} {one['problem']}".strip()),
        ]
        for one in found.get("backends") or ()
    ]
    if not rows:
        return "no backend is configured; docs/cloud.md says how to add one to config.toml\n"
    return table(
        [["name", "model", "window", "USD/M in/out", "key", "consent", "address"], *rows], clip_last=columns
    )


def changed(found: JsonObject) -> str:
    if "allowed" in found:
        what = "all requests" if found["kind"] == "*" else f"requests of the kind {found['kind']}"
        return f"{what} may go to {found['allowed']} unasked, for {found['days']:g} days\n"
    return f"{found.get('forgotten')} forgotten; you will be asked again\n"


def _usd(value: object) -> str:
    return f"{float(str(value or 0)):.6f} USD"
