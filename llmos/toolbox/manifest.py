"""A tool's manifest (tools/NAME.toml): its types, its reading, and errors a person can act on.

    name = "file.read"            summary = "Show a text file"        read_only = true
    common = true                   listed in every prompt, and not only when a request is near to it
    raw = "command"               the tool's one argument is written as plain text (shell.run, answer, ask)
    [args.path]                   type, required, default, help, min, max, choices, advanced
    [effects]                     reads, writes, deletes, programs, network: templates such as "{path}"
    [run]                         argv | pipeline | builtin; stdin_data, timeout_s, ok_codes
    [[example]]                   say = "…"   args = {…}

TOML's parser keeps no line numbers, so the line of a wrong key is found by looking for it in the text:
right for any manifest written the usual way, a near miss for one that is not.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from llmos import parsed
from llmos.errors import ConfigError
from llmos.messages import Example, Message
from llmos.toolbox import template

Type = Literal[
    "string", "path", "integer", "number", "boolean", "enum", "size", "duration",
    "list-of-string", "list-of-path",
]  # fmt: skip
Element = str | tuple[str, ...]
Key = tuple[str | int, ...]


class Arg(Message):
    type: Type = "string"
    required: bool = False
    default: str | bool | int | float | None = None
    help: str = ""
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False  # for typed calls: the model is not told of it


class EffectTemplates(Message):
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    network: tuple[str, ...] = ()


class RunSpec(Message):
    argv: tuple[Element, ...] | None = None
    pipeline: tuple[tuple[Element, ...], ...] | None = None
    builtin: str | None = None
    stdin_data: bool = False
    timeout_s: float = Field(default=60.0, gt=0, le=86400)
    ok_codes: tuple[int, ...] = (0,)


class Manifest(Message):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}(\.[a-z][a-z0-9_]{0,30}){0,2}$")
    summary: str = Field(min_length=3, max_length=120, pattern=r"^[^\x00-\x1f]+$")
    raw: str | None = None
    common: bool = False
    read_only: bool
    args: dict[str, Arg] = Field(default_factory=dict)
    effects: EffectTemplates = EffectTemplates()
    run: RunSpec
    example: tuple[Example, ...] = ()

    @property
    def argvs(self) -> tuple[tuple[Element, ...], ...]:
        return (self.run.argv,) if self.run.argv is not None else self.run.pipeline or ()


_KNOWN = sorted({
    *(key for model in (Manifest, Arg, EffectTemplates, RunSpec) for key in model.model_fields),
    *Example.__dataclass_fields__,
})  # fmt: skip
_MIN_EXAMPLES = 8


def read(file: Path, *, shipped: bool) -> Manifest:
    """Read and check one manifest; raises ConfigError naming file, line and key."""
    try:
        text = _text(file, shipped=shipped)
        values = parsed.loads(text) if shipped else tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError("it is nested too deeply", f"Mend {file}.", where=f"{file}:1") from error
    except tomllib.TOMLDecodeError as error:
        line = match[1] if (match := re.search(r"at line (\d+)", str(error))) else "1"
        raise ConfigError(str(error), f"Mend the TOML syntax of {file}.", where=f"{file}:{line}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(error), "Make it a readable UTF-8 file.", where=f"{file}:1") from error
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        raise _explain(error, text, file) from error
    for key, problem in problems(manifest, shipped=shipped):
        raise ConfigError(problem, "Correct that key.", where=where(file, text, key))
    return manifest


def _text(file: Path, *, shipped: bool) -> str:
    """Raises ConfigError for a file that anybody could have written: a tool that only reads runs unasked.

    A group may write it: on many systems that is the group of the person alone.
    """
    for place in () if shipped else (file.parent, file):
        found = place.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"others than root and you can write {place}, so its tools are not trusted",
                f"Look at it, then: chown {os.geteuid()} {place}; chmod o-w {place}",
                where=f"{file}:1",
            )
    if not file.is_file():  # a FIFO would be waited for
        raise OSError(f"{file} is not a regular file")
    return file.read_text(encoding="utf-8")


def _explain(error: ValidationError, text: str, file: Path) -> ConfigError:
    found = error.errors()
    # A misspelt key is also a missing one: what stands in the file is what the person can see.
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    key: Key = first["loc"]
    message, step = first["msg"], "Correct that key."
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(key[-1]), _KNOWN, 1)
        message = "this key is not known"
        step = f"Did you mean `{close[0]}`?" if close else f"Known keys: {', '.join(_KNOWN)}."
    return ConfigError(message, step, where=where(file, text, key))


def where(file: Path, text: str, key: Key) -> str:
    """`FILE:LINE: key`."""
    return f"{file}:{_line_of(text, key)}: {'.'.join(map(str, key))}"


def _line_of(text: str, key: Key) -> int:
    lines, at, table = text.splitlines(), 0, ""
    for part in key:
        if isinstance(part, int):
            headers = [n for n, line in enumerate(lines) if line.strip() == f"[[{table}]]"]
            at = headers[part] if part < len(headers) else at
            continue
        table = str(part)
        mark = re.compile(
            rf'^\s*(?:\[\[?(?:[\w.-]+\.)?"?{re.escape(table)}"?[\].]|"?{re.escape(table)}"?\s*=)'
        )
        at = next((n for n in range(at, len(lines)) if mark.match(lines[n])), at)
    return at + 1


# --- what the types alone cannot say ---------------------------------------------------------------


def problems(manifest: Manifest, *, shipped: bool) -> Iterator[tuple[Key, str]]:
    """What is wrong, each with the key it is wrong at."""
    yield from _args_problems(manifest)
    run = manifest.run
    if sum(way is not None for way in (run.argv, run.pipeline, run.builtin)) != 1:
        yield ("run",), "a tool runs by exactly one of argv, pipeline and builtin"
    if run.builtin is not None and not shipped:
        yield ("run", "builtin"), "only shipped tools are built in; write an argv or a pipeline"
    if manifest.read_only and (manifest.effects.writes or manifest.effects.deletes):
        yield ("read_only",), "a tool that declares writes or deletes is not read-only"
    if len(manifest.example) < _MIN_EXAMPLES and shipped:
        yield ("example",), f"a shipped tool has at least {_MIN_EXAMPLES} examples"
    for argv in manifest.argvs:
        yield from (
            (("run",), problem) for problem in template.problems(argv, manifest.args, _surely(manifest))
        )
    for name in EffectTemplates.model_fields:
        unknown = template.names(getattr(manifest.effects, name)) - set(manifest.args)
        yield from ((("effects", name), f"there is no argument `{word}`") for word in sorted(unknown))


def _surely(manifest: Manifest) -> frozenset[str]:
    """Arguments that always have a value."""
    args = manifest.args.items()
    return frozenset(name for name, arg in args if arg.required or arg.default is not None)


def _args_problems(manifest: Manifest) -> Iterator[tuple[Key, str]]:
    if manifest.raw is not None and set(manifest.args) != {manifest.raw}:
        yield ("raw",), "a raw tool has exactly one argument, the one that `raw` names"
    for name, arg in manifest.args.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name):
            yield ("args", name), "an argument's name is lower-case letters, digits and _"
        if (arg.type == "enum") != bool(arg.choices):
            yield ("args", name), "`choices` and type `enum` belong together"
        if arg.required and arg.default is not None:
            yield ("args", name, "default"), "a required argument has no default"
        if arg.type not in ("integer", "number") and (arg.min, arg.max) != (None, None):
            yield ("args", name), "only numbers have `min` and `max`"
    if manifest.raw in manifest.args and manifest.args[manifest.raw].type != "string":
        yield ("args", manifest.raw, "type"), "a raw argument is a string"


def types() -> Sequence[str]:
    return get_args(Type)
