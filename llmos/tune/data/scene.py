"""The folder a sentence is said in: names that the call needs, and others beside them.

At run time the prompt lists names of the current folder, newest first. A model learns to copy from that
list only if it sees lists in training: with the named file in it, mostly, and sometimes without.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from llmos.tune.data.names import forms, words

_PATH_ARGS = ("path", "to", "archive", "source", "target", "file", "folder", "a", "b")
_WORD = re.compile(r"[\w.@%+-]+")


def piped(like: str, rng: random.Random) -> str:
    """Piped data of the same kind as `like`."""
    numbers = like[0].isdigit() and "," not in like
    return str(rng.choice(forms()["piped"]["json" if like[0] in "{[" else "numbers" if numbers else "lines"]))


def entries(
    rng: random.Random, say: str, calls: Sequence[dict[str, Any]], here: Sequence[str], *, must: bool
) -> list[str] | None:
    """Names in the folder, or None: a quarter of the requests are made without a list."""
    if not must and rng.random() < 0.25:
        return None
    made = _made(calls)
    wanted = [
        name for name in dict.fromkeys([*here, *_mentioned(say, calls)]) if _plain(name) and name not in made
    ]
    if not must and rng.random() < 0.08:
        wanted = []
    names = list(dict.fromkeys([*wanted, *_others(rng, rng.choice([2, 4, 5, 6, 8, 10, 14, 18]), made)]))
    rng.shuffle(names)
    return names[:24] if len(wanted) < 20 else wanted[:24]


def _plain(name: str) -> bool:
    return bool(name) and name not in (".", "..", "~", "!", "*") and not re.search(r"[/*?\n\t]", name)


def _made(calls: Sequence[dict[str, Any]]) -> set[str]:
    """Names that the calls create: they are not there before."""
    made: set[str] = set()
    for call in calls:
        tool, args = call["tool"], call["args"]
        if tool == "file.write" and args.get("mode", "create") == "create":
            made.add(str(args.get("path", "")).split("/")[0])
        elif tool == "file.archive" and args.get("action") == "create":
            made.add(str(args.get("archive", "")).split("/")[0])
        elif (
            tool in ("file.move", "file.copy")
            and not str(args.get("to", "")).endswith("/")
            and not args.get("overwrite")
        ):
            made.add(str(args.get("to", "")).split("/")[0])
        elif tool == "shell.run":
            made |= set(re.findall(r"(?:mkdir(?: -p)?|>|-o) ([\w.-]+)", str(args.get("command", ""))))
    return made


def _mentioned(say: str, calls: Sequence[dict[str, Any]]) -> list[str]:
    """First parts of the relative paths in the calls' arguments, and file names in a shell command."""
    found: list[str] = []
    for call in calls:
        args = call["args"]
        for name in _PATH_ARGS:
            value = args.get(name)
            if isinstance(value, str) and not value.startswith(("/", "~", "-")):
                found.append(value.removeprefix("./").split("/")[0])
        if call["tool"] == "shell.run":
            found += [w for w in _WORD.findall(str(args.get("command", ""))) if "." in w[1:-1] and w in say]
    return [name for name in found if name]


def _others(rng: random.Random, count: int, made: set[str]) -> list[str]:
    w = words()
    stems = w["stems"].split()
    exts = [*w["ext"]["text"], *w["ext"]["code"], *w["ext"]["binary"]]
    names: list[str] = []
    for _ in range(count):
        dice = rng.random()
        if dice < 0.25:
            names.append(rng.choice(forms()["scene"]["common"]))
        elif dice < 0.45:
            names.append(rng.choice(w["dirs"]["relative"].split()))
        elif dice < 0.55:
            names.append(f"{rng.choice(w['joined'].split())}.{rng.choice(exts)}")
        elif dice < 0.58:
            names.append(f"{rng.choice(stems)} {rng.choice(stems)}.{rng.choice(exts)}")
        elif dice < 0.6:
            names.append(f"{rng.choice(w['cjk'])}.{rng.choice(exts)}")
        else:
            names.append(f"{rng.choice(stems)}.{rng.choice(exts)}")
    return [name for name in names if name not in made]
