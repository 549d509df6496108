"""Policy files: TOML read into rules, loud about every mistake, and a rule written as Cedar.

    extends = "default"          (shipped sets only) the rules of that set come first
    [[rule]]
    id = "files.change"          decision = "allow" | "ask" | "deny" (never left out)
    why = "It changes files."    when = 'action == Action::"write" && context.in_write_roots'
    match = ["touch a", {writes = ["a"]}]        not_match = ["ls"]

Examples are shell commands, or tables with effects; they are judged as a person's with the home
/home/person, working in /home/person/work, which is also the only write root.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from llmos.errors import ConfigError
from llmos.guard import commandline
from llmos.guard.facts import Facts
from llmos.messages import Decision, Effects, Message, Plan, ProgramUse, Shell, ToolCall

EXAMPLE_HOME = "/home/person"
EXAMPLE_CWD = "/home/person/work"
SETS = ("builtin", "default", "readonly", "unattended")


class Example(Message):
    """Effects written out, for what is no shell command."""

    tool: str = "example"
    read_only: bool = False
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    uses: tuple[ProgramUse, ...] = ()
    network: tuple[str, ...] = ()
    signals: tuple[int, ...] = ()
    opaque: str = ""
    reply: str | None = None
    unattended: bool = False


class _RuleText(Message):
    id: str = Field(pattern=r"^[a-z][a-z0-9_.-]{1,60}$")
    decision: Literal["allow", "ask", "deny"]
    why: str = Field(min_length=5, max_length=300)
    when: str = Field(min_length=1, max_length=2000)
    match: tuple[str | Example, ...] = Field(min_length=1)
    not_match: tuple[str | Example, ...] = ()


class _File(Message):
    extends: Literal["default"] | None = None
    rule: tuple[_RuleText, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    decision: Decision
    why: str
    when: str
    match: tuple[str | Example, ...]
    not_match: tuple[str | Example, ...]
    shipped: bool
    where: str  # FILE:LINE


def load(set_name: str, dirs: Sequence[Path]) -> Iterator[Rule]:
    """The rules of all tiers, shipped ones first; raises ConfigError, also for an id given twice."""
    if set_name not in SETS[1:]:
        raise ConfigError(f"there is no policy set {set_name!r}", f"Use one of: {', '.join(SETS[1:])}.")
    seen: dict[str, str] = {}
    for rule in _all(set_name, dirs):
        if rule.id in seen:
            raise ConfigError(
                f"the rule {rule.id} also stands in {seen[rule.id]}", "Rename one.", where=rule.where
            )
        seen[rule.id] = rule.where
        yield rule


def _all(set_name: str, dirs: Sequence[Path]) -> Iterator[Rule]:
    shipped, *later = dirs
    yield from _read(shipped / "builtin.toml", shipped=True)
    yield from _read(shipped / f"{set_name}.toml", shipped=True)
    for folder in later:
        for file in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            yield from _read(file, shipped=False)


def _read(file: Path, *, shipped: bool) -> Iterator[Rule]:
    text = _text(file)
    parsed = _parse(text, file)
    if parsed.extends:
        if not shipped:
            raise ConfigError("only shipped sets extend one", "Remove that key.", where=f"{file}: extends")
        yield from _read(file.with_name(f"{parsed.extends}.toml"), shipped=True)
    for number, found in enumerate(parsed.rule):
        where = f"{file}:{_line(text, number)}"
        if not shipped and found.decision == "allow":
            raise ConfigError(
                "a rule of your own can only make things stricter: ask or deny",
                "To stop being asked, answer `always` when you are; to open a folder, use --write.",
                where=f"{where}: rule.{number}.decision",
            )
        decision = Decision[found.decision.upper()]
        yield Rule(
            found.id, decision, found.why, found.when, found.match, found.not_match, shipped, where
        )  # fmt: skip


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(error), "Make it a readable UTF-8 file.", where=f"{file}:1") from error


def _parse(text: str, file: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        line = found[1] if (found := re.search(r"at line (\d+)", str(error))) else "1"
        raise ConfigError(str(error), f"Mend the TOML syntax of {file}.", where=f"{file}:{line}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key: tuple[Any, ...] = first["loc"]
        number = key[1] if len(key) > 1 and isinstance(key[1], int) else 0
        where = f"{file}:{_line(text, number)}: {'.'.join(map(str, key))}"
        known = ", ".join(_RuleText.model_fields)
        raise ConfigError(first["msg"], f"Keys of a rule: {known}.", where=where) from error


def _line(text: str, number: int) -> int:
    """The line of the rule with this number: TOML's parser keeps none."""
    headers = [at for at, line in enumerate(text.splitlines(), 1) if line.strip() == "[[rule]]"]
    return headers[number] if number < len(headers) else 1


def to_cedar(rule: Rule) -> str:
    """A permit with the rule's id: which permits determine the answer tells which rules match."""
    return f"@id({json.dumps(rule.id)})\npermit (principal, action, resource) when {{ {rule.when} }};"


def example_plan(example: str | Example) -> tuple[Plan, Facts]:
    """An example as a plan of an imagined person; paths are counted from their folder."""
    facts = Facts(
        1000, EXAMPLE_HOME, EXAMPLE_CWD, (EXAMPLE_CWD,), isinstance(example, Example) and example.unattended
    )
    return (_of_command(example) if isinstance(example, str) else _of_effects(example)), facts


def _of_command(text: str) -> Plan:
    found = commandline.analyse(text, cwd=EXAMPLE_CWD, home=EXAMPLE_HOME)
    call = ToolCall(tool="shell.run", args={"command": text})
    steps = (Shell(text=text),)
    return Plan(call=call, command=text, effects=found.effects, steps=steps, read_only=found.read_only)


def _of_effects(example: Example) -> Plan:
    def absolute(words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Path(EXAMPLE_CWD, word)) for word in words)

    effects = Effects(
        reads=absolute(example.reads), writes=absolute(example.writes), deletes=absolute(example.deletes),
        programs=example.programs, network=example.network, signals=example.signals, opaque=example.opaque,
        uses=example.uses,
    )  # fmt: skip
    return Plan(
        call=ToolCall(tool=example.tool),
        command=example.tool,
        effects=effects,
        steps=(),
        read_only=example.read_only,
        reply=example.reply,
    )
