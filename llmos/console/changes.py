"""Changes as a person reads them: a line for each file, a diff below it, the totals at the end. Pure.

Names and text come from files and commands: every character that could lie to a terminal is made visible.
"""

from __future__ import annotations

from typing import Any

from llmos.console import safetext
from llmos.console.look import Look
from llmos.console.words import tr

JsonObject = dict[str, Any]

MAX_LINES = 60  # of all changes in one question; what is left out is counted
_MARKS = {
    "created": ("+", "green"),
    "modified": ("~", "yellow"),
    "deleted": ("-", "red"),
    "renamed": (">", "cyan"),
    "attributes": ("~", "yellow"),
}
COUNTED = {
    "created": "{count} created",
    "modified": "{count} modified",
    "deleted": "{count} deleted",
    "renamed": "{count} renamed",
}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def lines(told: JsonObject, look: Look, *, limit: int = MAX_LINES) -> list[str]:
    """Every change, its diff, and what the whole comes to."""
    found: list[str] = []
    for item in told.get("items") or ():
        found.append(_line(item, look))
        found += [f"    {line}" for line in _diff(str(item.get("diff") or ""), look)]
    more = len(found) - limit
    if more > 0:
        found = [
            *found[:limit],
            look.style("dim", tr("… {count} more lines; x shows all").format(count=more)),
        ]
    if hidden := int(told.get("more") or 0):
        found.append(look.style("dim", tr("… and {count} more").format(count=hidden)))
    for item in told.get("left_out") or ():
        why = f"{tr('left out:')} {item.get('path')}: {item.get('reason')}"
        found.append(look.style("yellow", safetext.one_line(why)))
    return [*found, look.style("bold", totals(told))]


def totals(told: JsonObject) -> str:
    """`2 created, 1 deleted; 120 bytes more`."""
    parts = [tr(word).format(count=told[kind]) for kind, word in COUNTED.items() if told.get(kind)]
    attributes = sum(item.get("change") == "attributes" for item in told.get("items") or ())
    if not parts:
        return (
            tr("{count} changed in mode, owner or time").format(count=attributes)
            if attributes
            else tr("it changes no file")
        )
    grown = int(told.get("bytes_after") or 0) - int(told.get("bytes_before") or 0)
    if grown:
        grew = tr("{size} more") if grown > 0 else tr("{size} less")
        parts[-1] += "; " + grew.format(size=size(abs(grown)))
    return ", ".join(parts)


def size(num_bytes: int) -> str:
    value, unit = float(num_bytes), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return tr("{count} bytes").format(count=num_bytes) if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def _line(item: JsonObject, look: Look) -> str:
    mark, style = _MARKS.get(str(item.get("change")), ("?", "bold"))
    slash = "/" if item.get("kind") == "folder" else ""
    name = safetext.one_line(str(item.get("path"))) + slash
    if item.get("from"):
        name = f"{safetext.one_line(str(item['from']))} → {name}"
    if item.get("kind") == "link":
        name += f" → {safetext.one_line(str(item.get('target')))}"
    facts = [fact for fact in (_inside(item), _sizes(item), *_attributes(item)) if fact]
    return look.style(style, f"{mark} {name}") + (look.style("dim", f"  {', '.join(facts)}") if facts else "")


def _inside(item: JsonObject) -> str:
    entries = int(item.get("entries") or 0)
    counted = tr("with {count} entry in it") if entries == 1 else tr("with {count} entries in it")
    return counted.format(count=entries) if entries else ""


def _sizes(item: JsonObject) -> str:
    before, after = item.get("bytes_before"), item.get("bytes_after")
    if item.get("change") in ("renamed", "attributes"):
        return ""
    if before is not None and after is not None:
        return f"{size(int(before))} → {size(int(after))}" if before != after else size(int(after))
    known = after if after is not None else before
    return "" if known is None else size(int(known))


def _attributes(item: JsonObject) -> list[str]:
    found = []
    for name in ("mode", "owner"):
        if f"{name}_before" in item:
            found.append(f"{name} {item[f'{name}_before']} → {item[f'{name}_after']}")
    if item.get("xattrs"):
        found.append(f"attributes {safetext.one_line(', '.join(map(str, item['xattrs'])))}")
    if item.get("kind_before"):
        found.append(f"was a {item['kind_before']}")
    if item.get("change") == "attributes" and not found:
        found.append("time")
    return found


def _diff(text: str, look: Look) -> list[str]:
    styles = {"+": "green", "-": "red", "@": "cyan"}
    return [
        look.style(styles.get(line[:1], "dim"), safetext.exact(line.replace("\t", "    ")))
        for line in text.split("\n")
        if line
    ]
