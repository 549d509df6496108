"""Scripts of requests: read a file into frozen steps, or say which line or key is wrong.

    FILE         one request a line, as in the shell: a sentence, `!COMMAND`, `/call TOOL JSON`, `cd FOLDER`;
                 `#` begins a comment line, a backslash at the end goes on in the next line
    FILE.toml    structured: [inputs], [vars], [[step]] with ask | call + args | command | parallel, `when`,
    FILE.json    on_failure, retries, timeout_s, cwd, write, data (the same in JSON: "step": […])

`${{ … }}` (an expression over inputs, vars and steps) may stand in any text of a structured step. What a step
printed is data: it can be an argument, a quoted word of a command or piped in, and is refused in a sentence.
Reading does nothing else: no request is made here, and no folder looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from llmos.automation.steps import Input, JsonObject, Script, Step
from llmos.automation.structured import Structured, document
from llmos.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_STEPS = 1000


def read(name: str, content: bytes) -> Script:
    """The script in `content`; `name` decides its form. Raises ConfigError with the line or key."""
    if len(content) > MAX_BYTES:
        raise ConfigError(f"more than {MAX_BYTES >> 20} MiB", "Split it into several scripts.", where=name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8: {error}", "Save it as UTF-8.", where=name) from error
    digest = hashlib.sha256(content).hexdigest()
    if name.endswith((".toml", ".json")):
        script = Structured(name, document(name, text), digest).script()
    else:
        script = Script(name, digest, tuple(_lines(name, text)))
    _check_whole(script)
    return script


def _check_whole(script: Script) -> None:
    steps = tuple(script.flat())
    if not steps:
        raise ConfigError(
            "no steps in it", "Write one request on a line, or [[step]] tables.", where=script.name
        )
    if len(steps) > MAX_STEPS:
        raise ConfigError(f"{len(steps)} steps, at most {MAX_STEPS}", "Split it.", where=script.name)
    seen: set[str] = set()
    for step in (*(step for step in script.steps if step.kind == "parallel"), *steps):
        if step.id in seen:
            raise ConfigError(f"two steps are called {step.id!r}", "Rename one.", where=script.name)
        seen.add(step.id)


# --- line by line ----------------------------------------------------------------------------------


def _lines(name: str, text: str) -> Iterator[Step]:
    folder = ""
    for number, line in _joined(text):
        where = f"{name}:{number}"
        word, _, rest = line.partition(" ")
        common: dict[str, Any] = {"id": f"line-{number}", "line": number, "cwd": folder}
        if word == "cd":
            folder = rest.strip() or "~"
        elif line.startswith("!"):
            if not line[1:].strip():
                raise ConfigError("! needs a command after it", "For instance: !ls -l", where=where)
            yield Step(kind="command", text=line[1:].strip(), **common)
        elif word == "/call":
            tool, args = _typed_call(rest, where)
            yield Step(kind="call", tool=tool, args=args, **common)
        elif line.startswith("/") and "/" not in word[1:]:
            raise ConfigError(f"there is no {word} in a script", "Known: /call TOOL JSON", where=where)
        else:
            yield Step(kind="ask", text=line, **common)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of each request; comments and blank lines are left out."""
    pending, begun = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not pending and (not line or line.startswith("#")):
            continue
        begun = begun if pending else number
        if line.endswith("\\") and not line.endswith("\\\\"):
            pending += line[:-1].rstrip() + " "
            continue
        yield begun, pending + line
        pending = ""
    if pending.strip():
        yield begun, pending.strip()


def _typed_call(rest: str, where: str) -> tuple[str, JsonObject]:
    tool, _, given = rest.strip().partition(" ")
    try:
        args = json.loads(given or "{}")
    except ValueError as error:
        raise ConfigError(
            f"not JSON: {error}", 'For instance: /call file.list {"path": "."}', where=where
        ) from error
    if not tool or not isinstance(args, dict):
        raise ConfigError(
            "a tool and a JSON object, please", 'As in: /call file.list {"path": "."}', where=where
        )
    return tool, args


# --- inputs ----------------------------------------------------------------------------------------


def bind(script: Script, given: Sequence[tuple[str, str]]) -> JsonObject:
    """The inputs of one run, typed; raises ConfigError for an unknown, missing or unusable one."""
    found: JsonObject = {}
    for name, text in given:
        if name not in script.inputs:
            known = ", ".join(script.inputs) or "none"
            raise ConfigError(f"it has no input {name!r}", f"Inputs: {known}.", where=script.name)
        found[name] = _typed(script.name, name, script.inputs[name], text)
    for name, spec in script.inputs.items():
        if name not in found:
            if spec.required and spec.default is None:
                raise ConfigError(
                    f"the input {name} is missing", f"Give it: --input {name}=…", where=script.name
                )
            found[name] = _typed(script.name, name, spec, spec.default)
    return found


def _typed(script: str, name: str, spec: Input, value: Any) -> Any:
    try:
        typed = _CASTS[spec.type](value) if value is not None else ""
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"the input {name} is {value!r}, not of the type {spec.type}",
            f"Give: --input {name}=…",
            where=script,
        ) from error
    if spec.choices and str(typed) not in spec.choices:
        raise ConfigError(
            f"the input {name} is {value!r}", f"One of: {', '.join(spec.choices)}.", where=script
        )
    return typed


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CASTS: dict[str, Any] = {
    "text": str,
    "path": str,
    "integer": int,
    "number": float,
    "boolean": lambda value: _BOOLEANS[str(value).lower()],
}
