"""A finding: what is wrong, how that is known, in words and in numbers, and which calls would mend it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmos.toolbox.advisor.facts import Process

JsonObject = dict[str, Any]
Severity = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True)
class Suggestion:
    tool: str
    args: JsonObject
    why: str


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    about: str
    severity: Severity
    what: str
    evidence: tuple[str, ...]
    numbers: JsonObject
    suggestions: tuple[Suggestion, ...] = ()

    @property
    def as_json(self) -> JsonObject:
        return asdict(self)


def details(one: Process) -> Suggestion:
    return Suggestion("process.details", {"pid": one.pid}, f"what {one.name} has open and where it came from")


def bounding(culprit: Process, total_bytes: int) -> tuple[Suggestion, ...]:
    """A bound a quarter above what it holds now: it goes on, and what it may still take is known."""
    if culprit.protected:
        return (details(culprit),)
    most = min(int(culprit.bytes_now * 5 / 4) or 1 << 20, total_bytes)
    args = {"target": str(culprit.pid), "memory": f"{max(1, most >> 20)}M"}
    why = f"{culprit.name} may not grow by more than a quarter from now on"
    return (Suggestion("resource.limit", args, why), details(culprit))
