"""Columns and keys of the files that a row's request names, as a request is given them (`toolbox.glance`).

Those that the calls use are among them, with others. Some have another name than the person says: the model
is to take the name that is there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmos.toolbox import glance
from llmos.tune.data.names import words

OTHERWISE = 0.3  # of the rows, in which a column is called by another name than in the sentence
_NO_HEAD = 0.1  # of the files: rows without a header, or something that cannot be read
_WORD = re.compile(r"[^\W\d]\w*(?:[.\-]\w+)*")
_PARTS = re.compile(r"[,*+/]|\s-\s")  # also of `sum(price * qty)`
_AROUND = re.compile(r"^-?\s*(?:\w+\s*\(\s*)?(?:distinct\s+)?", re.IGNORECASE)
_PLACES = ("select", "group", "sum", "sort")
_NO_COLUMNS = frozenset(
    (
        *("count", "and", "or", "not", "is", "in", "like", "between", "empty", "contains", "starts", "ends"),
        *("with", "desc", "asc", "distinct", "null"),
    )
)
_HEADS = words()["heads"]
_COLUMNS, _ZH_COLUMNS, _KEYS = (_HEADS[kind].split() for kind in ("columns", "zh_columns", "keys"))
_ALIKE = {key: others.split() for key, others in _HEADS["alike"].items()}


def with_heads(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The row as it is asked where its files stand: with their heads, in which some columns are renamed."""
    names = glance.named(row["say"], row["entries"] or ()) if row["kind"] == "call" else []
    if not names or "heads" in row:
        return row
    calls, lines = [dict(call) for call in row["calls"]], []
    for name in names:
        used = [key for call in calls if call["args"].get("path") == name for key in _used(call)]
        if not used and rng.random() < _NO_HEAD:
            continue
        if used and rng.random() < OTHERWISE and (other := _other_name(used, row["say"], rng)):
            calls = [_renamed(call, *other) if call["args"].get("path") == name else call for call in calls]
            used = [other[1] if key == other[0] else key for key in used]
        gone = {key for call in row["calls"] for key in _used(call)} - set(used)
        lines.append(_line(name, used, gone, calls, rng))
    return row | {"calls": calls, "heads": lines}


def given(
    heads: Mapping[str, Sequence[str]], say: str, entries: Sequence[str], calls: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """`heads` as a row has them, of the files that it names; nothing where none is given."""
    names = [name for name in glance.named(say, entries) if name in heads]
    lines = [glance.line(name, heads[name], table=_is_table(name, calls, heads[name])) for name in names]
    return {"heads": lines} if lines else {}


def _is_table(name: str, calls: Sequence[Mapping[str, Any]], used: Sequence[str]) -> bool:
    """By its ending; of JSON by what is asked of it."""
    if not name.casefold().endswith(".json"):
        return name.casefold().endswith(glance.TABLES)
    asked = [call["tool"] for call in calls if call["args"].get("path") == name]
    return (
        any(tool in ("text.query", "text.export", "text.update", "text.columns") for tool in asked)
        or not used
    )


def _line(
    name: str, used: Sequence[str], gone: set[str], calls: Sequence[Mapping[str, Any]], rng: random.Random
) -> str:
    """With others, but none of those that are `gone`."""
    table = _is_table(name, calls, used or ([] if rng.random() < 0.4 else [name]))
    chinese = any(re.search(r"[\u4e00-\u9fff]", text) for text in (name, *used))
    pool = [
        word
        for word in (_ZH_COLUMNS if chinese and table else _COLUMNS if table else _KEYS)
        if word not in used and word not in gone
    ]
    others = rng.sample(pool, rng.randint(1, 7))
    if rng.random() < 0.15 and table and not chinese:
        others = [word.title() for word in others]
    found = list(dict.fromkeys([*used, *others]))
    rng.shuffle(found)
    return glance.line(name, found, table=table)


def _used(call: Mapping[str, Any]) -> list[str]:
    """The columns or keys that a call names."""
    args = call["args"]
    match call["tool"]:
        case "text.set":
            found = [str(args["key"])]
        case "text.columns":
            found = [str(column) for column in args.get("columns", ())]
        case "text.query" | "text.export":
            texts = [str(args[key]) for key in _PLACES if args.get(key)]
            found = [_bare(part) for text in texts for part in _PARTS.split(text)]
            found += _of_condition(str(args.get("where") or ""))
        case "text.update":
            found = _of_condition(f"{args.get('set') or ''} {args.get('where') or ''}")
        case _:
            found = []
    return [
        word for word in dict.fromkeys(found) if _WORD.fullmatch(word) and word.casefold() not in _NO_COLUMNS
    ]


def _bare(part: str) -> str:
    """`-amount`, `avg(amount`, `count(distinct amount)`, `amount desc`: amount."""
    return _AROUND.sub("", part.strip()).strip("-) ").split(" ")[0]


def _of_condition(where: str) -> list[str]:
    """What stands before a sign or a word that compares."""
    return re.findall(
        r"([^\W\d][\w.\-]*)\s*(?:[=<>!]|(?:not )?(?:is|in|like|between|contains|starts|ends)\b)", where
    )


def _other_name(used: Sequence[str], say: str, rng: random.Random) -> tuple[str, str] | None:
    """A column and what else it may be called."""
    known = [key for key in used if key.casefold() in _ALIKE]
    if not known:
        return None
    key = rng.choice(known)
    others = [word for word in _ALIKE[key.casefold()] if word not in used and word not in say]
    return (key, rng.choice(others)) if others else None


def _renamed(call: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    args = dict(call["args"])
    pattern = re.compile(rf"(?<![\w.\"'-]){re.escape(old)}(?![\w\"'])")
    for key in (*_PLACES, "where", "set", "key"):
        if isinstance(args.get(key), str) and not (key in ("where", "set") and _is_value(old, args[key])):
            args[key] = (
                pattern.sub(new, args[key])
                if key != "sort"
                else re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, args[key])
            )
    if "columns" in args:
        args["columns"] = [new if column == old else column for column in args["columns"]]
    return {"tool": call["tool"], "args": args}


def _is_value(word: str, where: str) -> bool:
    return re.search(rf"[=<>]\s*[\"']?{re.escape(word)}\b", where) is not None
