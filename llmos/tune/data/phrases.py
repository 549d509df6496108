"""Phrase files: many ways to say one call, as plain text that is written and read quickly.

    ## file.delete {"path": "{file}"}            the calls that the lines below mean; ` ;; ` joins several
    (delete|remove|rm) {file}                    one way to say it; (a|b|) is one of these
    zh| 删除 {file}                               in another language
    =: print the sum => shell.run …              (handwritten files) a pair of its own
    @data a\\nb\\n                                 the lines below are asked with this piped in
    @files a.txt, src                            the lines below are asked where these files stand
    @heads o.csv: buyer, eur; a.ini: port        of these files, until the next @files: their columns and keys

What is filled into {slots}: slots.py. A phrase's id is its file and line: splits are made by it.
"""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from llmos.tune.data.names import Filler
from llmos.tune.data.slots import SLOT, Filling

SEPARATOR = " ;; "
RAW = {"shell.run": "command", "answer": "text", "ask": "question"}
_LANG = re.compile(r"^(zh|de|es|fr)\| ?")
_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
_SHELL_SAFE = re.compile(r"[\w./~*?%+:=@,\-]+")


@dataclass(frozen=True, slots=True)
class Template:
    """One way to say `calls` (text form with slots)."""

    id: str
    lang: str
    say: str
    calls: str
    data: str | None = None
    files: tuple[str, ...] | None = None
    heads: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def tools(self) -> tuple[str, ...]:
        return tuple(call.split(" ", 1)[0] for call in self.calls.split(SEPARATOR))


@dataclass(frozen=True, slots=True)
class Said:
    """A template with its slots filled."""

    say: str
    calls: tuple[dict[str, Any], ...]
    here: tuple[str, ...]


def parse(text: str, file: str) -> Iterator[Template]:
    """The templates of one phrase file."""
    calls, data, files = "", None, None
    heads: dict[str, list[str]] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("# "):
            continue
        if line.startswith("## "):
            calls = line[3:]
        elif line.startswith("@data"):
            data = line[5:].strip().replace("\\n", "\n").replace("\\t", "\t") or None
        elif line.startswith("@files"):
            files, heads = tuple(part.strip() for part in line[6:].split(",") if part.strip()) or None, {}
        elif line.startswith("@heads"):
            parts = (part.partition(":") for part in line[6:].split(";"))
            heads = {name.strip(): [word.strip() for word in names.split(",")] for name, _, names in parts}
        else:
            lang = found[1] if (found := _LANG.match(line)) else "en"
            say = _LANG.sub("", line, count=1)
            own = calls
            if " => " in say:
                say, own = say.split(" => ", 1)
            lang = (
                "zh"
                if lang == "en"
                and re.search(r"[\u4e00-\u9fff]", SLOT.sub("", say))
                and not re.search(r"[a-z]{3,} [a-z]{3,} ", say)
                else lang
            )
            yield Template(f"{file}:{number}", lang, say, own.strip(), data, files, heads)


def load(folder: str = "phrases") -> list[Template]:
    """All templates of a folder of this package."""
    root = resources.files(__package__).joinpath(folder)
    names = sorted(item.name for item in root.iterdir() if item.name.endswith(".txt"))
    return [t for name in names for t in parse(root.joinpath(name).read_text(encoding="utf-8"), name[:-4])]


_MAYBE_S = re.compile(r"(?<=[a-z]s)\?(?=[ (]\S)")  # `files? (here|)`: file after every or each, else files
_MARKED_S = re.compile(r"(\b(?:every|each) (?:\S+ ){0,2}[a-z]+)s\0")
_MAYBE_BLANK = re.compile(r" \?(?=\w)")
_MAYBE_CHAR = re.compile(r"([\u4e00-\u9fff])\?(?=.)")


def choose(text: str, rng: random.Random) -> str:
    """The text with one of each (a|b) taken, innermost first; `files? ` and `time ?zone` are one of two."""
    text = _MAYBE_S.sub("\0", text)
    text = _MAYBE_BLANK.sub(lambda m: rng.choice([" ", ""]), text)
    text = _MAYBE_CHAR.sub(lambda m: rng.choice([m[1], ""]), text)
    while found := _CHOICE.search(text):
        text = text[: found.start()] + rng.choice(found[1].split("|")) + text[found.end() :]
    text = re.sub(r"  +", " ", re.sub(r"\\([*#|()])", r"\1", text)).strip()
    return _MARKED_S.sub(r"\1", text).replace("\0", "")


def fill(template: Template, filler: Filler, rng: random.Random) -> Said:
    """A sentence of the template and the calls it means."""
    filling = Filling(filler, template.lang)
    say = filling.say(choose(template.say, rng))
    calls = tuple(_call(text, filling) for text in template.calls.split(SEPARATOR))
    return Said(say, calls, filling.here)


def _call(text: str, filling: Filling) -> dict[str, Any]:
    tool, _, rest = text.partition(" ")
    if tool in RAW:
        put = _in_shell if tool == "shell.run" else str
        return {"tool": tool, "args": {RAW[tool]: _put(rest, filling, put)}}
    return {"tool": tool, "args": _filled(json.loads(rest or "{}"), filling)}


def _filled(value: Any, filling: Filling) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, filling) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, filling) for item in value]
    if not isinstance(value, str):
        return value
    if (whole := SLOT.fullmatch(value)) and (drawn := filling.value(whole[1], whole[2])):
        return drawn.meant
    return _joined(_put(value, filling, str))


def _joined(path: str) -> str:
    """`{dir}/` of a folder said with its slash has one slash."""
    return path if "://" in path else path.replace("//", "/")


def _put(text: str, filling: Filling, put: Any) -> str:
    return SLOT.sub(lambda m: put(v.meant) if (v := filling.value(m[1], m[2])) else m[0], text)


def _in_shell(meant: str | int) -> str:
    word = str(meant)
    if _SHELL_SAFE.fullmatch(word):
        return word
    if word.startswith("~/"):
        return "~/" + shlex.quote(word[2:])
    return shlex.quote(word)
