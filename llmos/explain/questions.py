"""Which requests are questions about commands, and what they ask. Pure: English, and some Chinese.

    how do I list open files?              about the words {list, open, file}
    how can I ignore case with grep        about {ignore, case}, of grep
    what does tar -xzf do?                 about the command line itself
    what is lsof?                          about lsof

A question about this machine ("how much memory is free?", "which process uses port 80?") is none of them:
tools answer it with what is so now. Neither is one that names a file of the folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.guard.grammar import grammars


@dataclass(frozen=True, slots=True)
class Question:
    """`words`: what is asked; `program`: whose pages alone can tell; `command`: to be taken apart."""

    words: tuple[str, ...] = ()
    program: str = ""
    command: str = ""
    others: tuple[str, ...] = ()  # programs that are compared


_END = r"\s*[?？.!]*\s*$"
_HOW = re.compile(
    r"(?i)^(?:hi|hello|please|so|and|ok|hey)?[,\s]*(?:"
    r"how\s+(?:do|does|can|could|would|should|to|might)\s+(?:i|you|we|one|someone|a\s+person|anyone)\s+(?P<do>.+)"
    r"|how\s+to\s+(?P<to>.+)"
    r"|how\s+is\s+it\s+possible\s+to\s+(?P<possible>.+)"
    r"|(?:what(?:'s| is)|which is|tell me|show me)\s+the\s+(?:right\s+|best\s+|shell\s+|linux\s+|unix\s+)?"
    r"(?:command|option|flag|switch|program|way)\s+(?:line\s+)?(?:for|to|that|of)\s+(?P<the>.+)"
    r"|(?:what|which)\s+(?:shell\s+|linux\s+)?(?:command|option|flag|switch)s?\s+"
    r"(?!(?:is|are|was|uses?|using|takes?|runs?|did)\b)(?:(?:do|should|can|could|would)\s+(?:i|you|we)\s+use\s+(?:to|for)\s+)?"
    r"(?P<which>.+)"
    r")" + _END
)
_OPTION_OF = re.compile(
    r"(?i)^(?:and|so|please|explain)?[,\s]*what\s+(?:does|do|is|are)\s+(?:the\s+)?(?:option\s+|flag\s+|switch\s+)?[`'\"]?"
    r"(?P<option>--?[A-Za-z0-9][\w-]*)[`'\"]?(?:\s+(?:option|flag|switch))?\s+(?:do|does|mean|means|stand\s+for)?\s*"
    r"(?:in|of|for|with|to)\s+(?:the\s+)?[`'\"]?(?P<of>[\w.+-]+)[`'\"]?(?:\s+command)?(?:\s+(?:do|does|mean|for))?"
    + _END
)
_DOES = re.compile(
    r"(?i)^(?:and|so|please|explain)?[,\s]*what\s+(?:does|do|is|are)\s+(?:the\s+)?"
    r"(?:command\s+|option\s+|flag\s+|switch\s+)?(?P<what>.+?)\s+"
    r"(?:do|does|mean|means|stand\s+for|for|good for)" + _END
)
_IS = re.compile(
    r"(?i)^(?:what(?:'s| is| are)|explain|describe|man|manual of|the manual page of)\s+"
    r"(?:(?:the\s+)?(?:command|program)\s+)?"  # "what's the time?" is asked of a clock
    r"[`'\"]?(?P<name>[\w.+-]+)[`'\"]?(?:\s+command)?" + _END
)
_DIFFERENCE = re.compile(
    r"(?i)^what(?:'s| is| are)\s+the\s+differences?\s+between\s+(?P<a>[\w.+-]+)\s+and\s+(?P<b>[\w.+-]+)"
    + _END
)
_CHINESE = re.compile(
    r"^(?P<name>[A-Za-z][\w.+-]*(?:\s+-[\w-]+)?)\s*(?:命令)?\s*(?:是什么(?:意思|命令)?|是干什么的|做什么用?|有什么用|怎么用|怎么使用)"
    + _END
    + r"|^(?:如何|怎么|怎样)(?:使用|用)\s*(?P<use>[A-Za-z][\w.+-]*)\s*(?:命令)?"
    + _END
)
# Of a named program: with it the question is about its options.
_WITH = re.compile(
    r"(?i)\b(?:with|using|via|by means of)\s+(?:the\s+)?[`'\"]?(?P<name>[\w.+-]+)[`'\"]?(?:\s+command)?"
)
_IN = re.compile(
    r"(?i)\b(?:in|of|for|from|does|by|let|make)\s+(?:the\s+)?[`'\"]?(?P<name>[\w.+-]+)[`'\"]?(?:\s+command)?(?!\s+\w+\s+\w)"
)
LISTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))
_PLAIN = frozenset(LISTS["plain"].split())
_SILENT = frozenset(LISTS["silent"].split())
_HERE = re.compile(
    r"(?i)\b(?:this|my|our|the)\s+(?:machine|computer|server|system|host|laptop|pc)\b.*\b(?:doing|feel|slow|busy)\b"
    r"|\bhelp me\b|\bllmos\b"
)
_ENDS = (
    *(("ically", "ic", 4), ("ies", "y", 3), ("ied", "y", 3), ("aders", "ad", 5), ("ader", "ad", 5)),
    *(("ively", "iv", 4), ("ing", "", 3), ("ed", "", 3), ("es", "", 3), ("s", "", 3), ("e", "", 3)),
)
_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9+]*|(?<![\w.])\d+(?![\w.])")


def read(text: str, entries: Collection[str] = ()) -> Question | None:
    """What is asked about commands; None where that is not what is asked. `entries`: names in the folder."""
    text = " ".join(text.split())
    if _HERE.search(text) or _names_a_place(text, entries):
        return None
    forms: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Question | None]], ...] = (
        (_DIFFERENCE, lambda found: Question(others=(found["a"], found["b"]))),
        (_CHINESE, lambda found: _about(found["name"] or found["use"])),
        (_HOW, lambda found: _how(next(part for part in found.groups() if part))),
        (_OPTION_OF, lambda found: Question(command=f"{found['of']} {found['option']}")),
        (_DOES, lambda found: _does(found["what"].strip("`'\" "))),
        (_IS, lambda found: Question(program=found["name"])),
    )
    return next((make(found) for pattern, make in forms if (found := pattern.match(text))), None)


def _how(rest: str) -> Question | None:
    """After "how do I": the words, and the program whose pages alone can tell."""
    program, rest = _named(rest)
    words = content(rest)
    if not program:
        program = next((word for word in words if _is_program(word)), "")
        words = tuple(word for word in words if word != program)
    return Question(words, program) if words or program else None


def _named(rest: str) -> tuple[str, str]:
    """ "… with tar", "… in vim": the program, and the rest without it."""
    for pattern in (_WITH, _IN):
        for found in pattern.finditer(rest):
            name = found["name"].rstrip(".?!")
            if _is_program(name) or (pattern is _WITH and name in grammars()):
                return name, f"{rest[: found.start()]} {rest[found.end() :]}"
    return "", rest


def _is_program(word: str) -> bool:
    return word in grammars() and word not in _PLAIN


def _does(what: str) -> Question | None:
    words = what.split()
    if len(words) == 1:
        return Question(program=what) if re.fullmatch(r"[\w.+-]+", what) else None
    return Question(command=what) if words and words[0] in grammars() else None


def _about(what: str) -> Question:
    return Question(command=what) if " " in what else Question(program=what)


def _names_a_place(text: str, entries: Collection[str]) -> bool:
    """A path, or a name of the folder: then it is about that, here and now."""
    if re.search(r"(?:^|\s)(?:~|\.{0,2})/\w", text):
        return True
    return any(
        re.search(rf"(?<![\w.-]){re.escape(entry.rstrip('/'))}(?![\w-])", text)
        for entry in entries
        if "." in entry
    )


def content(text: str) -> tuple[str, ...]:
    """The words that say something, as they stand, each once."""
    found = (word.lower() for word in _TOKEN.findall(text))
    return tuple(dict.fromkeys(word for word in found if word not in _SILENT and (len(word) > 1)))


def stem(word: str) -> str:
    """English inflection off, roughly: files, listing, copied."""
    for end, put, least in _ENDS:
        if word.endswith(end) and len(word) - len(end) >= least and not word.endswith("ss"):
            word = word[: -len(end)] + put
            break
    return word[:-1] if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "ls" else word
