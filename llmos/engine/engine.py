"""A loaded model, ready to generate: weights, tokenizer, and the caches kept between calls.

Several threads may generate side by side: their passes take turns (`engine.turns`), and each has a cache of
its own. The prompt's longest prefix that an earlier call has read is not read again; a few caches are kept,
so that prompts of different kinds do not push one another out.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from llmos.engine import adapter as adapters
from llmos.engine import loading, native, weights
from llmos.engine.adapter import Adapter, Asked
from llmos.engine.cache import KVCache, common_prefix
from llmos.engine.generate import Constraint, Decoder, Generation, OnText, Output
from llmos.engine.loading import AnyModel, Device, Numbers
from llmos.engine.localfile import read_origin
from llmos.engine.lookup import Lookup
from llmos.engine.packed import PackedTransformer
from llmos.engine.prefix import FEWEST, Prefix
from llmos.engine.sampling import Sampling
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import ModelError, UsageError

log = logging.getLogger(__name__)

_MAX_CACHES = 3
_MAX_THREADS = 8  # a small model's matrices do not feed more


@dataclass(slots=True, eq=False)
class _Slot:
    """One kept cache and the ids whose keys and values it holds."""

    cache: KVCache
    ids: list[int] = field(default_factory=list)
    busy: bool = True  # a call has it, which changes nothing of what `ids` names


class Engine:
    """Load with `Engine.load`; `generate` is the only thing that takes time."""

    def __init__(
        self,
        name: str,
        model: AnyModel,
        tokenizer: Tokenizer,
        context_tokens: int,
        prefix: Prefix | None = None,
    ) -> None:
        self.name = name
        self._beside: Path | None = None  # of the weights, where an adapter can be changed beside them
        self.model = model
        self.tokenizer = tokenizer
        self.context_tokens = context_tokens
        self.guessing = True
        self.asked: Asked | None = None  # as what is loaded was trained to be
        self._prefix = prefix
        self._slots: list[_Slot] = []  # most recently used last
        self._guard = threading.Lock()  # of the slots and of what is kept on disk

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        dtype: Numbers | Literal["auto"] = "bfloat16",
        threads: int = 0,
        context_tokens: int = 4096,
        adapter: Adapter | None = None,
        device: Device = "cpu",
        on_progress: weights.OnProgress | None = None,
    ) -> Engine:
        """Load a GGUF file or a safetensors folder, with an adapter added to its matrices if one is given.

        Raises ModelError for what cannot be used.
        """
        path = Path(path)
        threads = threads or default_threads()
        torch.set_num_threads(threads)
        model, tokenizer = loading.load(
            path, dtype, context_tokens, on_progress, adapter=adapter, device=device
        )
        native.start(threads)
        tokens = min(context_tokens, model.config.max_positions)
        engine = cls(path.stem, model, tokenizer, tokens, _prefix(path, model, adapter))
        quantised = path.is_dir() and read_origin(path) is not None  # an adapter went in before rounding
        engine._beside = path if model.exact and not quantised else None
        engine.asked = adapter or adapters.asked(path)
        log.info("%s: %s weights, %d threads", path.name, engine.form, threads)
        return engine

    @property
    def form(self) -> str:
        """What the weights are held as: `packed`, or the name of a torch type."""
        return "packed" if self.model.exact else str(self.model.dtype).removeprefix("torch.")

    def adapt(self, adapter: Adapter | None) -> None:
        """Another adapter, or none, beside the same weights; not while something is generated.

        Raises ModelError where the adapter does not fit, or is inside the weights: then load them again.
        """
        if self._beside is None or not isinstance(self.model, PackedTransformer):
            raise ModelError("an adapter is inside these weights", "Load the model again.")
        self.model.adapt(loading.additions(self._beside, adapter, self.model.tensors) if adapter else {})
        self._prefix = _prefix(self._beside, self.model, adapter)
        self.asked = adapter or adapters.asked(self._beside)
        self.forget()

    def forget(self) -> None:
        """Drop what was read: the next prompt is read whole."""
        self._slots.clear()

    @torch.inference_mode()
    def generate(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        fixed_tokens: int = 0,
        hints: Sequence[Sequence[int]] = (),
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        stop: tuple[str, ...] = (),
        constraint: Constraint | None = None,
        cancel: threading.Event | None = None,
        on_text: OnText | None = None,
    ) -> Generation:
        """Continue `prompt_ids` by at most `max_tokens`.

        The prompt's first `fixed_tokens` are kept on disk for the next process; they must not be a secret.
        `hints` are tokens that the reply may contain: they cost or save time and change nothing else.
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
        with self._guard:
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
            # Where reading several tokens is not bit for bit reading each, a guess could change the choice.
            lookup=Lookup(prompt_ids, hints) if self.model.exact and self.guessing else None,
        )
        try:
            return decoder.run(prompt_ids)
        finally:
            with self._guard:
                slot.ids = [*prompt_ids, *decoder.tokens][: slot.cache.length]
                if self._prefix is not None and fixed_tokens <= slot.cache.length:
                    self._prefix.keep(slot.cache, prompt_ids[:fixed_tokens])
                self._give_back(slot)

    def read_ahead(self, ids: Sequence[int]) -> None:
        """Read what prompts will begin with and keep it on disk; nothing where it lies there already."""
        if self._prefix is not None and not self._prefix.covers(ids):
            self.generate(ids, max_tokens=1, fixed_tokens=len(ids))

    def _slot_for(self, prompt: Sequence[int]) -> _Slot:
        """A cache with the longest known prefix, cut to it; the last token is always read anew."""
        if not self._slots and (slot := self._from_disk(prompt)) is not None:
            self._slots.append(slot)
            return slot
        known = [common_prefix(slot.ids, prompt[:-1]) for slot in self._slots]
        best = max(
            zip(known, self._slots, strict=True), key=lambda one: (one[0], not one[1].busy), default=None
        )
        if best is None or not best[0] or 4 * best[0] < min(len(prompt), len(best[1].ids)):
            return self._emptied()
        length, slot = best
        if slot.busy:
            held = slot.cache.held(length)
            slot = self._emptied()
            slot.cache.restore(held)
        else:
            self._slots.remove(slot)
            self._slots.append(slot)
            slot.cache.truncate(length)
        slot.ids, slot.busy = list(prompt[:length]), True
        return slot

    def _emptied(self) -> _Slot:
        """The one that was not used for longest, or a new one while there are few."""
        free = next((slot for slot in self._slots if not slot.busy), None)
        if free is None or len(self._slots) < _MAX_CACHES:
            slot = _Slot(self.model.new_cache(1, self.context_tokens))
        else:
            self._slots.remove(free)
            slot = free
            slot.cache.truncate(0)
        slot.ids, slot.busy = [], True
        self._slots.append(slot)
        return slot

    def _give_back(self, slot: _Slot) -> None:
        slot.busy = False
        free = [other for other in self._slots if not other.busy]
        for other in free[:-_MAX_CACHES]:
            self._slots.remove(other)

    def _from_disk(self, prompt: Sequence[int]) -> _Slot | None:
        """A cache with what an earlier process has read of this prompt."""
        if self._prefix is None or (length := common_prefix(self._prefix.ids, prompt[:-1])) < FEWEST:
            return None
        slot = _Slot(self.model.new_cache(1, self.context_tokens), list(prompt[:length]))
        return slot if self._prefix.fill(slot.cache, length) else None


def _prefix(path: Path, model: AnyModel, adapter: Adapter | None) -> Prefix:
    kept_at = loading.kept_at(path, loading.numbers_of(model), adapter)
    where = "" if model.exact or model.device.type == "cpu" else f" on {torch.cuda.get_device_name()}"
    return Prefix(kept_at, native.identity() if model.exact else f"torch {torch.__version__}{where}")


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
