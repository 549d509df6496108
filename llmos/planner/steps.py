"""A sentence that names several steps, and what of it is still to be done: pure, by its words.

A model on this machine has no way to say that it wants to see an outcome before it goes on. It is asked again
where the sentence names more steps than calls have been made for, or speaks of what an earlier step finds.
A small one takes "compress it" for a question left open, so the name that was found is put in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from llmos.messages import ToolCall

_NEXT = re.compile(
    r"(?i)\s*(?:[,;.]\s*|\band\s+)*\b(?:then|after that|afterwards|finally)\b[,\s]*"
    r"|\s*;\s+|[，；。]?\s*(?:然后|接着|之后再)\s*|[，；。]\s*(?:最后|再)\s*"
)
_ONE = re.compile(r"(?i)\b(?:it|that one|that file)\b(?! is\b)|它(?!们)")
_ALL = re.compile(
    r"(?i)\b(?:(?:each|all) of (?:them|these|those)|them|these(?: files)?|those|each)\b|它们|这些文件"
)
_WHICH = re.compile(
    r"(?i)\bthe (first|second|third|last)(?: one| file)?(?: of (?:them|these|those))"
    r"|其中(?:的)?(第一|第二|第三|最后一)个"
)
_PLACE = {"first": 0, "second": 1, "third": 2, "last": -1, "第一": 0, "第二": 1, "第三": 2, "最后一": -1}
_ITS = re.compile(r"(?i)\b(?:its|their)\b|其中")
_NAME = re.compile(
    r"(?<![\w./+@%~-])(?:(?:[\w.+@%~-]*/)+[\w.+@%~-]*|[\w.+@%~-]*[A-Za-z_][\w+@%~-]*\.[A-Za-z]\w*)"
)
_JOINED = re.compile(r"&&|;")
_SHORTEST = 2  # characters of a step
_MOST_NAMES = 5


def named(text: str) -> tuple[str, ...]:
    """The steps in their order; the sentence itself where it names no more than one."""
    found = tuple(part.strip() for part in _NEXT.split(text) if len(part.strip()) >= _SHORTEST)
    return found if len(found) > 1 else (text,)


def left(text: str, calls: Iterable[ToolCall]) -> str:
    """What of the sentence these calls leave to be done; empty where every step has had its call."""
    return ", then ".join(named(text)[sum(map(_worth, calls)) :])


def looks_back(text: str) -> bool:
    """Whether the step after the first speaks of what that one finds."""
    return any(words.search(step) for step in named(text)[1:2] for words in (_ONE, _ALL, _ITS))


def resolved(step: str, outcome: str) -> str:
    """The step, with the names that were found in the place of the words that stand for them."""
    names = tuple(dict.fromkeys(match[0].rstrip(".") for match in _NAME.finditer(outcome)))[:_MOST_NAMES]
    if not names:
        return step
    if which := _WHICH.search(step):
        place = _PLACE[(which[1] or which[2]).lower()]
        return step.replace(which[0], names[place]) if place < len(names) else step
    step = _ONE.sub(lambda _: names[0], step, count=1)
    return _ALL.sub(lambda _: ", ".join(names), step, count=1)


def _worth(call: ToolCall) -> int:
    """How many steps a call takes: a command line may take several at once."""
    command = call.args.get("command")
    return 1 + len(_JOINED.findall(command)) if call.tool == "shell.run" and isinstance(command, str) else 1
