"""Calls that are valid and still cannot be what was meant: what a small model gets wrong again and again.

Nothing is allowed because of this. What is found here is read otherwise, asked about, or asked back.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePath

from llmos import hints
from llmos.daemon import measures
from llmos.messages import ToolCall

EVEN_ODDS = 0.0
ONLY_LOOKS = "your words sound as if something is only to be looked at, and this call changes something"

_SETTINGS = frozenset({".yaml", ".yml", ".json", ".toml", ".ini", ".conf", ".cfg", ".env", ".properties"})
_KEY = re.compile(r"[A-Za-z][\w.-]*")
_VALUE = re.compile(r"(?i)true|false|on|off|yes|no|null|none|-?\d+(?:\.\d+)?|[:=]?")
_SPARED = re.compile(
    r"(?i)(?:\bexcept(?:ing)?(?: for)?|\b(?:but|do) not(?: touch)?|\b(?:other than|apart from)|除了?)"
    r"\s*(?:the |file |folder )*[\"'`]?(?P<name>[\w.*?/-]*\w)"
)

# "Clear out the .bak and .tmp, everything else is precious": whether what is named stays or goes.
_STAYS = re.compile(
    r"(?i)\b(?:exc\w+|exept|but|bar|barring|save|other than|otherwise|apart|aside|besides?|without|instead"
    r"|unless|kee?p\w*|kept|leav\w+|left|stay\w*|remain\w*|spar\w+|off|untouched|alone|surviv\w+|preserv\w+"
    r"|precious|important|need\w*|want\w*|still|not|isnt|arent|dont|doesnt|cannot|never|no|only|just|rest"
    r"|remainder|else|others?|whatever|anything|everything|all|holds?|minus|before|bleib\w*|behalt\w*"
    r"|au(?:ß|ss)er|nicht|ohne|nur|bis auf|la(?:ß|ss)\w*|sauf|pas|gard\w+|sans|seul\w*|reste\w*|excepto|salvo"
    r"|menos|solo|qued\w*|dej\w*)\b|n[’']t\b|[除留别不外剩保只莫甭]|其[余他它]"
)
_OTHERS_STAY = re.compile(
    r"(?i)\b(?:everything|anything|all) else\b[^,.;]{0,40}"
    r"\b(?:precious|stays?|remains?|untouched|important|alone|needed)\b"
    r"|\b(?:keep|leave|spare)\b[^,.;]{0,20}\b(?:everything|anything) else\b"
    r"|\bthe (?:rest|others?)\b[^,.;]{0,20}\b(?:stays?|remains?|precious|untouched)\b"
    r"|\b(?:keep|leave|spare) the (?:rest|others)\b|(?:其余|其他|其它|别的)[^，。；]{0,8}(?:留|别|不)"
)
_EXCEPTION = re.compile(r"(?i)\b(?:except\w*|but|other than|apart|aside)\b|除")
_GOES = re.compile(
    r"(?i)\b(?:delet\w*|remov\w*|throw\w*|clear\w*|clean\w*|wip\w+|rid|trash\w*|bin|binned|toss\w*|purg\w*"
    r"|nuk\w+|eras\w*|ditch\w*|dump|away|lösch\w*|weg|supprim\w*|borr\w*)\b|[删清扔丢]"
)
_RUBBISH = re.compile(r"(?i)\b(?:rubbish|junk|garbage|leftovers?|crap|clutter|debris)\b")
_CLAUSES = re.compile(
    r"[,;.:!?](?:\s+|$)|[，；。：！？]|(?=除)"
    r"|\s(?=(?:but|except|apart|other than|aber|außer|sauf|mais|menos|salvo|exept|excpet)\b)"
)


def _is_left(name: str, touched: Collection[str]) -> bool:
    """Whether that is a file beside what was changed, and was not. Patterns and other words ("the invoices")
    do not tell which files they mean.
    """
    if (
        "." not in name
        or set("*?") & set(name)
        or any(name.casefold() in path.casefold() for path in touched)
    ):
        return False
    return any((folder / name).is_file() for folder in {Path(path).parent for path in touched})


def misfit(call: ToolCall) -> str:
    """Why nobody means this call; empty where somebody may.

    `debug: true` in which debug becomes false is `false: true`: what was meant is the setting's value.
    """
    if call.tool != "text.replace" or PurePath(str(call.args.get("path", ""))).suffix not in _SETTINGS:
        return ""
    find, replace = str(call.args.get("find", "")), str(call.args.get("replace", ""))
    if not _KEY.fullmatch(find) or _VALUE.fullmatch(find) or not _VALUE.fullmatch(replace):
        return ""
    return f"it would put {replace!r} in the place of the name {find!r}, and not set its value"


def doubt(text: str, call: ToolCall, touched: Collection[str] | None = None) -> str:
    """What in a person's words speaks against a call that changes something; empty where nothing does.

    `touched`: the paths that it changed when it was tried, where it was.
    """
    # The same call without that word only shows: it is too easily said in passing.
    in_passing = call.tool == "text.lines" and call.args.get("in_place")
    if hints.only_looks(text, EVEN_ODDS if in_passing else hints.SURELY_LOOKS):
        return ONLY_LOOKS
    if call.tool in ("file.delete", "file.trash") and _turned_round(text, call):
        return "your words sound as if what it would leave is what is to go"
    if said := measures.neglected(text, call, touched):
        return f"you said {said!r}, and this call takes no account of it"
    spared = None if call.args.get("except") else _SPARED.search(text)
    if spared is None or spared["name"].casefold() in str(call.args).casefold():
        return ""
    if touched is not None and _is_left(spared["name"], touched):
        return ""
    return f"you named an exception ({spared['name']}), and this call knows of none"


def _turned_round(text: str, call: ToolCall) -> bool:
    """Whether what is excepted is named where the words speak of what goes."""
    spared = call.args.get("except")
    if not isinstance(spared, list) or not spared:
        return False
    if not _STAYS.search(text) or (_OTHERS_STAY.search(text) and not _EXCEPTION.search(text)):
        return True
    clauses = [part for part in _CLAUSES.split(text.casefold()) if part and part.strip()]
    taken_in = _stems(str(call.args.get("path", "")))
    for name in map(str, spared):
        own = _stems(name) - taken_in
        where = [clause for clause in clauses if any(stem in clause for stem in own)]
        if where and all(map(_is_of_what_goes, where)):
            return True
    return False


def _is_of_what_goes(clause: str) -> bool:
    return bool(_RUBBISH.search(clause) or (_GOES.search(clause) and not _STAYS.search(clause)))


def _stems(pattern: str) -> set[str]:
    """What of a name or pattern a sentence may have."""
    return set(re.findall(r"[^\W\d_]{2,}|\d+|~", pattern.casefold()))
