"""Lock files: the exact calls of a script with their effects and hashes, to be read by people and replayed.

A lock is JSON with sorted keys, made to be reviewed as a difference; what is empty is left out. Paths in the
folder it was made for are written `{cwd}/…`, so that it holds in another checkout. What it does not protect
against: somebody who may change the lock can change what is replayed, as with any script; the policy and its
questions stand regardless.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmos.automation import values
from llmos.automation.steps import JsonObject, Script, Step
from llmos.errors import ConfigError, Drifted

VERSION = 1
_CWD = "{cwd}"
_CHANGES = ("writes", "deletes")


@dataclass(frozen=True, slots=True)
class Lock:
    """What was pinned of a script: by step, the calls as the daemon's `replay` takes them."""

    name: str
    script_sha256: str
    inputs: JsonObject
    calls: Mapping[str, tuple[JsonObject, ...]]


def why_not(step: Step) -> str:
    """Why a step cannot be pinned; empty when it can."""
    if values.uses_outcomes([step.text, step.args, step.cwd, list(step.write)]):
        return "what it does depends on what an earlier step prints"
    return ""


def text(script: Script, inputs: JsonObject, cwd: str, steps: Mapping[str, tuple[JsonObject, ...]]) -> str:
    """The lock file's text; what earlier steps make is no precondition of later ones."""
    sentences = {step.id: step.sentence for step in script.flat()}
    made: set[str] = set()
    entries = []
    for step_id, calls in steps.items():
        loosened = [_loosened(call, made) for call in calls]
        entries.append({"step": step_id, "said": sentences[step_id], "calls": loosened})
    document = {
        "llmos_lock": VERSION,
        "script": {"name": script.name.rpartition("/")[2], "sha256": script.sha256},
        "inputs": inputs,
        "steps": _renamed(entries, cwd, _CWD),
    }
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _loosened(call: JsonObject, made: set[str]) -> JsonObject:
    """The call with `any` at places that earlier calls decide; adds its own to `made`."""
    pin = call["pin"]
    places = {path: "any" if _decided(path, made) else kind for path, kind in pin["places"].items()}
    made.update(path for name in _CHANGES for path in pin["effects"].get(name, ()))
    effects = {name: value for name, value in pin["effects"].items() if value}
    shown = {**pin, "places": places, "effects": effects}
    return {**call, "pin": {name: value for name, value in shown.items() if value or name == "effects"}}


def _decided(path: str, made: set[str]) -> bool:
    return any(
        path == other or path.startswith(other + "/") or other.startswith(path + "/") for other in made
    )


def read(name: str, content: str, cwd: str) -> Lock:
    """The lock in `content`, for use in `cwd`. Raises ConfigError."""
    try:
        found = json.loads(content)
        if found["llmos_lock"] != VERSION:
            raise ConfigError(f"version {found['llmos_lock']}", "Make it again: llmos compile", where=name)
        steps = _renamed(found["steps"], _CWD, cwd)
        calls = {str(step["step"]): tuple(step["calls"]) for step in steps}
        return Lock(name, str(found["script"]["sha256"]), dict(found["inputs"]), calls)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"not a lock file: {error!r}", "Make it again: llmos compile FILE", where=name
        ) from error


def check(lock: Lock, script: Script, inputs: JsonObject) -> None:
    """Raises Drifted when the lock is not this script's, or was made for other inputs."""
    step = f"Review the change and lock it again: llmos compile {script.name}"
    if lock.script_sha256 != script.sha256:
        raise Drifted(f"{script.name} was changed after {lock.name} was made", step)
    if lock.inputs != inputs:
        raise Drifted(f"{lock.name} was made for the inputs {lock.inputs}, not {inputs}", step)
    if missing := [step.id for step in script.flat() if step.id not in lock.calls]:
        raise Drifted(f"{lock.name} has nothing for the step {missing[0]}", step)


def _renamed(value: Any, old: str, new: str) -> Any:
    """Every path at or below `old`, as keys and as values, under `new` instead."""
    if isinstance(value, dict):
        return {_renamed(key, old, new): _renamed(item, old, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, old, new) for item in value]
    if isinstance(value, str) and (value == old or value.startswith(old + "/")):
        return new + value[len(old) :]
    return value
