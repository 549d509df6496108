"""A loaded model, ready to generate: weights, tokenizer, and the caches kept between calls.

One call at a time (the planner's loop sees to that). The prompt's longest prefix that an earlier call has
read is not read again; a few caches are kept, so that prompts of different kinds do not push
one another out.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from llmos.engine import adapter as adapters
from llmos.engine import prepared, weights
from llmos.engine.adapter import Adapter
from llmos.engine.cache import KVCache, common_prefix
from llmos.engine.generate import Constraint, Decoder, Generation, OnText, Output, Sampling
from llmos.engine.model import ModelConfig, Transformer
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import ModelError, UsageError

_MAX_CACHES = 3
_MAX_THREADS = 8  # a small model's matrices do not feed more
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(slots=True)
class _Slot:
    """One kept cache and the ids whose keys and values it holds."""

    cache: KVCache
    ids: list[int] = field(default_factory=list)


class Engine:
    """Load with `Engine.load`; `generate` is the only thing that takes time."""

    def __init__(self, name: str, model: Transformer, tokenizer: Tokenizer, context_tokens: int) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.context_tokens = context_tokens
        self._slots: list[_Slot] = []  # most recently used last

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        threads: int = 0,
        context_tokens: int = 4096,
        adapter: Adapter | None = None,
        on_progress: weights.OnProgress | None = None,
    ) -> Engine:
        """Load a GGUF file or a safetensors folder, with an adapter added to its matrices if one is given.

        Raises ModelError for what cannot be used.
        """
        path = Path(path)
        torch.set_num_threads(threads or default_threads())
        config, tensors, tokenizer = _read(path, DTYPES[dtype], adapter, on_progress)
        context_tokens = min(context_tokens, config.max_positions)
        with torch.device("meta"):
            model = Transformer(config, positions=context_tokens)
        if config.tied:
            tensors["head.weight"] = tensors["embedding.weight"]
        try:
            model.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise ModelError(
                f"{path} does not fit its own description: {error}", "Fetch it again."
            ) from error
        if config.tied:
            model.head.weight = model.embedding.weight
        return cls(path.stem, model.eval().requires_grad_(False), tokenizer, context_tokens)

    @torch.inference_mode()
    def generate(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        stop: tuple[str, ...] = (),
        constraint: Constraint | None = None,
        cancel: threading.Event | None = None,
        on_text: OnText | None = None,
    ) -> Generation:
        """Continue `prompt_ids` by at most `max_tokens`.

        Ends at an end-of-turn token, a stop string, the constraint's end, `max_tokens`, or `cancel` (looked
        at before every token). Raises UsageError when prompt and `max_tokens` exceed the context.
        """
        if not prompt_ids:
            raise UsageError("the prompt is empty", "Give at least one token.")
        if len(prompt_ids) + max_tokens > self.context_tokens:
            raise UsageError(
                f"the prompt's {len(prompt_ids)} tokens and {max_tokens} to come exceed the context of"
                f" {self.context_tokens}",
                "Shorten the request, or raise model.context_tokens in the configuration.",
            )
        slot = self._slot_for(prompt_ids)
        decoder = Decoder(
            model=self.model,
            tokenizer=self.tokenizer,
            cache=slot.cache,
            max_tokens=max_tokens,
            sampling=sampling,
            constraint=constraint,
            cancel=cancel or threading.Event(),
            output=Output(self.tokenizer.streamer(), stop, on_text),
        )
        try:
            return decoder.run(prompt_ids)
        finally:
            slot.ids = [*prompt_ids, *decoder.tokens][: slot.cache.length]

    def _slot_for(self, prompt: Sequence[int]) -> _Slot:
        """The kept cache that shares the longest prefix, cut to it; the last token is always read anew."""
        shared = [common_prefix(slot.ids, prompt[:-1]) for slot in self._slots]
        best = max(range(len(shared)), key=shared.__getitem__, default=-1)
        if best >= 0 and shared[best] * 4 >= min(len(prompt), len(self._slots[best].ids)):
            slot = self._slots.pop(best)
            slot.cache.truncate(shared[best])
        elif len(self._slots) >= _MAX_CACHES:
            slot = self._slots.pop(0)
            slot.cache.truncate(0)
        else:
            slot = _Slot(self.model.new_cache(1, self.context_tokens))
        self._slots.append(slot)
        return slot


def _read(
    path: Path, dtype: torch.dtype, adapter: Adapter | None, on_progress: weights.OnProgress | None
) -> tuple[ModelConfig, dict[str, torch.Tensor], Tokenizer]:
    """From the prepared form where there is one; else from the file itself, and prepare it."""
    # Folders of safetensors are in a good form already, and float32 is for proofs, not for every day.
    if not path.is_file() or dtype != torch.bfloat16:
        source = weights.open_source(path)
        return source.config, _adapted(weights.tensors(source, dtype, on_progress), adapter), source.tokenizer
    folder = prepared.place(path, dtype, adapter.sha256 if adapter else "")
    if (found := prepared.load(folder)) is not None:
        return found
    source = weights.open_source(path)
    tensors = weights.tensors(source, dtype, on_progress)
    config = _tie(source.config, tensors)
    _adapted(tensors, adapter)
    prepared.save(folder, config, tensors, source.tokenizer)
    return config, tensors, source.tokenizer


def _adapted(tensors: dict[str, torch.Tensor], adapter: Adapter | None) -> dict[str, torch.Tensor]:
    if adapter is not None:
        adapters.apply(adapter, tensors)
    return tensors


def _tie(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> ModelConfig:
    """A tied output matrix that the file stores a second time, value for value, is kept once."""
    if config.tied or not torch.equal(tensors["head.weight"], tensors["embedding.weight"]):
        return config
    del tensors["head.weight"]
    return replace(config, tied=True)


def default_threads() -> int:
    """Cores this process may use: its affinity, its cgroup's CPU quota, and a sensible ceiling."""
    cores = float(len(os.sched_getaffinity(0)))
    return max(1, min(_MAX_THREADS, math.floor(min(cores, _cgroup_cores()))))


def _cgroup_cores() -> float:
    """The CPU quota of the cgroup (v2 cpu.max, v1 cfs_quota) in cores; infinite where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
