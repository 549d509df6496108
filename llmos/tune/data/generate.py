"""Puts everything together: templates, pairs written by hand, foreign tools, several steps, public pairs.

A seed gives the same lines, always. Nothing is learnt by heart that is measured later: the evaluation
sentences and what is close to them are left out, and validation has templates and names of its own.
"""

from __future__ import annotations

import json
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmos.engine.grammar import render_call
from llmos.tune.data import augment, bash, folders, heads, public, rivals, scene, several
from llmos.tune.data.check import Checker, parses
from llmos.tune.data.names import Filler
from llmos.tune.data.overlap import Held, normal
from llmos.tune.data.phrases import Template, fill

VALID_SHARE = 0.025
# Of `count` rows. What is left is public pairs, as many as there are.
SHARES = {"templates": 0.5, "several": 0.075, "talk": 0.045, "foreign": 0.13, "bash": 0.2}
MAX_HAND_TIMES = 8  # each pair written by hand is tried so often, in small sets less
# So often may a sentence stand with the same calls, each time beside other files.
AGAIN = {"hand": 5, "talk": 3, "templates": 3, "several": 2, "foreign": 2}


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
    _seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.filler = Filler(self.rng, held_out=self.valid)

    # --- rows

    def row(self, template: Template, source: str, *, plain: bool = False) -> dict[str, Any] | None:
        """One row of a template, or None when it is a repetition or near an evaluation sentence."""
        said = fill(template, self.filler, self.rng)
        return self.call_row(
            said.say,
            said.calls,
            source,
            template.id,
            template.lang,
            here=said.here,
            data=self.data_like(template.data),
            files=template.files,
            heads_of=template.heads,
            plain=plain,
        )

    def with_heads(self, row: dict[str, Any]) -> dict[str, Any]:
        """With the heads of the files it names, where its calls can still be written so."""
        made = heads.with_heads(row, self.rng)
        kept = row if made is not row and self.checker.problem(made["calls"]) else made
        return folders.with_folders(kept, self.rng)

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
        heads_of: Mapping[str, Sequence[str]] | None = None,
        plain: bool = False,
    ) -> dict[str, Any] | None:
        calls = [self.checker.plain(call) for call in calls]
        kept = self._kept(calls)
        if kept is None:
            return None
        say = say if plain else augment.vary(say, lang, kept, self.rng)
        if not self._new(say, kept, again=AGAIN.get(source, 1)):
            return None
        must = "!" in here or bool(files and self.rng.random() < 0.8)
        entries = scene.entries(self.rng, say, calls, [*here, *(files or ())], must=must)
        return {
            "kind": "call",
            "say": say,
            "entries": entries,
            "data_head": data,
            "calls": calls,
            "source": source,
            "template": template,
            "lang": lang,
            "avoid": rivals.of(calls),
            **heads.given(heads_of or {}, say, entries or (), calls),
        }

    def data_like(self, data: str | None) -> str | None:
        """Piped data of the same kind as the phrase file shows, mostly another text."""
        if data is None or self.rng.random() < 0.3:
            return data
        return scene.piped(data, self.rng)

    def translate_row(
        self,
        say: str,
        command: str,
        source: str,
        template: str,
        lang: str,
        *,
        entries: list[str] | None = None,
    ) -> dict[str, Any] | None:
        if not parses(command):
            self.dropped["not bash"] += 1
            return None
        if not self._new(say, "$ " + command):
            return None
        return {
            "kind": "translate",
            "say": say,
            "entries": entries,
            "data_head": None,
            "command": command,
            "source": source,
            "template": template,
            "lang": lang,
        }

    def _kept(self, calls: Sequence[dict[str, Any]]) -> str | None:
        """The text of the calls, or None when the grammar refuses them."""
        if problem := self.checker.problem(calls):
            self.dropped[f"refused: {problem}"] += 1
            return None
        return "\n".join(render_call(self.checker.specs[c["tool"]], c["args"]) for c in calls)

    def _new(self, say: str, target: str, *, again: int = 1) -> bool:
        key = f"{normal(say)}\0{target}"
        if self._seen[key] >= again:
            self.dropped["repeated"] += 1
            return False
        if self.held.too_near(say):
            self.dropped["near an evaluation sentence"] += 1
            return False
        self._seen[key] += 1
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
            _, lines = self.rng.choices(groups, weights)[0]
            row = self.row(self.rng.choice(lines), source)
            if row is not None:
                made += 1
                yield row

    def composed(self, templates: Sequence[Template], count: int) -> Iterator[dict[str, Any]]:
        """Requests of several steps, put together from single ones."""
        usable = [template for template in templates if several.usable(template)]
        for _ in range(count if usable else 0):
            said, id_, lang = several.compose(usable, self.filler, self.rng)
            row = self.call_row(said.say, said.calls, "composed", id_, lang, here=said.here)
            if row is not None:
                yield row

    def translated(self, templates: Sequence[Template], count: int, source: str) -> Iterator[dict[str, Any]]:
        """Phrases of calls as pairs for `translate`, with the usual command for what they mean."""
        groups = _by_tool([t for t in templates if not {"answer", "ask"} & set(t.tools)])
        weights = [_weight(tool, len(lines)) for tool, lines in groups]
        for _ in range(count if groups else 0):
            template = self.rng.choice(self.rng.choices(groups, weights)[0][1])
            said = fill(template, self.filler, self.rng)
            calls = [self.checker.plain(call) for call in said.calls]
            command = bash.command(calls, said.say)
            if command is None:
                continue
            say = augment.vary(
                said.say, template.lang, f"{command} {json.dumps(calls, ensure_ascii=False)}", self.rng
            )
            must = "!" in said.here
            entries = (
                scene.entries(self.rng, say, calls, said.here, must=must)
                if must or self.rng.random() < 0.7
                else None
            )
            row = self.translate_row(say, command, source, template.id, template.lang, entries=entries)
            if row is not None:
                row["data_head"] = self.data_like(template.data)
                yield row

    def from_public(self, pairs: Sequence[public.Pair]) -> Iterator[dict[str, Any]]:
        """Public pairs for `translate`; those that only read, and that no other tool does, as calls too."""
        for pair in pairs:
            if is_valid(pair.id) != self.valid:
                continue
            say = augment.typos(pair.say, pair.command, self.rng, share=0.05)
            if row := self.translate_row(say, pair.command, pair.source, pair.id, pair.lang):
                yield row
            if public.for_shell(pair):
                call = {"tool": "shell.run", "args": {"command": pair.command}}
                if row := self.call_row(pair.say, [call], pair.source, pair.id, pair.lang):
                    yield row


def build(
    maker: Maker, sets: dict[str, Sequence[Template]], pairs: Sequence[public.Pair], count: int
) -> list[dict[str, Any]]:
    """All rows of one side of the split, shuffled."""
    mine = {name: [t for t in each if is_valid(t.id) == maker.valid] for name, each in sets.items()}
    number = {name: int(share * count) for name, share in SHARES.items()}
    rows = [*maker.many(mine["phrases"], number["templates"], "templates")]
    rows += maker.many(mine["several"], number["several"] // 2, "several")
    rows += maker.composed([*mine["phrases"], *mine["hand"]], number["several"] // 2)
    rows += maker.many(mine["talk"], number["talk"], "talk")
    rows += maker.many(mine["foreign"], number["foreign"], "foreign")
    rows += maker.translated(mine["phrases"], number["bash"], "bash")
    rows += maker.translated([*mine["hand"], *mine["several"]], number["bash"] // 8, "bash")
    hand_times = min(MAX_HAND_TIMES, 1 + count // 20_000)
    for template in mine["hand"]:
        rows += filter(None, (maker.row(template, "hand", plain=n == 0) for n in range(hand_times)))
    rows += maker.from_public(pairs)
    rows = [maker.with_heads(row) for row in rows]
    maker.rng.shuffle(rows)
    return rows


def _by_tool(templates: Sequence[Template]) -> list[tuple[str, list[Template]]]:
    groups: dict[str, list[Template]] = {}
    for template in templates:
        groups.setdefault("+".join(template.tools), []).append(template)
    return sorted(groups.items())


def _weight(tool: str, lines: int) -> float:
    """More for a tool with more to say, but less than in proportion."""
    return float(lines**0.75)


def dump(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)
