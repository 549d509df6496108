"""A manifest's arguments as JSON Schema (for grammar and prompt), and the check of a call's arguments.

The schema keeps to what a grammar can enforce: type, enum, minimum, maximum, pattern, items, required,
additionalProperties. The check is wider where a person may write more freely (`10 MB` for `10M`), and
turns sizes into bytes and durations into seconds, so that planners see numbers.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from llmos.errors import UsageError
from llmos.messages import JsonObject
from llmos.toolbox import values
from llmos.toolbox.manifest import Arg, Manifest

_MAX_CHARS = 1 << 20
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # half a character; the rest stands for odd bytes


def schema(manifest: Manifest, *, advanced: bool = False) -> JsonObject:
    """JSON Schema (draft 2020-12) of the arguments object; with `advanced`, of all that may be typed."""
    required = [name for name, arg in manifest.args.items() if arg.required]
    offered = {name: arg for name, arg in manifest.args.items() if advanced or not arg.advanced}
    found: JsonObject = {
        "type": "object",
        "properties": {name: _property(arg) for name, arg in offered.items()},
        "additionalProperties": False,
    }
    return found | ({"required": required} if required else {})


def _property(arg: Arg) -> JsonObject:
    """One argument; `default` is an annotation that the prompt shows and the grammar ignores."""
    return _type(arg) | ({} if arg.default is None else {"default": arg.default})


def _type(arg: Arg) -> JsonObject:
    patterns = {"size": values.SIZE_PATTERN, "duration": values.DURATION_PATTERN}
    match arg.type:
        case "enum":
            return {"type": "string", "enum": list(arg.choices)}
        case "size" | "duration" as kind:
            return {"type": "string", "pattern": patterns[kind]}
        case "list-of-string" | "list-of-path":
            return {"type": "array", "items": {"type": "string"}}
        case "integer" | "number" as kind:
            limits = {"minimum": arg.min, "maximum": arg.max}
            cast = int if kind == "integer" else float
            return {"type": kind} | {key: cast(v) for key, v in limits.items() if v is not None}
        case "boolean":
            return {"type": "boolean"}
        case _:
            return {"type": "string"}


def check(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Converted arguments, defaults included, absent ones None. Raises UsageError naming both."""
    for name in given:
        if name not in manifest.args:
            raise _unknown(manifest, name)
    return {name: _value(manifest, name, arg, given.get(name)) for name, arg in manifest.args.items()}


def _unknown(manifest: Manifest, name: str) -> UsageError:
    close = difflib.get_close_matches(name, manifest.args, 1)
    known = ", ".join(manifest.args) or "none"
    step = f"Did you mean `{close[0]}`?" if close else f"It takes: {known}."
    return UsageError(f"{manifest.name}: there is no argument `{name[:80]}`", step)


def _value(manifest: Manifest, name: str, arg: Arg, value: Any) -> Any:
    if value is None:
        if arg.required:
            raise _refuse(manifest, name, "it is missing")
        value = arg.default
    if value is None:
        return None
    try:
        return _CONVERT[arg.type](value, arg)
    except ValueError as error:
        raise _refuse(manifest, name, f"expected {error}, not {str(value)[:80]!r}") from None


def _refuse(manifest: Manifest, name: str, problem: str) -> UsageError:
    step = f"See: llmos tools {manifest.name}"
    return UsageError(f"{manifest.name}: argument `{name}`: {problem}", step)


def _string(value: Any, arg: Arg) -> str:
    if not isinstance(value, str) or "\0" in value or _HALF.search(value):
        raise ValueError("text")
    if len(value) > _MAX_CHARS:
        raise ValueError(f"at most {_MAX_CHARS} characters")
    return value


def _path(value: Any, arg: Arg) -> str:
    if not isinstance(value, str) or not value or "\0" in value or len(value) > 4096 or _HALF.search(value):
        raise ValueError("a path")
    return value


def _integer(value: Any, arg: Arg) -> int:
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    _bounded(value, arg)
    return value


def _number(value: Any, arg: Arg) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a number")
    _bounded(value, arg)
    return float(value)


def _bounded(value: float, arg: Arg) -> None:
    if arg.min is not None and value < arg.min:
        raise ValueError(f"at least {arg.min:g}")
    if arg.max is not None and value > arg.max:
        raise ValueError(f"at most {arg.max:g}")


def _boolean(value: Any, arg: Arg) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _enum(value: Any, arg: Arg) -> str:
    if value not in arg.choices:
        raise ValueError("one of " + ", ".join(arg.choices))
    return str(value)


def _size(value: Any, arg: Arg) -> int:
    if isinstance(value, bool) or (isinstance(value, int) and value < 0):
        raise ValueError("a size such as 500K, 10M or 1.5G")
    return values.size_bytes(str(value))


def _duration(value: Any, arg: Arg) -> float:
    return values.duration_s(str(value))


def _list(item: Callable[[Any, Arg], str]) -> Callable[[Any, Arg], list[str]]:
    def convert(value: Any, arg: Arg) -> list[str]:
        if not isinstance(value, list) or not value or len(value) > 1000:
            raise ValueError("a list of 1 to 1000 items")
        return [item(part, arg) for part in value]

    return convert


_CONVERT: Mapping[str, Callable[[Any, Arg], Any]] = {
    "string": _string,
    "path": _path,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "enum": _enum,
    "size": _size,
    "duration": _duration,
    "list-of-string": _list(_string),
    "list-of-path": _list(_path),
}
