"""sed and awk scripts that can only print: a strict reading, and everything else is opaque.

Both languages can write files and start programs (`w`, `e`, `system`, `|`, `>`). A script is taken only
when nothing of the kind can be in it, whatever the dialect; so some harmless ones are not taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from llmos.guard import checks
from llmos.guard.characters import Opaque

MAX_CHARS = 2000
# In brackets a delimiter is a plain character to sed. What a backslash does there differs: few are taken.
_BRACKET = r"\[\^?+\]?+(?:[^\]\\\n[]|\[:[a-z]+:\]|\[(?![.=:])|\\[^\]\\\n])*+\]"
_ADDRESS = rf"(?:\d+(?:~\d+)?|\$|/(?:[^/\\\n[]|{_BRACKET}|\\[^\n])*+/I?)"
_RANGE = rf"(?:{_ADDRESS}(?:\s*+,\s*+(?:{_ADDRESS}|\+\d+|~\d+))?)?\s*+!?\s*+"


def _delimited(number: int, *, pattern: bool) -> str:
    """Two texts between three equal delimiters: the part of `s` and `y` behind the letter."""
    text = rf"(?:(?!\{number})[^\\\n]|\\[^\n])*+"
    first = rf"(?:(?!\{number})[^\\\n[]|{_BRACKET}|\\[^\n])*+" if pattern else text
    return rf"([/|#,:@%!_]){first}\{number}{text}\{number}"


_COMMAND = (
    rf"(?:[{{}}]|[pdnNhHgGxDP=]|[qQ]\d*|s{_delimited(1, pattern=True)}[gpiIM0-9]*"
    rf"|y{_delimited(2, pattern=False)}|:\w+|(?P<branch>[bt][ ]*\w*))"
)
_END = r"(?:(?<=[{}])|[ \t]*+(?:;|\n|\Z|(?=\})))"
_SED = re.compile(rf"\s*+{_RANGE}(?:{_COMMAND}{_END}|[aic]\\?[ \t]*+[^\n\\]++(?:\n|\Z))")
# Anywhere in the text, strings and comments included: what could hide is not looked for.
_AWK_WORDS = re.compile(
    r"system|getline|close|fflush|nextfile|ARG[CVI]|ENVIRON|PROCINFO|inet|[@`]|(?<!\|)\|(?!\|)"
)
_AWK_STRING = re.compile(r'"(?:[^"\\\n]|\\[nt"\\])*+"')
_MANY = 2  # slashes
# Loops that come to an end: over an array, or counting up to something.
_AWK_LOOP = re.compile(r"\b(?:for|while|do|func(?:tion)?)\b")
_AWK_BOUNDED = re.compile(r"\bfor\s*\(\s*(?:\w+\s+in\s+\w+\s*\)|\w+\s*=[^;()]*;[^;()]*[<>][^;()]*;[^;()]*\))")
_JQ_ENDLESS = re.compile(r"\b(?:def|repeat|while|until|infinite)\b|\brange\([^)]*(?:\d{7}|\d[eE])")
_JQ_ENVIRONMENT = re.compile(r"\$ENV\b|(?<![.\w\"])env\b")


def check_sed(text: str) -> None:
    """Raise Opaque unless the script is addresses and commands that edit text: a branch must read on."""
    at = 0
    if len(text) > MAX_CHARS:
        raise Opaque("its sed script is very long")
    while at < len(text):
        match = _SED.match(text, at)
        if match is None or match.end() == at:
            raise Opaque("its sed script may do more than edit text")
        if match["branch"] and not (text.startswith("$!", match.start("branch") - 2) and "N" in text):
            raise Opaque("its sed script may go on until it is stopped")
        at = match.end()


def check_awk(text: str) -> None:
    """Raise Opaque if the script could write a file, start a program, read one unnamed, or not end."""
    if len(text) > MAX_CHARS or _AWK_WORDS.search(text):
        raise Opaque("its awk script may do more than print")
    if ">" in text and not _compares_only(text):
        raise Opaque("its awk script may write a file")
    if len(_AWK_LOOP.findall(text)) != len(_AWK_BOUNDED.findall(text)):
        raise Opaque("its awk script may go on until it is stopped")


def _compares_only(text: str) -> bool:
    """Whether every `>` stands in parentheses or outside braces, where it can only compare.

    Strings, regular expressions and comments could hide brackets from the count: none may be there.
    """
    if text.count("/") < _MANY and not set(text) & set("#'"):  # one slash divides, two may be a pattern
        text = _AWK_STRING.sub("", text)
    if set(text) & set("\"#\\'") or text.count("/") >= _MANY:
        return "print" not in text and "{" not in text
    braces = parens = 0
    for char in text:
        braces += (char == "{") - (char == "}")
        parens += (char == "(") - (char == ")")
        if char == ">" and braces and not parens:
            return False
    return True


def check_jq(text: str) -> None:
    """Raise Opaque for a jq script that reads further files or the environment, or may not end."""
    if re.search(r"\b(?:import|include)\b", text):
        raise Opaque("its jq script reads further files")
    if _JQ_ENVIRONMENT.search(text):
        raise Opaque("its jq script reads the environment")
    if _JQ_ENDLESS.search(text):
        raise Opaque("its jq script may go on until it is stopped")


def check_format(text: str) -> None:
    """date: anything but a format sets the clock."""
    if not text.startswith("+"):
        raise Opaque("it sets the clock")


CHECKS: dict[str, Callable[[str], None]] = {
    "sed": check_sed, "awk": check_awk, "jq": check_jq, "format": check_format, "columns": checks.columns,
}  # fmt: skip
