"""The heads of files that a sentence names: the columns of a table, the keys of a configuration.

A model that is told them takes the name that is there; else it has to guess it from the sentence. They are
names that others may have chosen: cut short, without control characters, and never more than a few.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from llmos.toolbox.inside import settings
from llmos.toolbox.inside.numbers import number
from llmos.toolbox.inside.told import Refused

HEAD_BYTES = 1 << 15
MOST_FILES = 2
_MOST_NAMES, _MOST_CHARS = 14, 28
_MOST_LINE_CHARS = 200  # of a configuration; longer ones are no settings, and expressions take long over them
_MOST_CONTENTS, _MOST_CONTENTS_CHARS = 10, 160  # of a folder
_PATH = re.compile(r"[\w.+@%=~/-]+/[\w.+@%=-]+")
_SHORTEST = 3  # letters of a name without its ending that is looked for in a sentence
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_SETTINGS = (".ini", ".conf", ".cfg", ".yaml", ".yml", ".toml", ".env", ".properties")
_SEPARATORS = ",;\t|"


def named(say: str, entries: Iterable[str]) -> list[str]:
    """The first few tables and configurations whose names the sentence has, whole or without their ending.

    Where it has none, the only one that it has a word of ("the parents" of `2025_parents.csv`), or the only
    one of a kind that it speaks of: "the csv", "the settings".
    """
    words, there = say.casefold(), [name for name in [*_paths_in(say), *entries] if _has_head(name)]
    whole = [name for name in there if name.casefold() in words]
    if found := whole or [name for name in there if _said(name.casefold(), words)]:
        return found[:MOST_FILES]
    if len(partly := [name for name in there if _partly_said(name.casefold(), words)]) == 1:
        return partly
    kinds = [[name for name in there if name.casefold().endswith(endings)] for endings in _spoken_of(words)]
    return list(dict.fromkeys(kind[0] for kind in kinds if len(kind) == 1))[:MOST_FILES]


def _spoken_of(words: str) -> Iterator[tuple[str, ...]]:
    yield from (
        (ending,) for ending in (*TABLES, *_SETTINGS, ".json") if re.search(rf"\b{ending[1:]}\b", words)
    )
    if re.search(r"\b(?:table|spreadsheet)\b|表格", words):
        yield TABLES
    if re.search(r"\b(?:config|configuration|settings)\b|配置|设置", words):
        yield _SETTINGS


def _has_head(name: str) -> bool:
    return name.casefold().endswith((*TABLES, *_SETTINGS, ".json"))


def _said(name: str, words: str) -> bool:
    """Without its ending, with blanks for what joins its words or not, and in the singular."""
    stem = PurePath(name.strip(".")).stem.removesuffix("s")
    return any(_stands_in(one.strip(), words) for one in (stem, re.sub(r"[_-]+", " ", stem)))


def _partly_said(name: str, words: str) -> bool:
    """By one of the longer words that make its name, or by two characters of a Chinese one."""
    stem = PurePath(name.strip(".")).stem
    chinese = re.findall(r"(?=([\u4e00-\u9fff]{2}))", stem)
    parts = [part.removesuffix("s") for part in re.findall(r"[^\W\d_\u4e00-\u9fff]{4,}", stem)]
    return any(part in words for part in chinese) or any(_stands_in(part, words) for part in parts)


def _stands_in(stem: str, words: str) -> bool:
    if re.search(r"[\u4e00-\u9fff]", stem):  # no blanks between words, and two characters are one
        return len(stem) > 1 and stem in words
    return (
        len(stem) >= _SHORTEST and re.search(rf"(?<![^\W\u4e00-\u9fff]){re.escape(stem)}", words) is not None
    )


def line(name: str, names: Sequence[str], *, table: bool) -> str:
    """How a model reads it."""
    return f"{'Columns' if table else 'Settings'} of {name}: {', '.join(names)}"


def folders(say: str, entries: Iterable[str]) -> list[str]:
    """The first few of these names that the sentence has as a word, and paths in it; which are folders
    is for the caller to see.
    """
    words = say.casefold()
    found = [name for name in entries if len(name) > 1 and _is_word(name.casefold(), words)]
    return list(dict.fromkeys([*_paths_in(say), *found]))


def _paths_in(say: str) -> list[str]:
    """What may be paths below the folder one is in."""
    paths = (path.strip("/.") for path in _PATH.findall(say) if path[0] not in "/~" and ".." not in path)
    return [path for path in dict.fromkeys(paths) if "/" in path]


def _is_word(name: str, words: str) -> bool:
    if name not in words or re.search(r"[\u4e00-\u9fff]", name):
        return name in words
    return re.search(rf"(?<![^\W\u4e00-\u9fff]){re.escape(name)}(?![^\W\u4e00-\u9fff])", words) is not None


def contents(folder: str, names: Sequence[str]) -> str:
    """The line for a folder with these names in it, the first of them; empty where there is none."""
    shown: list[str] = []
    for name in names[:_MOST_CONTENTS]:
        if sum(map(len, shown)) + len(name) <= _MOST_CONTENTS_CHARS:
            plain = re.fullmatch(r"[\w.+@%=-]+", name)
            shown.append(name if plain else json.dumps(name, ensure_ascii=False))
    return f"Files in {folder}: {', '.join(shown)}" if shown else ""


def head(name: str, data: bytes) -> str:
    """The line for a file that begins so; empty where there is no head that can be read."""
    ending = PurePath(name).suffix.casefold()
    text = data.decode("utf-8-sig", "replace")
    try:
        table = ending in TABLES or (ending == ".json" and text.lstrip()[:1] == "[")
        found = _columns(text, ending) if table else _keys(text, name, whole=len(data) < HEAD_BYTES)
        names = list(dict.fromkeys(filter(None, map(_clean, found))))[:_MOST_NAMES]
    except (ValueError, RecursionError, Refused, csv.Error):
        return ""
    return line(name, names, table=table) if names else ""


def _columns(text: str, ending: str) -> list[str]:
    if ending not in (".csv", ".tsv"):
        first, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
        return list(_paths(first))
    top = next((row for row in text.splitlines() if row.strip()), "")
    separator = "\t" if ending == ".tsv" else max(_SEPARATORS, key=top.count)
    fields = next(csv.reader([top], delimiter=separator), [])
    plain = any(not field.strip() or number(field) is not None for field in fields)
    return [] if plain else fields  # rows from the first line on: there is no header


def _keys(text: str, name: str, *, whole: bool) -> Iterator[str]:
    if PurePath(name).suffix.casefold() == ".json":
        yield from _paths(json.loads(text))
        return
    lines = (text if whole else text.rpartition("\n")[0]).split("\n")
    short = "\n".join(line for line in lines if len(line) <= _MOST_LINE_CHARS)
    yield from (one.path for one in settings.known(short, name))


def _paths(value: Any, before: str = "") -> Iterator[str]:
    """Dotted paths of what is no object; of a list of objects those of its first."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, f"{before}{key}.")
    elif before:
        yield before[:-1]


def _clean(name: str) -> str:
    text = "".join(char if char.isprintable() else " " for char in name).strip()
    return text if len(text) <= _MOST_CHARS else ""
