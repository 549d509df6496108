"""A question about a text, answered with the lines of it that say so. Pure.

Lines that share the question's words, or for "what went wrong?" those that tell of failures, with their
numbers. It quotes and concludes nothing: whether a line is the cause is for who reads it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from llmos.explain.questions import content, stem

MOST_LINES = 8
MAX_LINE_CHARS = 300
MAX_LINES_READ = 200_000
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


def lines(question: str, text: str) -> tuple[tuple[int, str], ...]:
    """(number, line) of those that answer, in their order; none where none does."""
    some = [
        (number, line) for number, line in enumerate(text.splitlines()[:MAX_LINES_READ], 1) if line.strip()
    ]
    if _ABOUT_FAILURE.search(question):
        wanted = _WARNING if re.search(r"(?i)warn|警告", question) else _FAILURE
        return tuple(_clip(one) for one in [one for one in some if wanted.search(one[1])][-MOST_LINES:])
    return _nearest(content(question), some)


def told(found: Sequence[tuple[int, str]]) -> str:
    return "\n".join(f"line {number}: {line}" for number, line in found)


def _nearest(words: Sequence[str], some: Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    stems = {stem(word) for word in words}
    have = [{stem(word) for word in content(line)} & stems for _, line in some]
    seen = Counter(word for one in have for word in one)
    weights = {word: math.log(1 + len(some) / (1 + seen[word])) for word in stems}
    total = sum(weights.values()) or 1.0
    scores = [sum(weights[word] for word in one) / total for one in have]
    best = max(scores, default=0.0)
    if best < ENOUGH:
        return ()
    return tuple(_clip(one) for one, score in zip(some, scores, strict=True) if score >= best - 1e-9)[
        :MOST_LINES
    ]


def _clip(one: tuple[int, str]) -> tuple[int, str]:
    number, line = one
    return number, line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]} …"
