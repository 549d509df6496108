"""Structured scripts: the tables of a TOML or JSON document as steps. An unknown key is an error."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from typing import Any

from llmos.automation import values
from llmos.automation.steps import Input, InputType, JsonObject, OnFailure, Script, Step
from llmos.errors import ConfigError

MAX_PARALLEL = 16  # of a group; the daemon takes 32 requests of one client
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_KINDS = ("ask", "call", "command", "parallel")


def document(name: str, text: str) -> JsonObject:
    try:
        found = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(str(error), "Mend the syntax.", where=name) from error
    if not isinstance(found, dict):
        raise ConfigError("not a table of keys", 'For instance: {"step": [{"ask": "…"}]}', where=name)
    return found


class Structured:
    """Reads the tables of one document; every key is known or an error."""

    def __init__(self, name: str, document: JsonObject, digest: str) -> None:
        self._name, self._document, self._digest = name, document, digest
        self._count = 0

    def script(self) -> Script:
        top = self._table(self._document, "", {"inputs", "vars", "step", "steps", "timeout_s", "description"})
        inputs = {key: self._input(key, value) for key, value in self._of(top, "inputs", dict).items()}
        known = self._of(top, "vars", dict)
        for key, value in known.items():
            self._check(value, f"vars.{key}", outcomes=False)
        tables = [*self._of(top, "step", list), *self._of(top, "steps", list)]
        steps = tuple(self._step(table, f"step {number}") for number, table in enumerate(tables, 1))
        return Script(self._name, self._digest, steps, inputs, known, self._seconds(top, ""))

    def _input(self, key: str, value: Any) -> Input:
        where = f"inputs.{key}"
        if not key.isidentifier():
            raise self._wrong(where, "a name is letters, digits and _", "Rename it.")
        if not isinstance(value, dict):
            return Input(type_of(value), value)
        table = self._table(value, where, {"type", "default", "required", "choices", "help"})
        kind = table.get("type", type_of(table.get("default")))
        if kind not in ("text", "path", "integer", "number", "boolean"):
            raise self._wrong(where, f"no type {kind!r}", "Types: text, path, integer, number, boolean.")
        required = bool(table.get("required", "default" not in table))
        choices = tuple(str(choice) for choice in table.get("choices", ()))
        return Input(kind, table.get("default"), required, choices, str(table.get("help", "")))

    def _step(self, value: Any, where: str, *, inner: bool = False) -> Step:
        allowed = {
            *_KINDS,
            "id",
            "args",
            "when",
            "on_failure",
            "retries",
            "timeout_s",
            "cwd",
            "write",
            "data",
        }
        table = self._table(value, where, allowed | {"unchanged", "repeatable"})
        self._count += 1
        step_id = str(table.get("id", f"step-{self._count}"))
        where = f"{where} ({step_id})" if "id" in table else where
        if not _ID.fullmatch(step_id):
            raise self._wrong(where, f"{step_id!r} is no id", "Letters, digits, - and _, a letter first.")
        kinds = [kind for kind in _KINDS if kind in table]
        if len(kinds) != 1:
            raise self._wrong(
                where, f"it needs exactly one of {', '.join(_KINDS)}", 'For instance: ask = "…"'
            )
        kind = kinds[0]
        if kind == "parallel" and inner:
            raise self._wrong(where, "a group inside a group", "Put its steps into the outer one.")
        on_failure, otherwise = self._failure(table, where)
        step = Step(
            id=step_id,
            kind=kind,  # type: ignore[arg-type]  # one of _KINDS
            text=self._text(table, kind, where) if kind in ("ask", "command") else "",
            tool=self._text(table, "call", where) if kind == "call" else "",
            args=self._args(table, kind, where),
            group=self._group(table, where) if kind == "parallel" else (),
            when=self._text(table, "when", where),
            on_failure=on_failure,
            otherwise=otherwise,
            retries=self._whole(table, "retries", where, most=20),
            timeout_s=self._seconds(table, where),
            cwd=self._text(table, "cwd", where),
            write=self._texts(table, "write", where),
            data=self._text(table, "data", where),
            unchanged=self._texts(table, "unchanged", where),
            repeatable=bool(table.get("repeatable", False)),
        )
        self._check_templates(step, where)
        return step

    def _args(self, table: JsonObject, kind: str, where: str) -> JsonObject:
        if "args" in table and kind != "call":
            raise self._wrong(where, "args belong to a call", "Give the tool's name: call = …")
        return dict(self._of(table, "args", dict))

    def _group(self, table: JsonObject, where: str) -> tuple[Step, ...]:
        tables = self._of(table, "parallel", list)
        if not 0 < len(tables) <= MAX_PARALLEL:
            raise self._wrong(where, f"a group has 1 to {MAX_PARALLEL} steps", "Split it.")
        return tuple(
            self._step(inner, f"{where}.{index}", inner=True) for index, inner in enumerate(tables, 1)
        )

    def _failure(self, table: JsonObject, where: str) -> tuple[OnFailure, tuple[Step, ...]]:
        given = table.get("on_failure", "stop")
        if given in ("stop", "continue", "ignore"):
            return given, ()
        if not isinstance(given, list):
            step = "Say stop, continue or ignore, or give steps to run then: [[step.on_failure]]"
            raise self._wrong(where, f"on_failure is {given!r}", step)
        steps = (self._step(inner, f"{where}.on_failure.{i}", inner=True) for i, inner in enumerate(given, 1))
        return "stop", tuple(steps)

    def _check_templates(self, step: Step, where: str) -> None:
        """Sentences may not hold what a step printed; everything must at least be well-formed."""
        self._check(step.text, where, outcomes=step.kind != "ask")
        for value in (step.args, step.cwd, list(step.write), step.data):
            self._check(value, where)
        if step.when:
            values.check_condition(step.when, f"{self._name}: {where}.when")

    def _check(self, value: Any, where: str, *, outcomes: bool = True) -> None:
        values.check(value, f"{self._name}: {where}", outcomes=outcomes)

    # --- keys and types ---

    def _table(self, value: Any, where: str, known: set[str]) -> JsonObject:
        if not isinstance(value, dict):
            raise self._wrong(where, "not a table", 'For instance: [[step]] and below it: ask = "…"')
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.5)
                hint = f"Did you mean {near[0]}?" if near else f"Keys: {', '.join(sorted(known))}."
                raise self._wrong(f"{where}.{key}".lstrip("."), "unknown key", hint)
        return dict(value)

    def _of(self, table: JsonObject, key: str, kind: type) -> Any:
        value = table.get(key, kind())
        if not isinstance(value, kind):
            what = "a table" if kind is dict else "a list of tables"
            raise self._wrong(key, f"not {what}", f"Write {key} as {what}.")
        return value

    def _text(self, table: JsonObject, key: str, where: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str) or (key in table and not value.strip()):
            raise self._wrong(f"{where}.{key}", "not a text", f'Write {key} = "…"')
        return value

    def _texts(self, table: JsonObject, key: str, where: str) -> tuple[str, ...]:
        value = table.get(key, ())
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self._wrong(f"{where}.{key}", "not a list of texts", f'Write {key} = ["…"]')
        return tuple(value)

    def _whole(self, table: JsonObject, key: str, where: str, *, most: int) -> int:
        value = table.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self._wrong(f"{where}.{key}", f"not a number from 0 to {most}", f"Write {key} = 2")
        return value

    def _seconds(self, table: JsonObject, where: str) -> float:
        value = table.get("timeout_s", 0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 86_400:
            raise self._wrong(
                f"{where}.timeout_s".lstrip("."), "not 0 to 86400 seconds", "Write timeout_s = 60"
            )
        return float(value)

    def _wrong(self, where: str, what: str, next_step: str) -> ConfigError:
        return ConfigError(what, next_step, where=f"{self._name}: {where}" if where else self._name)


def type_of(value: Any) -> InputType:
    if isinstance(value, bool):
        return "boolean"
    return "integer" if isinstance(value, int) else "number" if isinstance(value, float) else "text"
