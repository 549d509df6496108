"""`hide = [...]` of a policy file: patterns of places that are secrets, for judging and for masking.

    /srv/private         that place and all below it
    ~/Documents/tax      counted from the caller's home
    **/*.kdbx            anywhere; `*` and `?` stay within a name, `**` goes through folders

Judging looks at names (`compiled`). Masking needs places that exist (`expanded`): below the request's
folder, its write roots and the home, MAX_SEEN names at most. What lies beyond is judged when it is named,
and not masked.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence

from llmos.errors import ConfigError
from llmos.guard.resolve import real

MAX_SEEN = 20_000
MAX_STARS = 2  # of each kind: with more of them, a long path can take hours to match
_PIECES = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")


def check(pattern: str, where: str) -> None:
    """Raise ConfigError for a pattern that can match nothing, or everything."""
    if not pattern.startswith(("/", "~/", "**/")) or "\0" in pattern or "/../" in f"{pattern}/":
        raise ConfigError(
            f"{pattern!r} is not a place",
            "Begin it with /, ~/ or **/.",
            where=f"{where}: hide",
        )
    if not pattern.strip("/*~"):
        raise ConfigError(f"{pattern!r} would hide everything", "Name a place.", where=f"{where}: hide")
    pieces = _PIECES.findall(pattern)
    deep = sum(piece.startswith("**") for piece in pieces)
    if deep > MAX_STARS or pieces.count("*") > MAX_STARS:
        raise ConfigError(
            f"{pattern!r} has more than {MAX_STARS} `**` or `*`",
            "Write two patterns.",
            where=f"{where}: hide",
        )


@functools.lru_cache(maxsize=256)
def compiled(patterns: tuple[str, ...], home: str) -> tuple[re.Pattern[str], ...]:
    """One expression for each pattern; it matches the place and all below. Links in a plain one count too."""
    whole = [_from_home(pattern, home) for pattern in patterns]
    followed = (real(pattern) for pattern in whole if not _has_wildcard(pattern))
    return tuple(
        re.compile(_expression(pattern), re.DOTALL) for pattern in dict.fromkeys((*whole, *followed))
    )


def expanded(patterns: Sequence[str], home: str, folders: Sequence[str]) -> tuple[str, ...]:
    """The existing places that the patterns name, as the sandbox masks them."""
    whole = [_from_home(pattern, home) for pattern in patterns]
    plain = [pattern for pattern in whole if not _has_wildcard(pattern)]
    found = {name for pattern in plain for name in (pattern, real(pattern))}
    if wild := [re.compile(_expression(pattern), re.DOTALL) for pattern in whole if _has_wildcard(pattern)]:
        tops = dict.fromkeys((*folders, *(_fixed_part(p) for p in whole if _has_wildcard(p)), home))
        found.update(_matching(wild, [top for top in tops if top != "/"]))
    return tuple(sorted(found))


def _from_home(pattern: str, home: str) -> str:
    return (f"{home}/{pattern[2:]}" if pattern.startswith("~/") else pattern).rstrip("/")


def _has_wildcard(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _fixed_part(pattern: str) -> str:
    """The folder before the first wildcard."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0].rpartition("/")[0] or "/"


def _expression(pattern: str) -> str:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    inner = "".join(words.get(piece) or re.escape(piece) for piece in _PIECES.findall(pattern))
    return ("/" if pattern.startswith("**/") else "") + inner + r"(?:/.*)?\Z"


def _matching(wild: Sequence[re.Pattern[str]], tops: Sequence[str]) -> Iterator[str]:
    seen = 0
    for top in tops:
        for folder, folders, files in os.walk(top):
            for name in (*folders, *files):
                place = f"{folder.rstrip('/')}/{name}"
                if any(one.match(place) for one in wild):
                    yield place
            folders[:] = [name for name in folders if not any(o.match(f"{folder}/{name}") for o in wild)]
            seen += len(folders) + len(files)
            if seen > MAX_SEEN:
                return
