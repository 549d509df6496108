"""Where a path really leads: `..`, links and repeated slashes taken out, without following magic links.

As openat2(2) with RESOLVE_NO_MAGICLINKS would find it: what lies behind /proc/PID/root, cwd, exe or fd/N
differs for each process, so such a path stays under its name, and that name is judged (as a secret). It
looks with the rights of the thread that calls (`caller.as_caller`): what the caller cannot enter stays as
it is written, and the caller's command cannot enter it either.

Not protected against: a link that is turned after this look. The sandbox mounts what may be reached.
"""

from __future__ import annotations

import os
import re

MAX_LINKS = 40  # as the kernel
MAX_PATH = 4096  # PATH_MAX: a longer one can be opened by nobody
_PROCESS = r"/proc/(?:[0-9]+|self)(?:/task/(?:[0-9]+|self))?"
_MAGIC = re.compile(rf"{_PROCESS}/(?:(?:root|cwd|exe)|(?:fd|map_files|ns)/.+)")
_STANDARD = frozenset(
    {"/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/0", "/dev/fd/1", "/dev/fd/2"}
)  # what a command was given, whatever it is


def real(path: str) -> str:
    """The absolute path that is really meant; never raises. Missing parts are taken as they are written."""
    return followed(path)[0]


def followed(path: str) -> tuple[str, tuple[str, ...]]:
    """The real path, and the links that were passed on the way, by their own places."""
    if len(path) > MAX_PATH:
        return os.path.normpath("/" + path.lstrip("/")), ()
    todo = path.split("/")[::-1]
    place = ""
    links: list[str] = []
    while todo:
        word = todo.pop()
        if word in ("", "."):
            continue
        if word == "..":
            place = place.rpartition("/")[0]
            continue
        step = f"{place}/{word}"
        if _MAGIC.fullmatch(step):
            return _kept(step, todo), tuple(links)
        if (named := _named(step, todo)) is not None:
            return named, tuple(links)
        target = _target(step)
        if not target:
            place = step
            continue
        links.append(step)
        if len(links) > MAX_LINKS:
            return _kept(step, todo), tuple(links)  # the kernel refuses it as well (ELOOP)
        if target.startswith("/"):
            place = ""
        todo += target.split("/")[::-1]
    return place or "/", tuple(links)


def is_folder(path: str) -> bool:
    """As far as the thread's rights let it see; pathlib would raise where they do not."""
    return os.path.isdir(path)


def _target(step: str) -> str:
    """What a link points to; empty for everything else. /proc/self is nobody's own: it stays a name."""
    if step == "/proc/self":
        return ""
    if step == "/proc/thread-self":
        return "self/task/self"
    try:
        return os.readlink(step)  # noqa: PTH115 - faster, and it is called for every part of every path
    except (OSError, ValueError):
        return ""


def _named(step: str, todo: list[str]) -> str | None:
    """/dev/stdin and its like, when they are the whole of what is meant."""
    if step == "/dev/fd" and len(todo) == 1:
        step = f"{step}/{todo[0]}"
        return step if step in _STANDARD else None
    return step if step in _STANDARD and not any(todo) else None


def _kept(step: str, todo: list[str]) -> str:
    rest = (word for word in reversed(todo) if word not in ("", ".", ".."))
    return "/".join((step, *rest))
