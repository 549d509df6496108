"""Whether a public sentence and its command agree in what can be compared.

Many such pairs were written in haste: `-size 100c` for "bigger than 100 bytes", a `!` too many. Each rule
says: where the sentence has this, the command must have (or lack) that. It finds no subtler mistakes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NO = (
    r"\b(?:not|no|except|exclud\w*|without|other than|skip\w*|ignor\w*|but|non-?\w+|omit\w*|avoid\w*|unless|"
    r"besides|outside|prun\w*|lack\w*|missing|never|neither|un\w+)\b|n't\b"
)
_NEGATED = r"(?:^|\s)!\s|-not\b|-prune|grep [^|]*-\w*[vL]\b|--exclude|!~|\bsed .*!"


@dataclass(frozen=True, slots=True)
class Rule:
    """Where the sentence matches `say`, the command matches `need` and does not match `never`."""

    say: str
    need: str = ""
    never: str = ""
    only: str = ""  # of commands that match this
    negated: bool = True  # also for commands that negate something

    def broken(self, say: str, command: str) -> bool:
        if not re.search(self.say, say) or (self.only and not re.search(self.only, command)):
            return False
        if not self.negated and re.search(_NEGATED, command):
            return False
        if self.never and re.search(self.never, command):
            return True
        return bool(self.need) and not re.search(self.need, command)


_RULES = (
    Rule(r"\b(except|excluding|other than|do not contain|not containing|don't contain)\b", need=_NEGATED),
    Rule(
        r"\b(larger|bigger|greater|more|over|exceed\w*) (than|in size)",
        need=r"-size\s+['\"]?\+",
        only=r"-size\s+['\"]?[+-]?\d",
        negated=False,
    ),
    Rule(
        r"\b(smaller|less|under) than",
        need=r"-size\s+['\"]?-",
        only=r"-size\s+['\"]?[+-]?\d",
        negated=False,
    ),
    Rule(r"^(?!.*less).*\b(older than|more than|before|over)\b", never=r"-[acm](?:time|min)\s+['\"]?-\d"),
    Rule(
        r"\b(within|in the last|in last|less than|during|past|newer)\b",
        need=r"-[acm](?:time|min)\s+['\"]?-",
        only=r"-[acm](?:time|min)\s+['\"]?[+-]?\d",
        negated=False,
    ),
    Rule(
        r"^(count|how many|print the number|number of)",
        need=r"wc|-c\b|uniq|NR|count|length|tr -dc|grep \S*c|-\w*c ",
    ),
    Rule(r"regular file", need=r"-type f", only="find"),
    Rule(
        r"^(find|search|list|display|print|show) (all |for |the )*(sub-?directories|directories|folders)\b"
        r"(?!/)",
        need=r"-type d",
        only="^find",
    ),
    Rule(r"^(?!.*file).*(director|folder)", never=r"-type f"),
    Rule(r"case.?insensitive", need=r"-i|IGNORECASE|tolower|\\L|/I\b"),
)
# Numbers that a sentence does not have to say: units and masks.
_KNOWN = frozenset(
    [
        "1024",
        "1000",
        "100",
        "60",
        "644",
        "755",
        "777",
        "000",
        "200",
        "127",
        "255",
        "600",
        "1440",
        "365",
        "1023",
        "2048",
        "10240",
        "1048576",
        "102400",
        "3600",
        "4096",
    ]
)
_QUOTED = re.compile(r"\"([^\"]{1,40})\"|(?<!\w)'([^']{1,40})'(?!\w)")


def agree(say: str, command: str) -> bool:
    """Negations, directions, kinds, numbers and quoted words that stand in one stand in the other."""
    low = say.lower()
    if re.search(_NEGATED, command) and not re.search(_NO, low):
        return False
    if any(rule.broken(low, command) for rule in _RULES):
        return False
    return _same_words(say, command) and _same_numbers(say, command)


def _same_words(say: str, command: str) -> bool:
    flat = command.replace("\\", "")
    return all((a or b).replace("\\", "").strip("*/. ") in flat for a, b in _QUOTED.findall(say))


def _same_numbers(say: str, command: str) -> bool:
    told = re.findall(r"(?<![\w.-])\d{2,}(?![\w.-]*\w)", say)
    done = [number for number in re.findall(r"\b\d{3,}\b", command) if number not in _KNOWN]
    return all(number in command for number in told) and all(number in say for number in done)
