"""Programs whose words say more than options and arguments: each read by a function of its own.

A check is named by `check` in a program's table and given the program's words; it raises Opaque for what it
does not know. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from llmos.guard.characters import Opaque

_COLUMN = r"%?[a-z_0-9]+(?::\d+)?(?:=[\w %]*)?"
_COLUMNS = re.compile(rf"{_COLUMN}(?:,{_COLUMN})*,?")
# An escape character as programs write it, and what may follow it: a colour, or `\[` in a regular expression.
_ESCAPE = re.compile(
    r"(?:\\(?:[eE]|0?33|o33|x1[bB]|u0{0,2}1[bB]|U0{0,6}1[bB]|u\{1[bB]\}|c\[)|%x1[bB])(?!\\\[|\[[\d;]*m)"
    r"|\\(?:0?23[35]|x9[bBdD]|u009[bBdD])|%x9[bBdD]"
)
_PORTS = {"http": "80", "https": "443"}
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>[1-9]\d{0,4}))?"
    r"(?:[/?#][\w.~/?#!$&'()*+,;=:@%-]*)?",
    re.ASCII,
)
_BSD_FLAGS = re.compile(r"[aAcdfghHjlmnrSTuvwxX]+o?")


def pid(text: str) -> int:
    """A process by its number; raises Opaque for groups, jobs and everybody."""
    if not re.fullmatch(r"[1-9]\d{0,9}", text):
        raise Opaque("it signals more than one process, or one that is not named by its number")
    return int(text)


def machine(url: str) -> str:
    """HOST:PORT of a plain web address; raises Opaque for patterns, names and passwords, other schemes."""
    found = _URL.fullmatch(url)
    if not found:
        raise Opaque(f"{url} is not a plain web address")
    return f"{found['host'].lower()}:{found['port'] or _PORTS[found['scheme']]}"


def columns(text: str) -> None:
    """ps -o: columns by name, none of them the environment."""
    if not _COLUMNS.fullmatch(text) or "env" in text:
        raise Opaque("ps would show what other programs were given as environment")


def ps(words: Sequence[str]) -> None:
    """BSD options stand without a dash: `aux`, `axo pid,cmd`, and never `e`, the environment."""
    expects_columns = False
    for word in words:
        if expects_columns:
            columns(word)
        elif word.startswith("-") or word.isdigit():
            continue
        elif not _BSD_FLAGS.fullmatch(word) and not _is_value(words, word):
            raise Opaque("it shows the environment of processes, or more than is known")
        expects_columns = bool(_BSD_FLAGS.fullmatch(word)) and word.endswith("o") and len(word) > 1


def _is_value(words: Sequence[str], word: str) -> bool:
    """The value of an option: `-o pid`, `-u root`, `-C nginx`, `--sort rss`."""
    before = words[list(words).index(word) - 1] if word != words[0] else ""
    return bool(re.fullmatch(r"-[A-Za-z]*[opCutUGgskL]|--(?:pid|user|sort|ppid|format|columns|cols)", before))


def terminal(words: Sequence[str]) -> None:
    """Words that print what moves the cursor, retitles the window or fills the clipboard."""
    if any(_ESCAPE.search(word) for word in words):
        raise Opaque("it prints characters that control the terminal")


def one_task(words: Sequence[str]) -> None:
    """gzip and its like: of -l, -t and -d some obey the last one, and -d replaces the file."""
    letters = {letter for word in words if re.match(r"-[^-]", word) for letter in word}
    tasks = (("l", "--list"), ("t", "--test"), ("d", "--decompress", "--uncompress"))
    if sum(bool({*words, *letters} & set(task)) for task in tasks) > 1:
        raise Opaque("it says more than one thing to do, of which programs do one")


def end(words: Sequence[str]) -> None:
    """Programs that go on until stopped unless told how often: `vmstat 1 3`, `sar -u 1 1`."""
    if sum(word.isdigit() for word in words) == 1:
        raise Opaque("it goes on until it is stopped")


def no_lists(words: Sequence[str]) -> None:
    """Programs of binutils read further words from `@FILE`."""
    if any(word.startswith("@") for word in words):
        raise Opaque("it reads its options from a file")


def list_only(words: Sequence[str]) -> None:
    """tput, stty: what sets the terminal is not known here."""
    if any(word not in ("-a", "--all", "size", "cols", "lines", "colors") for word in words):
        raise Opaque("it may change the terminal")


def sysctl(words: Sequence[str]) -> None:
    """`sysctl NAME` shows and `sysctl NAME=VALUE` sets."""
    if any("=" in word for word in words):
        raise Opaque("it changes the kernel's settings")


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "ps": ps, "one-task": one_task, "end": end, "no-lists": no_lists, "list-only": list_only,
    "sysctl": sysctl,
}  # fmt: skip
