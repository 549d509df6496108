"""A question about a text, answered with the lines of it that say so. Pure.

Lines that share the question's words, or for "what went wrong?" those that tell of failures, with their
numbers. It quotes and concludes nothing: whether a line is the cause is for who reads it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmos.explain.questions import content, stem

MOST_LINES = 8
MAX_LINE_CHARS = 300
MAX_LINES_READ = 200_000
Line = tuple[int, str]
ENOUGH = 0.5  # of what the question says
_ABOUT_FAILURE = re.compile(
    r"(?i)\b(?:why|wrong|errors?|fail\w*|crash\w*|problems?|broke\w*|warnings?|exceptions?)\b|错误|失败|为什么|警告|异常"
)
_FAILURE = re.compile(
    r"(?i)\b(?:error|errno|fatal|fail(?:ed|ure|s)?|panic|exception|traceback|denied|refused|killed|cannot|can't|unable"
    r"|segfault|abort(?:ed)?|critical|timed? ?out|no such)\b"
)
_WARNING = re.compile(r"(?i)\bwarn(?:ing)?\b")
_QUESTION = re.compile(
    r"(?i)^(?:and|so)?\s*(?:what|which|why|who|whose|when|where|how|is|are|was|were|did|does|do|has|have|any)\b"
    r"|[?？]\s*$|什么|为什么|哪|谁|吗"
)
_MAKES = re.compile(
    r"(?i)\b(?:summar|translat|rewrite|proofread|convert|tl;?dr|write|sort|how many)|总结|翻译|概括|多少"
)


def asks(text: str) -> bool:
    """Whether it asks what a text says, rather than for something to be made of it."""
    return bool(_QUESTION.search(text)) and not _MAKES.search(text)


@dataclass(frozen=True, slots=True)
class Quoted:
    """(number, line) of those shown, in their order; how many more would answer, and were not looked at."""

    lines: tuple[Line, ...] = ()
    more: int = 0
    unread: int = 0


def lines(question: str, text: str) -> Quoted:
    """Those that answer; none where none does. Of failures the last ones are shown, else the first."""
    every = text.splitlines()
    some = [(number, line) for number, line in enumerate(every[:MAX_LINES_READ], 1) if line.strip()]
    if _ABOUT_FAILURE.search(question):
        wanted = _WARNING if re.search(r"(?i)warn|警告", question) else _FAILURE
        found = [one for one in some if wanted.search(one[1])]
        shown = found[-MOST_LINES:]
    else:
        found = _nearest(content(question), some)
        shown = found[:MOST_LINES]
    unread = max(0, len(every) - MAX_LINES_READ)
    return Quoted(tuple(map(_clip, shown)), len(found) - len(shown), unread)


def told(found: Quoted) -> str:
    said = [f"line {number}: {line}" for number, line in found.lines]
    said += [f"(and {found.more:,} more lines like these)"] * bool(found.more)
    said += [f"(the last {found.unread:,} lines were not looked at)"] * bool(found.unread)
    return "\n".join(said)


def _nearest(words: Sequence[str], some: Sequence[Line]) -> list[Line]:
    stems = {stem(word) for word in words}
    have = [{stem(word) for word in content(line)} & stems for _, line in some]
    seen = Counter(word for one in have for word in one)
    weights = {word: math.log(1 + len(some) / (1 + seen[word])) for word in stems}
    total = sum(weights.values()) or 1.0
    scores = [sum(weights[word] for word in one) / total for one in have]
    best = max(scores, default=0.0)
    if best < ENOUGH:
        return []
    return [one for one, score in zip(some, scores, strict=True) if score >= best - 1e-9]


def _clip(one: Line) -> Line:
    number, line = one
    return number, line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]} …"
