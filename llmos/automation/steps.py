"""What a script is made of once it is read: inputs, steps, the whole. Frozen plain data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

JsonObject = dict[str, Any]
Kind = Literal["ask", "call", "command", "parallel"]
OnFailure = Literal["stop", "continue", "ignore"]
InputType = Literal["text", "path", "integer", "number", "boolean"]


@dataclass(frozen=True, slots=True)
class Input:
    """A value that a run is given: `--input NAME=VALUE`, or its default."""

    type: InputType = "text"
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    help: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a script, or a group of them that runs at the same time."""

    id: str
    kind: Kind
    text: str = ""  # of ask and command
    tool: str = ""
    args: JsonObject = field(default_factory=dict)
    group: tuple[Step, ...] = ()
    when: str = ""
    on_failure: OnFailure = "stop"
    otherwise: tuple[Step, ...] = ()  # run when it failed, before on_failure is followed
    retries: int = 0
    timeout_s: float = 0.0
    cwd: str = ""
    write: tuple[str, ...] = ()
    data: str = ""
    unchanged: tuple[str, ...] = ()  # files whose content a locked run depends on
    repeatable: bool = False  # a locked run may find what an earlier run of it has made
    line: int = 0

    @property
    def sentence(self) -> str:
        """What a person would recognise it by."""
        if self.kind == "parallel":
            return ", ".join(step.id for step in self.group)
        return (
            f"{self.tool} {json.dumps(self.args, ensure_ascii=False)}" if self.kind == "call" else self.text
        )


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    sha256: str
    steps: tuple[Step, ...]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    vars: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 0.0  # of the whole run; 0: no limit

    def flat(self) -> Iterator[Step]:
        """Every step that makes a request, in the order of the file."""
        for step in self.steps:
            yield from _flat(step)


def _flat(step: Step) -> Iterator[Step]:
    if step.kind != "parallel":
        yield step
    for inner in (*step.group, *step.otherwise):
        yield from _flat(inner)
