"""Rows of training data as pools of tokens, by the prompt builder and tokenizer that requests go through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmos.engine.adapter import Asked
from llmos.engine.grammar import render_call
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import UsageError
from llmos.messages import Think, ToolSpec
from llmos.paths import tool_dirs
from llmos.planner import prompt
from llmos.planner.choosing import Chooser
from llmos.planner.prompt import PromptForm
from llmos.planner.retrieval import Retriever
from llmos.toolbox import catalog
from llmos.tune.data import foreign
from llmos.tune.pools import Ids, Pools, Ragged

NUM_SHOTS = 4
# How requests stand in what is learnt, for whoever asks a model that learnt from it.
AS_TRAINED = Asked(form=PromptForm.SIGNATURES.value, shots=0, command_shots=0, heads=True)
# The share of rows that is looked up as a request is (tools, nearest examples): some milliseconds each.
LOOKED_UP = 0.25

# How often a row is seen, by where it comes from: public pages name thousands of obscure programs, and
# what was written by hand says most.
WEIGHTS = {"tldr": 0.6, "tldr_zh": 0.4, "fig": 0.5, "nl2bash": 1.5, "hand": 1.5}


@dataclass(frozen=True, slots=True)
class Marks:
    """The chat template, cut at its contents: what stands before the system part, a request, a reply."""

    start: str
    user: str  # from the end of the turn before, without that turn's end token
    assistant: str
    end_token: str

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Marks:
        """Raises UsageError for templates that are not plain turns with one end token."""
        names = ["@S@", "@U@", "@A@", "@V@"]
        roles = ["system", "user", "assistant", "user"]
        chat = [{"role": role, "content": name} for role, name in zip(roles, names, strict=True)]
        rest, pieces = tokenizer.render_chat(chat), []
        for name in names:
            before, _, rest = rest.partition(name)
            pieces.append(before)
        start, user, assistant, again = pieces
        ends = [tokenizer.decode([i]) for i in sorted(tokenizer.eos_ids)]
        end = next((e for e in ends if user.startswith(e)), None)
        if user != again or assistant != rest or end is None:
            raise UsageError("this model's chat template is not made of plain turns", "Use a ChatML model.")
        return cls(start, user.removeprefix(end), assistant, end)


class Preparer:
    """Turns rows into tokens. `specs` holds the product's own tools first, `ours` of them."""

    def __init__(self, tokenizer: Tokenizer, specs: Sequence[ToolSpec], ours: int) -> None:
        self.tokenizer, self.specs, self.ours = tokenizer, list(specs), ours
        self.marks = Marks.of(tokenizer)
        self.by_name = {spec.name: index for index, spec in enumerate(self.specs)}
        retriever = Retriever(self.specs[:ours])
        ranked = [(spec, e) for spec in self.specs[:ours] for e in spec.examples]
        self._shot_number = {(spec.name, e.say): i for i, (spec, e) in enumerate(ranked)}
        self._examples = ranked
        self._retriever = retriever
        self._chooser = Chooser(self.specs[:ours], retriever)

    @classmethod
    def for_tools_in_force(cls, tokenizer: Tokenizer) -> Preparer:
        ours = catalog.load(tool_dirs()[:1]).specs
        return cls(tokenizer, foreign.beside(ours), len(ours))

    def pools(self, rows: Sequence[dict[str, Any]], *, looked_up: float = LOOKED_UP, seed: int = 0) -> Pools:
        rng = np.random.default_rng(seed)
        joined = [prompt.tool_line(spec) for spec in self.specs]
        looked = [row["kind"] == "call" and rng.random() < looked_up for row in rows]
        shots = [self._near(row) if look else [] for row, look in zip(rows, looked, strict=True)]
        listed = [self._listed(row) if look else [] for row, look in zip(rows, looked, strict=True)]
        return Pools(
            head=self._ids(self.marks.start + prompt.SYSTEM),
            translate_head=self._ids(self.marks.start + prompt.TRANSLATE + self.marks.end_token),
            end=self._ids(self.marks.end_token),
            line=Ragged.of([self._encode(line + "\n") for line in joined]),
            last=Ragged.of([self._encode(line) for line in joined]),
            shot_user=Ragged.of([self._user(e.say) for _, e in self._examples]),
            shot_reply=Ragged.of([self._reply(render_call(spec, e.args)) for spec, e in self._examples]),
            shot_tool=np.array([self.by_name[spec.name] for spec, _ in self._examples], np.int32),
            user=Ragged.of([self._user(request(row)) for row in rows]),
            reply=Ragged.of([self._reply(self.target(row)) for row in rows]),
            needs=Ragged.of([self._needs(row) for row in rows]),
            avoid=Ragged.of([self._avoid(row) for row in rows]),
            shots=Ragged.of(shots),
            common=np.array([self.by_name[spec.name] for spec in self._chooser.common], np.int32),
            listed=Ragged.of(listed),
            translate=np.array([row["kind"] == "translate" for row in rows], np.int32),
            weight=np.array([WEIGHTS.get(row["source"], 1.0) for row in rows], np.float32),
            ours=self.ours,
        )

    def target(self, row: dict[str, Any]) -> str:
        if row["kind"] == "translate":
            return str(row["command"])
        return "\n".join(render_call(self.specs[self.by_name[c["tool"]]], c["args"]) for c in row["calls"])

    def _user(self, text: str) -> list[int]:
        return self._encode(self.marks.user + text + self.marks.assistant)

    def _reply(self, text: str) -> list[int]:
        return self._encode(text + self.marks.end_token)

    def _near(self, row: dict[str, Any]) -> list[int]:
        found = self._retriever.nearest(row["say"], NUM_SHOTS)
        return [self._shot_number[shot.spec.name, shot.say] for shot in found]

    def _listed(self, row: dict[str, Any]) -> list[int]:
        """What a prompt for it lists after the common tools, by the code that lists them in use."""
        chosen = self._chooser.listed(row["say"])[len(self._chooser.common) :]
        return [self.by_name[spec.name] for spec in chosen]

    def _needs(self, row: dict[str, Any]) -> list[int]:
        return sorted({self.by_name[call["tool"]] for call in row.get("calls", ())})

    def _avoid(self, row: dict[str, Any]) -> list[int]:
        words = row.get("avoid", ())
        near = {
            i
            for n, i in self.by_name.items()
            if i >= self.ours
            for w in words
            if n == w or n.startswith(f"{w}.")
        }
        return sorted(near - set(self._needs(row)))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, special=True)

    def _ids(self, text: str) -> Ids:
        return np.array(self._encode(text), np.int32)


def request(row: dict[str, Any]) -> str:
    """The person's turn, as `prompt` writes it when a request is answered."""
    think = Think(
        id="", text=row["say"], entries=tuple(row["entries"] or ()), data_head=row["data_head"],
        heads=tuple(row.get("heads") or ()),
    )  # fmt: skip
    return prompt.request_text(think)


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
