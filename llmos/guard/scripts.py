"""sed and awk scripts that can only print: a strict reading, and everything else is opaque.

Both languages can write files and start programs (`w`, `e`, `system`, `|`, `>`). A script is taken only
when nothing of the kind can be in it, whatever the dialect; so some harmless ones are not taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from llmos.guard import checks
from llmos.guard.shelltext import Opaque

MAX_CHARS = 2000
_ADDRESS = r"(?:\d+(?:~\d+)?|\$|/(?:[^/\\\n]|\\[^\n])*/I?)"
_RANGE = rf"(?:{_ADDRESS}(?:\s*,\s*(?:{_ADDRESS}|\+\d+|~\d+))?)?\s*!?\s*"
_TEXT = r"(?:(?!{n})[^\\\n]|\\[^\n])*"


def _delimited(number: int) -> str:
    """Two texts between three equal delimiters: the part of `s` and `y` behind the letter."""
    text = _TEXT.replace("{n}", rf"\{number}")
    return rf"([/|#,:@%!_]){text}\{number}{text}\{number}"


_COMMAND = rf"(?:[{{}}]|[pdnNhHgGxDP=]|[qQ]\d*|s{_delimited(1)}[gpiIM0-9]*|y{_delimited(2)})"
_SED = re.compile(rf"\s*{_RANGE}{_COMMAND}\s*(?:;|\n|$|(?=\}})|(?<=[{{}}]))")
# Anywhere in the text, strings and comments included: what could hide is not looked for.
_AWK_WORDS = re.compile(
    r"system|getline|close|fflush|nextfile|ARG[CVI]|ENVIRON|PROCINFO|inet|[@`]|(?<!\|)\|(?!\|)"
)


def check_sed(text: str) -> None:
    """Raise Opaque unless the script is addresses, p d q = n N h H g G x D P, s and y alone."""
    at = 0
    if len(text) > MAX_CHARS:
        raise Opaque("its sed script is very long")
    while at < len(text):
        match = _SED.match(text, at)
        if match is None or match.end() == at:
            raise Opaque("its sed script may do more than edit text")
        at = match.end()


def check_awk(text: str) -> None:
    """Raise Opaque if the script could write a file, start a program or read one that is not named."""
    if len(text) > MAX_CHARS or _AWK_WORDS.search(text):
        raise Opaque("its awk script may do more than print")
    if ">" in text and not _compares_only(text):
        raise Opaque("its awk script may write a file")


def _compares_only(text: str) -> bool:
    """Whether every `>` stands in parentheses or outside braces, where it can only compare.

    Strings, regular expressions and comments could hide brackets from the count: none may be there.
    """
    if set(text) & set("\"/#\\'"):
        return "print" not in text and "{" not in text
    braces = parens = 0
    for char in text:
        braces += (char == "{") - (char == "}")
        parens += (char == "(") - (char == ")")
        if char == ">" and braces and not parens:
            return False
    return True


def check_jq(text: str) -> None:
    """Raise Opaque for a jq script that reads further files."""
    if re.search(r"\b(?:import|include)\b", text):
        raise Opaque("its jq script reads further files")


def check_format(text: str) -> None:
    """date: anything but a format sets the clock."""
    if not text.startswith("+"):
        raise Opaque("it sets the clock")


CHECKS: dict[str, Callable[[str], None]] = {
    "sed": check_sed, "awk": check_awk, "jq": check_jq, "format": check_format, "columns": checks.columns,
}  # fmt: skip
