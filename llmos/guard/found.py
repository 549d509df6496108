"""What a command is found to do, as its words are read: effects gathered one value at a time.

Paths are absolute here and links are not yet followed: the gate does that. Nothing is judged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmos.guard import checks, places, scripts
from llmos.guard.characters import Opaque
from llmos.messages import Effects, ProgramUse

# ss: states, directions, addresses and ports by number; a name would be looked up elsewhere.
_SOCKET = (
    r"(?:state|exclude|all|connected|synchronized|bucket|big|established|syn-(?:sent|recv)|fin-wait-[12]|time-wait"
    r"|closed?|close-wait|last-ack|listen(?:ing)?|closing|dst|src|[sd]port|and|or|not|eq|ne|[lg][te]|[=!<>]=?|[()&|!*]"
    r"|:\w+|[\d.]+(?:/\d+)?(?::\w+)?|\[?[0-9a-f]*:[0-9a-f:.]*\]?(?::\w+)?)"
)
# Values that are taken only when they look like this: what else they could mean is not worth knowing.
_SHAPES = {
    "number": re.compile(r"[+-]?\d+(?:[.,]\d+)?[a-zA-Z%]{0,3}"),
    "name": re.compile(r"[\w.@:%+,=-]+"),
    "page": re.compile(r"[\w.+:@\[-][\w.+:@\[-]*"),
    "unit": re.compile(r"[\w.@:%+,=\\*][\w.@:%+,=\\*-]*"),
    "key": re.compile(r"[\w-]+\..+"),
    "item": re.compile(r"\+[dD]|[\w.@:=/*\[\]][\w.@:=/,+*\[\]-]*"),
    "selector": re.compile(r"\.[\w.\[\]\"-]*"),
    "count": re.compile(r"[+-]?\d{1,8}(?:\.\d+)?"),
    "few": re.compile(r"[1-9]\d?"),
    "size": re.compile(r"\d{1,4}[KM%]|[1-4]G"),
    "socket": re.compile(rf"{_SOCKET}(?: +{_SOCKET})*+"),
    "short": re.compile(r"\d{1,3}(?:\.\d+)?s?|[1-9]m"),  # seconds, or some minutes
    "stdout": re.compile(r"-"),
}
_DIRECT = {"read", "write", "delete"}


@dataclass(slots=True)
class Found:
    """Effects as they are gathered."""

    cwd: str
    home: str = "/"
    piped: bool = False  # what is read now stands behind a `|`
    read_by: str = ""  # the command behind the `|` that follows
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    network: list[str] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    uses: list[ProgramUse] = field(default_factory=list)

    def path(self, text: str) -> str:
        """Absolute. `..` behind a link leads elsewhere than it reads: then links are followed at once."""
        path = "/" + os.path.join(self.cwd, text).lstrip("/")
        return places.real(path) if ".." in text.split("/") else os.path.normpath(path)

    def add(self, kind: str, text: str) -> None:
        """Note the effect of one value. Raises Opaque for one that may do more than it says."""
        kind = kind.removesuffix("+")
        if kind in _DIRECT:
            {"read": self.reads, "write": self.writes, "delete": self.deletes}[kind].append(self.path(text))
        elif kind in _SHAPES:
            if not _SHAPES[kind].fullmatch(text):
                raise Opaque(f"the word {text} is not what is expected there")
        elif kind == "replace":
            self.deletes.append(self.path(text))
            self.writes += [self.path(text), self.path(text) + ".gz"]
        elif kind == "host":
            self.network.append(text)
        elif kind == "url":
            self.network.append(checks.machine(text))
        elif kind == "rev":
            # A revision, unless a file has that name: outside a repository git diff reads files.
            if text.startswith(("/", "./", "../")) or os.path.lexists(self.path(text)):
                self.reads.append(self.path(text))
        elif kind in ("archive", "new-archive"):
            self._archive(kind, text)
        elif kind == "pid":
            self.signals.append(checks.pid(text))
        elif kind != "text":
            scripts.CHECKS[kind](text)

    def _archive(self, kind: str, text: str) -> None:
        if ":" in text:
            raise Opaque("tar takes HOST:FILE for an archive on another machine")
        if text != "-":
            self.add("read" if kind == "archive" else "write", text)

    def check_depth(self, paths: Sequence[str]) -> None:
        """Raise Opaque when all below one of these folders is read and secrets lie there.

        The sandbox keeps them unreadable; that the command goes looking there is worth a question.
        """
        for path in paths:
            whole = self.path(path)
            if places.holds_secrets(whole, self.home) or places.holds_secrets(places.real(whole), self.home):
                raise Opaque(f"it reads everything below {whole}, where secrets lie")

    def effects(self) -> Effects:
        def unique(found: list[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(found))

        return Effects(
            reads=unique(self.reads), writes=unique(self.writes), deletes=unique(self.deletes),
            programs=unique(self.programs), network=unique(self.network),
            signals=tuple(dict.fromkeys(self.signals)), uses=tuple(dict.fromkeys(self.uses)),
        )  # fmt: skip
