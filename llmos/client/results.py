"""What the client gives: results, calls, events and questions, frozen and typed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from llmos.errors import CallFailed, Denied, LlmosError, NeedsApproval, NotUnderstood

JsonObject = dict[str, Any]
Status = Literal["done", "denied", "failed", "needs_approval", "needs_input", "not_understood"]


@dataclass(frozen=True, slots=True)
class Call:
    """One typed call of a request and what came of it. `exit_code` is None for one that did not run."""

    tool: str
    args: JsonObject
    verdict: str
    rule: str
    reason: str
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    effects: JsonObject = field(default_factory=dict)
    undo_id: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a request ended. `raw` is the daemon's own object, with whatever a newer one adds."""

    id: str
    status: Status
    route: str
    calls: tuple[Call, ...]
    answer: str | None
    timing: JsonObject
    raw: JsonObject = field(repr=False)

    @property
    def ok(self) -> bool:
        return self.status == "done"

    @property
    def text(self) -> str:
        """What a person would read: the answer, or else what the calls printed."""
        return self.answer or "".join(call.stdout for call in self.calls)

    @property
    def undo_id(self) -> str | None:
        """What `undo` takes to take this back; None where nothing was changed or kept."""
        return next((call.undo_id for call in reversed(self.calls) if call.undo_id), None)

    def raise_for_status(self) -> Result:
        """Itself when it is done; else raises Denied, NeedsApproval, NotUnderstood or CallFailed."""
        if self.ok:
            return self
        stopped = next(
            (call for call in self.calls if call.verdict != "allow" and call.exit_code is None), None
        )
        why = self.answer or (stopped.reason if stopped else self.status)
        raise _ERRORS.get(self.status, CallFailed)(why, _STEPS.get(self.status, "See: llmos history"))


_ERRORS: dict[str, type[LlmosError]] = {
    "denied": Denied,
    "needs_approval": NeedsApproval,
    "needs_input": NotUnderstood,
    "not_understood": NotUnderstood,
}
_STEPS = {"needs_approval": "Pass yes=True, or approve=…", "needs_input": "Ask again with what is missing."}


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of a request; the kinds stand in docs/protocol.md."""

    id: str
    kind: str
    data: JsonObject


@dataclass(frozen=True, slots=True)
class Question:
    """What the policy asks about: exactly what would run, and what it changes."""

    id: str
    tool: str
    args: JsonObject
    command: str
    reason: str
    effects: JsonObject
    changes: JsonObject | None  # what it really did on a view of the files; None where it was not tried


@dataclass(frozen=True, slots=True)
class Translation:
    command: str
    confidence: float
    route: str


OnEvent = Callable[[Event], object]
Approve = Callable[[Question], bool]


def result(raw: JsonObject) -> Result:
    known = Call.__dataclass_fields__
    calls = tuple(
        Call(**{key: value for key, value in call.items() if key in known}) for call in raw.get("calls") or ()
    )
    return Result(
        id=str(raw["id"]),
        status=raw["status"],
        route=str(raw.get("route", "local")),
        calls=calls,
        answer=raw.get("answer"),
        timing=raw.get("timing") or {},
        raw=raw,
    )


def question_of(event: Event) -> Question:
    data, call = event.data, event.data.get("call") or {}
    return Question(
        id=event.id,
        tool=str(data.get("tool") or call.get("tool") or ""),
        args=call.get("args") or {},
        command=str(data.get("command") or ""),
        reason=str(data.get("reason") or ""),
        effects=data.get("effects") or {},
        changes=data.get("changes"),
    )
