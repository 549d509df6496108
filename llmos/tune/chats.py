"""Training chats put together from pools, seeded: a tool list, then turns, with the loss on the replies.

The tools before most chats are those that requests about them list when they are answered: the common ones,
then what retrieval finds for each (`planner.choosing`). Before the others it is any subset in any order, with
tools that the product does not have, so that a model learns to read the list and not to know it. Some chats
are unrelated requests, some are requests about the same tools, and some carry the shots that a request meets
when it is answered; those shots are read and not learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmos.tune.pools import Ids, Pools

MAX_TOKENS = 1600
TRANSLATE_SHARE = 0.22  # of the chats; such a chat has twice the turns
AS_IN_USE = 0.7  # of the chats, by their list of tools
MOST_OTHERS = 24  # tools listed after the common ones, for all requests of a chat together
MOST_ANY = 40  # of the product's, where the list is any
SHOTS, RELATED = 0.35, 0.25  # of the chats about calls; the rest is unrelated requests


@dataclass(frozen=True, slots=True)
class Sample:
    """`learnt` marks the tokens that are predicted for a loss; `reply` numbers the reply of each of them."""

    ids: Ids
    learnt: npt.NDArray[np.bool_]
    reply: Ids


class Composer:
    """An endless stream of chats: every row once an epoch on average (`weight` times), shuffled."""

    def __init__(self, pools: Pools, *, seed: int, max_tokens: int = MAX_TOKENS) -> None:
        self.pools, self.rng, self.max_tokens = pools, np.random.default_rng(seed), max_tokens
        self._calls = self._dealt(np.flatnonzero(pools.translate == 0))
        self._commands = self._dealt(np.flatnonzero(pools.translate == 1))
        shown = np.diff(pools.shots.ends, prepend=0) > 0
        self._shown = [int(row) for row in np.flatnonzero(shown & (pools.translate == 0))]
        self._by_tool: dict[int, list[int]] = {}
        for row in np.flatnonzero(pools.translate == 0):
            for tool in pools.needs[int(row)]:
                self._by_tool.setdefault(int(tool), []).append(int(row))

    def __iter__(self) -> Iterator[Sample]:
        translate = bool((self.pools.translate == 1).any())
        while True:
            yield (
                self._commands_chat()
                if translate and self.rng.random() < TRANSLATE_SHARE
                else self._calls_chat()
            )

    def _dealt(self, rows: npt.NDArray[np.int64]) -> Iterator[int]:
        while len(rows):
            times = np.floor(self.pools.weight[rows] + self.rng.random(len(rows))).astype(np.int64)
            for row in self.rng.permutation(np.repeat(rows, times)):
                yield int(row)

    # --- chats

    def _commands_chat(self) -> Sample:
        parts = _Parts()
        parts.read(self.pools.translate_head)
        most = int(self.rng.integers(300, self.max_tokens))
        while True:
            row = next(self._commands)
            self._turn(parts, row)
            if parts.length > most:
                return parts.sample(self.max_tokens)

    def _calls_chat(self) -> Sample:
        draw = self.rng.random()
        kind = "shots" if draw < SHOTS else "related" if draw < SHOTS + RELATED else "any"
        wanted = int(self.rng.integers(5, 9) if kind == "shots" else self.rng.integers(10, 18))
        wanted = wanted * self.max_tokens // MAX_TOKENS
        rows, needed, avoided = self._rows(kind, wanted)
        parts = _Parts()
        listed = self._system(parts, rows, needed, avoided)
        for row in rows:
            if kind == "shots":
                self._shots(parts, row, listed)
            self._turn(parts, row)
        return parts.sample(self.max_tokens)

    def _rows(self, kind: str, wanted: int) -> tuple[list[int], set[int], set[int]]:
        """Rows that fit under one tool list: none needs what another cannot stand beside."""
        rows = [next(self._calls)]
        needed, avoided = set(map(int, self.pools.needs[rows[0]])), set(map(int, self.pools.avoid[rows[0]]))
        family = self._shown if kind == "shots" else []
        if kind == "related":
            family = [row for tool in sorted(needed) for row in self._by_tool[tool]]
        for _ in range(3 * wanted):
            if len(rows) >= wanted:
                break
            near = family and self.rng.random() < (0.9 if kind == "shots" else 0.6)
            row = family[int(self.rng.integers(len(family)))] if near else next(self._calls)
            needs, avoid = set(map(int, self.pools.needs[row])), set(map(int, self.pools.avoid[row]))
            if needs & avoided or avoid & needed or row in rows:
                continue
            rows.append(row)
            needed |= needs
            avoided |= avoid
        order = self.rng.permutation(len(rows))
        return [rows[i] for i in order], needed, avoided

    def _system(self, parts: _Parts, rows: list[int], needed: set[int], avoided: set[int]) -> set[int]:
        tools = self._as_in_use(rows, needed) if self.rng.random() < AS_IN_USE else self._any(needed)
        foreign = [int(tool) for tool in self._foreign() if tool not in avoided and tool not in tools]
        common = len(self.pools.common) if tools[: len(self.pools.common)] == list(self.pools.common) else 0
        others = [*tools[common:], *foreign]
        parts.read_tools(self.pools, [*tools[:common], *self._shuffled(others)])
        return {*tools, *foreign}

    def _as_in_use(self, rows: list[int], needed: set[int]) -> list[int]:
        """The common tools, then what requests for these rows would list, and what a row needs besides."""
        common = list(map(int, self.pools.common))
        near = [int(tool) for row in rows for tool in self.pools.listed[row]]
        others = [tool for tool in dict.fromkeys([*sorted(needed), *near]) if tool not in common]
        return [*common, *others[: max(MOST_OTHERS, len(needed))]]

    def _any(self, needed: set[int]) -> list[int]:
        ours, rng = self.pools.ours, self.rng
        some = rng.choice(ours, rng.integers(min(3, ours), min(MOST_ANY, ours) + 1), replace=False)
        return self._shuffled(sorted(needed | set(map(int, some))))

    def _foreign(self) -> list[int]:
        """Tools of somebody else's, among which the needed ones must be told."""
        ours, rng = self.pools.ours, self.rng
        most = rng.integers(0, 8) if rng.random() < 0.7 else rng.integers(8, 20)
        return [int(tool) for tool in ours + rng.permutation(len(self.pools.line) - ours)[:most]]

    def _shuffled(self, tools: list[int]) -> list[int]:
        return [tools[int(number)] for number in self.rng.permutation(len(tools))]

    def _shots(self, parts: _Parts, row: int, listed: set[int]) -> None:
        near = [int(s) for s in self.pools.shots[row] if int(self.pools.shot_tool[s]) in listed]
        parts.read_shots(self.pools, near[: int(self.rng.integers(0, 5))])

    def _turn(self, parts: _Parts, row: int) -> None:
        parts.read(self.pools.user[row])
        parts.learn(self.pools.reply[row])


def single(pools: Pools, row: int, num_shots: int) -> Sample:
    """A row by itself, as in use: the tools that its request lists, its nearest shots, the request.

    What retrieval misses is missing, as it would be then. Tools of somebody else's are as if installed.
    """
    parts = _Parts()
    if pools.translate[row]:
        parts.read(pools.translate_head)
    else:
        foreign = [int(tool) for tool in pools.needs[row] if tool >= pools.ours]
        parts.read_tools(pools, [*map(int, pools.common), *map(int, pools.listed[row]), *foreign])
        parts.read_shots(pools, [int(shot) for shot in pools.shots[row][:num_shots]])
    parts.read(pools.user[row])
    parts.learn(pools.reply[row])
    return parts.sample(1 << 14)


def judged(pools: Pools, most: int) -> dict[str, list[Sample]]:
    """At most so many requests of each kind, one by one as in use, by what is asked of the model."""
    rng = np.random.default_rng(1)
    kinds = {"calls": 0, "commands": 1}
    rows = {kind: rng.permutation(np.flatnonzero(pools.translate == told)) for kind, told in kinds.items()}
    return {kind: [single(pools, int(row), 0) for row in some[:most]] for kind, some in rows.items()}


class _Parts:
    """A chat in the making."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Ids, int]] = []  # with the reply's number, or -1
        self.length = self._replies = 0

    def read(self, ids: Ids) -> None:
        self._pieces.append((ids, -1))
        self.length += len(ids)

    def read_tools(self, pools: Pools, tools: list[int]) -> None:
        """The system turn with these tools, in this order."""
        self.read(pools.head)
        for tool in tools[:-1]:
            self.read(pools.line[tool])
        self.read(pools.last[tools[-1]])
        self.read(pools.end)

    def read_shots(self, pools: Pools, shots: list[int]) -> None:
        """Worked examples as turns, the first of `shots`, which is the most similar, last."""
        for shot in reversed(shots):
            self.read(pools.shot_user[shot])
            self.read(pools.shot_reply[shot])

    def learn(self, ids: Ids) -> None:
        self._pieces.append((ids, self._replies))
        self._replies += 1
        self.length += len(ids)

    def sample(self, most: int) -> Sample:
        """All of it, without the last turns where it is longer than `most` (and there is more than one)."""
        pieces, length = list(self._pieces), self.length
        while length > most and sum(n >= 0 for _, n in pieces) > 1:
            length -= len(pieces.pop()[0])
            while pieces[-1][1] < 0:
                length -= len(pieces.pop()[0])
        ids = np.concatenate([ids for ids, _ in pieces])
        reply = np.concatenate([np.full(len(ids), number, np.int32) for ids, number in pieces])
        return Sample(ids, reply >= 0, reply)
