"""What chats are put together from, as tokens in flat arrays: tool lines, shots and turns.

Everything text is done when the pools are made (`tune.prepare`); from here on numpy is enough, so that the
machine that trains needs neither tokenizer nor tools.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Many short rows in one array."""

    values: Ids
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        flat = [value for row in rows for value in row]
        return cls(np.array(flat, np.int32), np.cumsum([len(row) for row in rows], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Ids:
        return self.values[self.ends[index - 1] if index else 0 : self.ends[index]]


@dataclass(frozen=True, slots=True)
class Pools:
    """`user[i]` and `reply[i]` are row i's turn, from the mark behind the turn before to its own end mark.

    `line` has each tool's line with what joins it to the next, `last` without. `needs` and `avoid` are
    tool numbers; `shots` are worked examples near to the row, nearest first. `common` are the tools that
    every prompt lists, `listed` those that a prompt for the row lists after them (none: not looked up).
    """

    head: Ids  # up to the first tool line
    translate_head: Ids  # the whole system part of `translate`
    end: Ids  # what ends the system part
    line: Ragged
    last: Ragged
    shot_user: Ragged
    shot_reply: Ragged
    shot_tool: Ids
    user: Ragged
    reply: Ragged
    needs: Ragged
    avoid: Ragged
    shots: Ragged
    common: Ids
    listed: Ragged
    translate: Ids  # 1 where the row is for `translate`
    weight: npt.NDArray[np.float32]
    ours: int  # the first so many tools are the product's own

    def save(self, path: Path) -> None:
        arrays: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, Ragged):
                arrays |= {f"{name}.values": value.values, f"{name}.ends": value.ends}
            else:
                arrays[name] = np.asarray(value)
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Pools:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        fields: dict[str, Any] = {}
        for name in cls.__dataclass_fields__:
            if name in arrays:
                fields[name] = arrays[name] if arrays[name].ndim else int(arrays[name])
            else:
                fields[name] = Ragged(arrays[f"{name}.values"], arrays[f"{name}.ends"])
        return cls(**fields)


def used_tokens(pools: Sequence[Pools]) -> npt.NDArray[np.int64]:
    """Every token that stands anywhere: the only rows of the input embedding that training reads."""
    parts = []
    for pool in pools:
        parts += [pool.head, pool.translate_head, pool.end]
        ragged = (pool.line, pool.last, pool.shot_user, pool.shot_reply, pool.user, pool.reply)
        parts += [rows.values for rows in ragged]
    return np.unique(np.concatenate(parts)).astype(np.int64)


def describe(pools: Pools) -> str:
    return json.dumps({"rows": len(pools.user), "tools": len(pools.line), "shots": len(pools.shot_user)})
