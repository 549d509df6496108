"""What a sentence says of age, size and number, and whether the call has anything of it.

"Delete the logs older than a month": a call that deletes all logs is valid, and the worst of its mistakes.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection
from pathlib import PurePath

from llmos.messages import ToolCall

_MANY = r"(?:\d[\d.,]* ?|(?:an?|one|two|three|four|five|six|seven|eight|nine|ten|half an?) )"
_TIME = (
    r"(?:minutes?|mins?|h|hours?|d|days?|weeks?|months?|years?|yrs?|jahr\w*|tag\w*|mona\w*|mois|ans?|jours?"
    r"|años?|días?|mes\w*)"
)
_BYTES = r"(?:[kmgt]i?b?|megs?|gigs?|(?:kilo|mega|giga)?bytes?|megas?|gigas?|mo|go)"
_BEYOND = r"(?:over|above|beyond|under|below|(?:more|less|longer) than|at least|plus de|más de|mehr als|über)"
_ZH_TIME = r"(?:天|周|星期|礼拜|月|年|小时)"
_ZH_BYTES = r"\d ?(?:[kmgt]b?|兆)"

# What is said; the arguments one of which a call must have then.
_SAID: tuple[tuple[re.Pattern[str], frozenset[str]], ...] = (
    (
        re.compile(
            r"(?i)(?<!not )(?<!n't )\b(?:older|longer ago) (?:than|then|as)\b|\bälter als\b"
            r"|\bplus vieux que\b"
            r"|\b(?:not|n[’']t|never|un)(?: been| be)? ?(?:touched|changed|modified|opened|used)"
            r" (?:for|since|in)\b"
            rf"|\b{_BEYOND} {_MANY}{_TIME}\b"
            rf"|(?:超过|早于|[^\s最]{{1,3}})[^，。；]{{0,4}}{_ZH_TIME}(?:以?前的|没动|没改|以上没)"
        ),
        frozenset({"older_than"}),
    ),
    (
        re.compile(
            rf"(?i)\b(?:newer|younger|more recent) (?:than|then|as)\b|\bjünger als\b"
            rf"|\b(?:past|last) {_MANY}{_TIME}\b|最近[^，。；]{{1,4}}{_ZH_TIME}"
        ),
        frozenset({"newer_than", "older_than"}),
    ),
    (
        re.compile(
            rf"(?i)\b(?:bigger|larger|heavier|smaller) (?:than|then|as) {_MANY}|\b(?:größer|kleiner) als\b"
            rf"|\b{_BEYOND} {_MANY}{_BYTES}\b|(?:超过|大于|小于|不到|以上)[^，。；]{{0,6}}{_ZH_BYTES}"
        ),
        frozenset({"larger_than", "smaller_than", "sort"}),
    ),
    (
        re.compile(
            r"(?i)\b(?:old|new|larg|bigg|small)est\b|\blatest\b|\bmost recent\b"
            r"|\b(?:ält|neu|jüng|größ)este[nr]?\b|最[新旧早老大小]"
        ),
        frozenset({"sort", "keep_newest", "except"}),
    ),
)
_TOOLS = frozenset({"file.delete", "file.trash", "file.move", "file.copy"})
_AGES = ("older_than", "newer_than")
_NEWEST = re.compile(r"(?i)\b(?:newest|latest|most recent)\b|最新|最近")
_STAYS = re.compile(r"(?i)\b(?:ke(?:e?p|pt)\w*|stay\w*|leav\w+|but|except|spare\w*|remain\w*)\b|[留除]")
_MONTH = re.compile(r"(?i)\bmon(?:th|at)|\bmois\b|\bmes(?:es)?\b|月")


def neglected(text: str, call: ToolCall, touched: Collection[str] | None) -> str:
    """The words of age, size or number that a call for several files has nothing of, or has turned round;
    empty where there are none. `touched`: the paths that it changed when it was tried, where it was.
    """
    if call.tool not in _TOOLS or not _is_for_several(call, touched):
        return ""
    for said, wanted in _SAID:
        found = said.search(text)
        if found and not wanted & set(call.args) and found[0].casefold() not in str(call.args).casefold():
            return found[0].strip()
    if call.args.get("sort") == "newest" and call.tool != "file.copy" and _STAYS.search(text):
        return found[0] if (found := _NEWEST.search(text)) else ""
    if (month := _MONTH.search(text)) and any(str(call.args.get(name, "")).endswith("m") for name in _AGES):
        return month[0]  # `3m` is three minutes
    return ""


def _is_for_several(call: ToolCall, touched: Collection[str] | None) -> bool:
    path = PurePath(str(call.args.get("path", "")))
    pattern = path.name if set("*?") & set(path.name) else ""
    if touched is not None and pattern and len(_taken(call, pattern, touched)) < 2:
        return False
    whole = call.tool != "file.delete" and not path.suffix
    picks = {name for _, wanted in _SAID for name in wanted} & set(call.args)
    return bool(pattern or call.args.get("recursive") or whole or picks)


def _taken(call: ToolCall, pattern: str, touched: Collection[str]) -> list[str]:
    """Of what was changed what the pattern took in: not the trash, and not where it went."""
    into = PurePath(str(call.args.get("to", ""))).name
    return [
        path
        for path in touched
        if fnmatch.fnmatch(PurePath(path).name, pattern)
        and "/Trash/" not in path
        and (not into or into != PurePath(path).parent.name)
    ]
