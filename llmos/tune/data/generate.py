"""Puts everything together: templates, pairs written by hand, foreign tools, several steps, public pairs.

A seed gives the same lines, always. Nothing is learnt by heart that is measured later: the evaluation
sentences and what is close to them are left out, and validation has templates and names of its own.
"""

from __future__ import annotations

import json
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmos.engine.grammar import render_call
from llmos.tune.data import augment, scene
from llmos.tune.data.check import Checker, parses
from llmos.tune.data.overlap import Held, normal
from llmos.tune.data.phrases import Template, fill
from llmos.tune.data.slots import Filler

VALID_SHARE = 0.02


def is_valid(template_id: str) -> bool:
    """Whether a template belongs to the validation set."""
    return zlib.crc32(f"split {template_id}".encode()) % 1000 < 1000 * VALID_SHARE


@dataclass
class Maker:
    """Makes rows, refuses wrong ones, and counts both."""

    rng: random.Random
    checker: Checker
    held: Held
    valid: bool
    dropped: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.filler = Filler(self.rng, held_out=self.valid)

    # --- rows

    def row(self, template: Template, source: str, *, plain: bool = False) -> dict[str, Any] | None:
        """One row of a template, or None when it is a repetition or near an evaluation sentence."""
        said = fill(template, self.filler, self.rng)
        return self.call_row(
            said.say, said.calls, source, template.id, template.lang,
            here=said.here, data=template.data, files=template.files, plain=plain,
        )  # fmt: skip

    def call_row(
        self,
        say: str,
        calls: Sequence[dict[str, Any]],
        source: str,
        template: str,
        lang: str,
        *,
        here: Sequence[str] = (),
        data: str | None = None,
        files: Sequence[str] | None = None,
        plain: bool = False,
    ) -> dict[str, Any] | None:
        calls = [self.checker.plain(call) for call in calls]
        kept = self._kept(calls)
        if kept is None:
            return None
        say = say if plain else augment.vary(say, lang, kept, self.rng)
        if not self._new(say, kept):
            return None
        must = "!" in here or bool(files and self.rng.random() < 0.8)
        entries = scene.entries(self.rng, say, calls, [*here, *(files or ())], must=must)
        return {"kind": "call", "say": say, "entries": entries, "data_head": data, "calls": calls, "source": source, "template": template, "lang": lang}  # fmt: skip

    def translate_row(
        self, say: str, command: str, source: str, template: str, lang: str, *, entries: list[str] | None = None
    ) -> dict[str, Any] | None:
        if not parses(command):
            self.dropped["not bash"] += 1
            return None
        if not self._new(say, "$ " + command):
            return None
        return {"kind": "translate", "say": say, "entries": entries, "data_head": None, "command": command, "source": source, "template": template, "lang": lang}  # fmt: skip

    def _kept(self, calls: Sequence[dict[str, Any]]) -> str | None:
        """The text of the calls, or None when the grammar refuses them."""
        if problem := self.checker.problem(calls):
            self.dropped[f"refused: {problem}"] += 1
            return None
        return "\n".join(render_call(self.checker.specs[c["tool"]], c["args"]) for c in calls)

    def _new(self, say: str, target: str) -> bool:
        key = f"{normal(say)}\0{target}"
        if key in self._seen:
            self.dropped["repeated"] += 1
            return False
        if self.held.too_near(say):
            self.dropped["near an evaluation sentence"] += 1
            return False
        self._seen.add(key)
        return True

    # --- many rows

    def many(self, templates: Sequence[Template], count: int, source: str) -> Iterator[dict[str, Any]]:
        """About `count` rows, spread over tools, then calls, then their wordings."""
        groups = _by_tool(templates)
        if not groups:
            return
        weights = [_weight(tool, len(lines)) for tool, lines in groups]
        made = tries = 0
        while made < count and tries < 6 * count:
            tries += 1
            tool, lines = self.rng.choices(groups, weights)[0]
            row = self.row(self.rng.choice(lines), source)
            if row is not None:
                made += 1
                yield row


def _by_tool(templates: Sequence[Template]) -> list[tuple[str, list[Template]]]:
    groups: dict[str, list[Template]] = {}
    for template in templates:
        groups.setdefault("+".join(template.tools), []).append(template)
    return sorted(groups.items())


def _weight(tool: str, lines: int) -> float:
    """More for a tool with more to say, but less than in proportion."""
    return float(lines) ** 0.75


def dump(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)
