"""What a sentence excepts, and whether the call spares it: "all but this" is easily lost or turned round."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePath

from llmos.messages import ToolCall

BUT_ZH = r"(?<![删清移去解排消扣])除"  # 删除 is to delete
_VERB = r"(?:touch|delete|remove|move|change|lose|unpack|take)"
_SPARED = re.compile(
    r"(?i)(?:\bexcept(?:ing)?(?: for)?|\b(?:excluding|other than|apart from|au(?:ß|ss)er|sauf|excepto|salvo)"
    rf"|\bbut not\b(?: {_VERB})?|(?:\bdo not|\bdon[’']?t) {_VERB})"
    r"\s*(?:the |file |folder )*[\"'`]?(?P<name>[\w.*?/-]*\w)"
    r"|(?i:\b(?:keep|besides)|保留)\s*(?:the |only )?(?P<kept>[\w-]+\.[\w.]*\w)"
    rf"|{BUT_ZH}(?:了|(?=[^，。；]{{1,30}}外))\s*[\"'`“”]?"
    r"(?P<zh>[\w.*?/-]*?\w)(?=[\s\"'`“”，。；,;]|[之以]?外|都|全|$)"
)

# "Clear out the .bak and .tmp, everything else is precious": whether what is named stays or goes.
_STAYS = re.compile(
    r"(?i)\b(?:exc\w+|exept|but|bar|barring|save|other than|otherwise|apart|aside|besides?|without|instead"
    r"|unless|kee?p\w*|kept|leav\w+|left|stay\w*|remain\w*|spar\w+|off|untouched|alone|surviv\w+|preserv\w+"
    r"|precious|important|need\w*|want\w*|still|not|isnt|arent|dont|doesnt|cannot|never|no|only|just|rest"
    r"|remainder|else|others?|whatever|anything|everything|all|holds?|minus|before|bleib\w*|behalt\w*"
    r"|au(?:ß|ss)er|nicht|ohne|nur|bis auf|la(?:ß|ss)\w*|sauf|pas|gard\w+|sans|seul\w*|reste\w*|excepto|salvo"
    rf"|menos|solo|qued\w*|dej\w*)\b|n[’']t\b|[留别不外剩保只莫甭]|{BUT_ZH}|其[余他它]"
)
_OTHERS_STAY = re.compile(
    r"(?i)\b(?:everything|anything|all) else\b[^,.;]{0,40}"
    r"\b(?:precious|stays?|remains?|untouched|important|alone|needed)\b"
    r"|\b(?:keep|leave|spare)\b[^,.;]{0,20}\b(?:everything|anything) else\b"
    r"|\bthe (?:rest|others?)\b[^,.;]{0,20}\b(?:stays?|remains?|precious|untouched)\b"
    r"|\b(?:keep|leave|spare) the (?:rest|others)\b|(?:其余|其他|其它|别的)[^，。；]{0,8}(?:留|别|不)"
)
_EXCEPTION = re.compile(rf"(?i)\b(?:except\w*|but|other than|apart|aside)\b|{BUT_ZH}")
_GOES = re.compile(
    r"(?i)\b(?:delet\w*|remov\w*|throw\w*|clear\w*|clean\w*|wip\w+|rid|trash\w*|bin|binned|toss\w*|purg\w*"
    r"|nuk\w+|eras\w*|ditch\w*|dump|away|lösch\w*|weg|supprim\w*|borr\w*)\b|[删清扔丢]"
)
_RUBBISH = re.compile(r"(?i)\b(?:rubbish|junk|garbage|leftovers?|crap|clutter|debris)\b")
_CLAUSES = re.compile(
    rf"[,;.:!?](?:\s+|$)|[，；。：！？]|(?={BUT_ZH})"
    r"|\s(?=(?:but|except|apart|other than|aber|außer|sauf|mais|menos|salvo|exept|excpet)\b)"
)

_NO_NAME = re.compile(
    r"a|an|and|any|ask|at|be|before|by|follow|for|from|go|have|here|if|in|into|it|make|not|of|on|or|over|overwrite|print"
    r"|replace|show|so|that|there|this|to|under|want|when|where|while|with|yet|folder|others?|\w+ly"
)
_THOSE = re.compile("those|ones?|them|first|last|empty")
_MYSELF = frozenset(("me", "myself", "我", "我自己"))
_SPARES = (" ! ", "-not", "-prune", "-v", "[^", "!=", "$!", "!~", "/!", "\\b", "1!", "2,$")  # of a shell line
_KNOWS = ("except", "where", "with", "without", "not_in", "also_in", "only", "keep_newest", "regex")
_OF_FILES = frozenset((
    "file.delete", "file.trash", "file.move", "file.copy", "file.archive", "file.permissions", "file.rename",
    "text.replace",
))  # fmt: skip
_FEW = 3  # letters: fewer are in too many names


def forgotten(
    text: str, call: ToolCall, touched: Collection[str] | None = None, others: Collection[ToolCall] = ()
) -> str:
    """What the words except and the call for several files has nothing of; empty where there is nothing.

    `touched`: the paths that it changed when it was tried, where it was; `others`: the request's other calls.
    """
    found = _SPARED.search(text) if _may_take_more(call) else None
    name = (found["name"] or found["kept"] or found["zh"]) if found else ""
    low = name.casefold()
    if not name or _NO_NAME.fullmatch(low) or low in str(call.args).casefold():
        return ""
    command = str(call.args.get("command", ""))
    if _THOSE.fullmatch(low) and (not command or any(sign in command for sign in _SPARES)):
        return ""
    if any(one.args.get("except") or low in str(one.args).casefold() for one in others):
        return ""
    if call.tool == "file.permissions" and low in _MYSELF:
        return ""
    return "" if touched is not None and _is_left(low, touched) else name


def _may_take_more(call: ToolCall) -> bool:
    """Whether it is for several files or lines, and has no words for what is left out."""
    if call.tool not in _OF_FILES:
        return call.tool == "shell.run"
    path = PurePath(str(call.args.get("path", "")))
    return not any(call.args.get(name) for name in _KNOWS) and bool(
        set("*?") & set(path.name) or not path.suffix
    )


def _is_left(name: str, touched: Collection[str]) -> bool:
    """Whether something beside what was changed is called so, and was not. Patterns do not tell which files
    they mean, nor do words for a kind of them ("the invoices").
    """
    if len(name) < _FEW or set("*?") & set(name) or any(name in path.casefold() for path in touched):
        return False
    folders = {Path(path).parent for path in touched}
    return any(
        name in one.name.casefold() for folder in folders if folder.is_dir() for one in folder.iterdir()
    )


def turned_round(text: str, call: ToolCall) -> bool:
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
