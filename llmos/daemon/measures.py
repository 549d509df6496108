"""What a sentence says of age, size, number and kind, and whether the call has anything of it.

"Delete the logs older than a month": a call that deletes all logs is valid, and the worst of its mistakes.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator
from pathlib import PurePath

from llmos.daemon.spared import BUT_ZH
from llmos.messages import ToolCall

_MANY = (
    r"(?:\d[\d.,]* ?|(?:an?|one|two|three|four|five|six|seven|eight|nine|ten|half an?"
    r"|einen?|einem|einer|zwei|drei|une?|deux|trois|una?|dos|tres) |d['’]une? )"
)
_TIME = (
    r"(?:minutes?|mins?|h|hours?|d|days?|weeks?|months?|years?|yrs?|jahr(?:e|en|es)?|tage?n?|wochen?|monat(?:e|en|s)?"
    r"|mois|ans?|jours?|semaines?|años?|días?|semanas?|mes(?:es)?)"
)
_BYTES = r"(?:[kmgt]i?b?|megs?|gigs?|(?:kilo|mega|giga)?bytes?|megas?|gigas?|[mg]o)"
_BEYOND = (
    r"(?:over|above|beyond|under|below|(?:more|less|longer) than|at least|(?:de )?plus (?:de )?"
    r"|(?:de )?más de|mehr als|über)"
)
_ZH_MANY = r"[\d一二三四五六七八九十两半几]{1,3}\s*个?"
_ZH_TIME = rf"{_ZH_MANY}(?:天|周|星期|礼拜|月|年|小时)"
_ZH_BYTES = r"\d\s?(?:[kmgt]b?|兆)"

_OLD = re.compile(
    r"(?i)(?<!not )(?<!n't )\b(?:older|longer ago) (?:than|then|as)\b|\bälter als\b"
    r"|\bplus (?:vieux|vieil\w*|anciens?|anciennes?) qu|\bmás (?:antigu|viej)[oa]s? (?:que|de)\b"
    r"|(?:\bnot|\bnever|\bun|n[’']t)(?: been| be)? ?(?:touched|changed|modified|opened|used)"
    r" (?:for|since|in)\b(?! ages)"
    rf"|\b{_BEYOND} ?{_MANY}{_TIME}\b"
    rf"|(?:超过|早于){_ZH_TIME}|{_ZH_TIME}(?:[以之]?前的|以上|没动|没改|没用|没碰|未动)"
)
_NEW = re.compile(
    rf"(?i)\b(?:newer|younger|more recent) (?:than|then|as)\b|\bjünger als\b|\b(?:past|last) {_MANY}{_TIME}\b"
    rf"|最近{_ZH_TIME}"
)
_LARGE = re.compile(
    rf"(?i)\b(?:bigger|larger|heavier|smaller) (?:than|then|as) {_MANY}|\b(?:größer|kleiner) als\b"
    r"|\bplus (?:gros|grand|petit)\w* qu|\bmás (?:grande|pequeñ)\w* (?:que|de)\b"
    rf"|\b{_BEYOND} ?{_MANY}{_BYTES}\b|(?:超过|大于|小于|不到)\s?[\d.]*{_ZH_BYTES}|{_ZH_BYTES}以[上下]"
)
_FIRST = re.compile(
    r"(?i)\b(?:old|new|larg|bigg|small)est\b(?! version)|\bmost recent\b|\b(?:ält|neu|jüng|größ)este[nr]?\b"
    r"|\blatest (?:\d+|two|three|four|five|ones?|of)\b"
    r"|\blast (?:two|three|four|five|\d+)\b(?! ?(?:\w*day|week|month|year|hour|min))"
    r"|\bplus récente?s?\b|\bmás (?:reciente|nuev|viej)\w*\b|最[新旧早老大小]"
)
# What is said; the arguments one of which a call must have then.
_SAID: tuple[tuple[re.Pattern[str], frozenset[str]], ...] = (
    (_OLD, frozenset({"older_than"})),
    (_NEW, frozenset({"newer_than", "older_than"})),
    (_LARGE, frozenset({"larger_than", "smaller_than", "sort"})),
    (_FIRST, frozenset({"sort", "keep_newest", "except"})),
)
_TOOLS = frozenset({"file.delete", "file.trash", "file.move", "file.copy"})
_AGES = ("older_than", "newer_than")
_NEWEST = re.compile(r"(?i)\b(?:newest|latest|most recent)\b|最新|最近")
_STAYS = re.compile(rf"(?i)\b(?:ke(?:e?p|pt)\w*|stay\w*|leav\w+|but|except|spare\w*|remain\w*)\b|留|{BUT_ZH}")
_MONTH = re.compile(r"(?i)\bmon(?:ths?|ate?n?)\b|\bmois\b|\bmes(?:es)?\b|个月")
_PICTURES = frozenset({"jpg", "jpeg", "png", "gif", "webp", "heic", "tif", "tiff", "bmp", "svg"})
_VIDEOS = frozenset({"mp4", "mkv", "mov", "avi", "webm"})
_KINDS = (
    (re.compile(r"(?i)\b(?:pictures?|photos?|images?)\b|[照图]片"), _PICTURES),
    (re.compile(r"(?i)\bvideos?\b|视频"), _VIDEOS),
)
_KIND = re.compile(
    r"(?i)(?<![\w.*/])\.?(pdf|jpe?g|png|gif|docx?|xlsx?|pptx?|odt|csv|txt|mp3|mp4|wav|bak|tmp|html?)s?\b(?![/_-])"
)
_MINUTE = re.compile(r"(?i)\bmin|分钟")


def neglected(
    text: str, call: ToolCall, touched: Collection[str] | None, others: Collection[ToolCall] = ()
) -> str:
    """The words of age, size or number that a call for several files has nothing of, or has turned round;
    empty where there are none. `touched`: the paths that it changed when it was tried, where it was;
    `others`: the request's other calls, of which one may be what the words are about.
    """
    if call.tool not in _TOOLS or not _is_for_several(call, touched):
        return ""
    kept = bool(_STAYS.search(text))
    for said, wanted in _SAID:
        found = said.search(text)
        if not found or found[0].casefold() in str(call.args).casefold():
            continue
        turned = kept and said is _OLD and "newer_than" in call.args  # "what is older stays"
        if not turned and not any(wanted & set(one.args) for one in (call, *others)):
            return found[0].strip()
    by_newest = call.args.get("sort") == "newest" and not call.args.get("except")
    if by_newest and kept and call.tool != "file.copy":
        return found[0] if (found := _NEWEST.search(text)) else ""
    month = _MONTH.search(text)
    if (
        month
        and not _MINUTE.search(text)
        and any(str(call.args.get(name, "")).endswith("m") for name in _AGES)
    ):
        return month[0]  # `3m` is three minutes
    return ""


def of_any_kind(
    text: str, call: ToolCall, touched: Collection[str] | None, others: Collection[ToolCall] = ()
) -> str:
    """The kind of files that the words name, where a call takes whatever is in a folder ("the pdfs", `*`)."""
    if call.tool not in _TOOLS or PurePath(str(call.args.get("path", ""))).name != "*":
        return ""
    if call.args.get("except"):
        return ""
    for word, endings in _kinds_in(text):
        if any(word.casefold() in str(one.args).casefold() for one in (call, *others)):
            continue
        taken = _taken(call, "*", touched) if touched is not None else []
        if not taken or any(PurePath(path).suffix[1:].casefold() not in endings for path in taken):
            return word
    return ""


def _kinds_in(text: str) -> Iterator[tuple[str, Collection[str]]]:
    for said, endings in _KINDS:
        if found := said.search(text):
            yield found[0], endings
    for found in _KIND.finditer(text):
        yield found[1], {found[1].casefold(), *(_PICTURES if found[1].casefold() in _PICTURES else ())}


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
