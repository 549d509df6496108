"""What is in the folders that a row's request names, as a request is told it (`toolbox.glance`).

The names that the calls use in such a folder are among them, and what their patterns take in; the others are
of kinds that no pattern speaks of.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmos.planner.copying import strings
from llmos.toolbox import glance
from llmos.tune.data.names import words

_LEFT_OUT = 0.25  # of the rows: a request is understood without, too
_OTHERS = (
    *("README", "old", "misc", "todo.odt", "budget.ods", "song.flac", "disk.iso", "backup"),
    *("LICENSE", "drafts", "draft.tex", "model.stl", "archive.7z", "index.db", "notes.rtf", "sketch.svgz"),
)
_PLAIN = ("{}.txt", "{}.md", "{}_2024.txt", "{} 1.txt", "{}.pdf", "{}.odt", "{}-old.txt", "{}.log")
_ENDINGS = (".txt", ".jpg", ".pdf", ".csv", ".log")
_MADE = frozenset({"file.mkdir", "file.write"})
_ENDING = re.compile(r"\.[A-Za-z]\w{0,4}$")
_QUOTED = re.compile(r"-i?name ('[^']*'|\S+)")


def with_folders(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The row as it is asked where its folders stand: with what is in those that it names."""
    if row["kind"] != "call" or rng.random() < _LEFT_OUT:
        return row
    named = glance.folders(row["say"], row["entries"] or ())
    there = [folder for folder in named if _is_folder(folder, row["calls"])][: glance.MOST_FILES]
    lines = [_line(folder, row["calls"], rng) for folder in there]
    return row | {"heads": [*row.get("heads", ()), *lines]} if lines else row


def _is_folder(name: str, calls: Sequence[Mapping[str, Any]]) -> bool:
    """As the calls show: something is in it, or goes into it; or it is looked through. Not a new one."""
    if _ENDING.search(name) or any(
        call["tool"] == "file.mkdir" and call["args"].get("path", "").rstrip("/") == name for call in calls
    ):
        return False
    inside = re.compile(rf"(?:^|[\s'\"]){re.escape(name)}/")
    through = re.compile(rf"(?:^|\s)(?:find|ls|du|cd|tree|tar|zip)\b[^|;]*\s'?{re.escape(name)}'?(?:\s|$)")
    texts = [text for call in calls for text in strings(call["args"].values())]
    return any(inside.search(text) or through.search(text) for text in texts) or any(
        call["args"].get("path") == name and _looks_through(call) for call in calls
    )


def _looks_through(call: Mapping[str, Any]) -> bool:
    args = call["args"]
    folders = call["tool"] in ("file.list", "file.find", "file.tree", "file.usage", "file.duplicates")
    return folders or bool(args.get("name") or args.get("recursive") or args.get("except"))


def _line(folder: str, calls: Sequence[Mapping[str, Any]], rng: random.Random) -> str:
    names = [name for call in calls for pattern in _patterns(folder, call) for name in _fitting(pattern, rng)]
    if not names:
        names = [rng.choice(_PLAIN).format(_stem(rng)) for _ in range(rng.randint(2, 5))]
    names += rng.sample(_OTHERS, rng.choice((0, 0, 1, 1, 2, 3)))
    names = list(dict.fromkeys(names))
    rng.shuffle(names)
    return glance.contents(folder, names)


def _patterns(folder: str, call: Mapping[str, Any]) -> Iterator[str]:
    """The names and patterns in the folder that are there before the call."""
    args = call["args"]
    if call["tool"] in _MADE:
        return
    for key, value in args.items():
        if isinstance(value, str) and key not in ("to", "command") and value.startswith(f"{folder}/"):
            yield value[len(folder) + 1 :].split("/")[0]
    path = str(args.get("path") or "")
    if path == folder or path.startswith(f"{folder}/"):
        yield from args.get("except") or ()
        yield from [str(args["name"])] if args.get("name") else ()
    command = str(args.get("command") or "")
    if re.search(rf"\bfind '?{re.escape(folder)}\b", command):
        yield from (name.strip("'") for name in _QUOTED.findall(command))
    for before, name in re.findall(rf"(\S*) ?'?{re.escape(folder)}/([\w.*?-]+)", command):
        yield from () if before.endswith((">", "-t", "-p")) else (name,)


def _fitting(pattern: str, rng: random.Random) -> list[str]:
    """Some names that a pattern takes in; a name is itself."""
    if not set("*?") & set(pattern):
        return [pattern] if pattern.strip(".") else []
    if pattern.strip("*.") == "":
        return []
    found = []
    for _ in range(rng.randint(1, 3)):
        name = re.sub(
            r"[*?]", lambda sign: _stem(rng) if sign[0] == "*" else rng.choice("0123456789"), pattern
        )
        found.append(name if "." in name.strip(".") else name + rng.choice(_ENDINGS))
    return found


def _stem(rng: random.Random) -> str:
    return str(
        rng.choice(
            (rng.choice(words()["stems"].split()), f"{rng.randint(1, 4000):04d}", str(rng.randint(1, 30)))
        )
    )
