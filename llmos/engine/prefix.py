"""Keys and values of the fixed beginning of prompts, kept on disk from one start of the planner to the next.

The list of common tools is some 650 tokens, which is most of the first request's time after an idle unload.
One file beside the prepared weights, so that it belongs to this very model file, adapter and number format;
inside it are the token ids and what computed it (kernels or torch), both of which must agree. Only what the
caller calls fixed is written, never a person's words. The planner may create files only while it
loads, so it reads ahead then. Like the prepared weights it is a cache: it may be
deleted at any time, one that cannot be read is passed over, and flipped bits in it are not noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from llmos.engine import prepared
from llmos.engine.cache import KVCache, common_prefix

FILE = "prefix.safetensors"
FEWEST, MOST = 64, 2048  # tokens: fewer are read at once, more would fill the disk


class Prefix:
    """At most one prefix, in `folder`; `identity` names everything else that its numbers depend on."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._file = folder / FILE
        self._identity = identity
        self._known: list[int] | None = None

    @property
    def ids(self) -> list[int]:
        """The tokens whose keys and values lie on disk; empty where there are none to be had."""
        if self._known is None:
            self._known = self._read_ids()
        return self._known

    def covers(self, ids: Sequence[int]) -> bool:
        """Whether there is nothing to be kept of `ids` any more."""
        return len(ids) < FEWEST or common_prefix(self.ids, ids[:MOST]) == len(ids[:MOST])

    def _read_ids(self) -> list[int]:
        try:
            with safe_open(self._file, "pt") as file:
                if (file.metadata() or {}).get("identity") != self._identity:
                    return []
                return list(map(int, file.get_tensor("ids")))
        except (OSError, SafetensorError):
            return []

    def fill(self, cache: KVCache, length: int) -> bool:
        """Put the first `length` tokens into an empty cache; False, and nothing there, where it fails."""
        try:
            with safe_open(self._file, "pt") as file:
                cache.restore(file.get_slice("kept")[:, :, :, :, :length])
        except (OSError, SafetensorError, RuntimeError):
            self._known = []
            return False
        return True

    def keep(self, cache: KVCache, ids: Sequence[int]) -> None:
        """Write the cache's first tokens, which are `ids`, unless they lie there already."""
        ids = ids[:MOST]
        if self.covers(ids):
            return
        self._known = list(ids)  # even where it fails: there is no second try
        kept = {"ids": torch.tensor(ids), "kept": cache.held(len(ids))}
        prepared.put(self._file, kept, {"identity": self._identity})
