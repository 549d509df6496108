"""One word of shell text, read character by character: literals, quotes, backslashes, `~`, $HOME and globs.

Only what means the same in every shell is taken; the rest raises `Opaque`. What it does not do: split text
into words (`shelltext`) or expand patterns (`commandline`).
"""

from __future__ import annotations

import functools
import glob
import pwd
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmos.guard.characters import Opaque

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # the sandbox's
_GLOB = frozenset("*?[")
_ACCOUNT_KEPT_S = 10
# `{` and `}` alone are literal; braces with a comma or a range are not.
_SPECIAL = frozenset("$`!;&|<>()\"'\\\n")
# In brackets quotes, classes and `^` mean different things to different readers of patterns.
_BRACKET = re.compile(r"\[!?[\w.,:+-]+\]", re.ASCII)
# `a=~` and `a=b:~` are expanded like assignments, wherever they stand.
_TILDE = re.compile(r"[A-Za-z_]\w*\+?=.*~|.*[=:]~", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quote removal. `pattern` is set when it globs: as for `glob`, literals escaped."""

    text: str
    pattern: str | None = None


class WordReader:
    """Reads words; knows the folder and home that `~`, $PWD and $HOME stand for."""

    def __init__(self, cwd: str, home: str) -> None:
        self.known = {"HOME": home, "PWD": cwd, "PATH": SAFE_PATH} | _user_of(home)

    def read(self, raw: str) -> Word:
        """Read one word's source; raises Opaque when it is more than literals, quotes and globs."""
        text: list[str] = []
        pattern: list[str] = []
        globs = False
        for part, quoted in self._whole(raw):
            text.append(part)
            wild = not quoted and bool(_GLOB & set(part))
            pattern.append(part if wild else glob.escape(part))
            globs = globs or wild
        return Word("".join(text), "".join(pattern) if globs else None)

    def _whole(self, raw: str) -> list[tuple[str, bool]]:
        """The pieces of a word. The grammar lets a few words end inside their quotes."""
        try:
            return list(self._parts(raw))
        except (IndexError, ValueError) as error:
            raise Opaque("it is not a complete shell command") from error

    def _parts(self, raw: str) -> Iterator[tuple[str, bool]]:
        """(text, quoted) pieces of a word."""
        at = 0
        if raw == "~" or raw.startswith("~/"):
            yield self.known["HOME"], True
            at = 1
        elif raw.startswith("~"):
            raise Opaque("it names another user's home")
        if "[" in _unquoted(_BRACKET.sub("", raw)) and "]" in raw:
            raise Opaque("it uses a pattern with brackets that is read differently by different shells")
        if _TILDE.match(_unquoted(raw)):
            raise Opaque("it expands a `~` inside a word")
        if re.search(r"\{.*(?:,|\.\.).*\}", _unquoted(raw), re.DOTALL):
            raise Opaque("it uses a brace expansion")
        while at < len(raw):
            part, quoted, at = self._part(raw, at)
            yield part, quoted

    def _part(self, raw: str, at: int) -> tuple[str, bool, int]:
        char = raw[at]
        if char == "'":
            end = raw.index("'", at + 1)
            return raw[at + 1 : end], True, end + 1
        if char == '"':
            return self._double(raw, at + 1)
        if char == "\\":
            if at + 1 >= len(raw) or raw[at + 1] == "\n":
                raise Opaque("it continues over a line's end")
            return raw[at + 1], True, at + 2
        if char == "$":
            value, at = self._variable(raw, at)
            return value, True, at
        if char.isspace():
            raise Opaque("it joins words in a way that is read differently by different shells")
        if char in _SPECIAL and char != "!":
            raise Opaque(f"it uses `{char}` inside a word")
        return char, False, at + 1

    def _double(self, raw: str, at: int) -> tuple[str, bool, int]:
        """The text of a double-quoted string that starts at `at`."""
        text: list[str] = []
        while raw[at] != '"':
            if raw[at] == "\\" and raw[at + 1] in '"\\$`':
                text.append(raw[at + 1])
                at += 2
            elif raw[at] == "\\" and raw[at + 1] == "\n":
                raise Opaque("it continues over a line's end")
            elif raw[at] == "$" and (raw[at + 1].isalnum() or raw[at + 1] in "_{(*@#?$!-"):
                value, at = self._variable(raw, at)
                text.append(value)
            elif raw[at] == "`":
                raise Opaque("it substitutes a command's output")
            else:
                text.append(raw[at])
                at += 1
        return "".join(text), True, at + 1

    def _variable(self, raw: str, at: int) -> tuple[str, int]:
        match = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII).match(raw, at)
        name = (match[1] or match[2]) if match else ""
        if match is None or name not in self.known:
            what = f"the variable ${name}" if name else "a `$` expansion"
            raise Opaque(f"it depends on {what}")
        return self.known[name], match.end()


def _user_of(home: str) -> dict[str, str]:
    """$USER and $LOGNAME as the sandbox sets them: of whoever owns the home."""
    try:
        name = _account(Path(home).stat().st_uid, int(time.monotonic() / _ACCOUNT_KEPT_S))
    except OSError:
        return {}
    return {"USER": name, "LOGNAME": name} if re.fullmatch(r"[\w.-]+", name) else {}


@functools.lru_cache(maxsize=64)
def _account(uid: int, period: int) -> str:
    """Looked up once a period: it reads the whole file of accounts, or asks a server."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _unquoted(raw: str) -> str:
    return re.sub(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", "", raw, flags=re.DOTALL)
