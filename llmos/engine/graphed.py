"""The transformer on a GPU: a pass over one token is captured once and replayed (CUDA graphs).

Such a pass is some three hundred small kernels, and launching them from Python takes longer than they do. The
graph reads the token and its place from memory, so it is the same for every token: keys and values have all
their room from the start, and what lies behind the place is masked. Longer passes are launched as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmos.engine.cache import KVCache
from llmos.engine.model import Transformer, kernels_for

_WARM_UP = 3  # passes before the capture: libraries set themselves up in the first ones


class FixedCache(KVCache):
    """All of its room from the start, at addresses that stay."""

    step: _Step | None = None

    def _reserve(self, capacity: int) -> None:
        super()._reserve(self.max_tokens)
        for kept in (*self._keys, *self._values):
            kept.zero_()  # what is masked is multiplied by nothing, and must be a number

    def at(self, place: Tensor) -> _At:
        return _At(self._keys, self._values, place)


@dataclass(frozen=True, slots=True)
class _At:
    """A cache as attention sees it: what is new belongs at `place` [1], and all places are returned."""

    keys: list[Tensor]
    values: list[Tensor]
    place: Tensor

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.keys[layer], self.values[layer]
        for old, new in zip(kept, (keys, values), strict=True):
            old.index_copy_(2, self.place, new)
        return kept


@dataclass(slots=True)
class _Step:
    """What a graph reads and writes: the token [1, 1], its place [1], the last block's [1, 1, hidden]."""

    ids: Tensor
    place: Tensor
    out: Tensor
    graph: torch.cuda.CUDAGraph | None = None


class GraphedTransformer(Transformer):
    """As `Transformer`, of one sequence; on a processor nothing is captured, and the results are the same."""

    def new_cache(self, batch: int, max_tokens: int) -> KVCache:
        if batch > 1:
            return super().new_cache(batch, max_tokens)
        config = self.config
        return FixedCache(
            layers=config.num_layers,
            batch=1,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_tokens=max_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def states(
        self, ids: Tensor, cache: KVCache, *, padding: Tensor | None = None, wanted: int | None = 1
    ) -> Tensor:
        if ids.numel() > 1 or padding is not None or not isinstance(cache, FixedCache):
            return super().states(ids, cache, padding=padding, wanted=wanted)
        cache.reserve(1)
        with kernels_for(1):
            x = self._next(ids, cache)
            cache.advance(1)
            return self.norm(x)  # type: ignore[no-any-return]

    def _next(self, ids: Tensor, cache: FixedCache) -> Tensor:
        """What the last block makes of the one token after those in `cache`, [1, 1, hidden]."""
        if cache.step is None:
            cache.step = self._captured(cache)
        step = cache.step
        step.ids.copy_(ids)
        step.place.fill_(cache.length)
        if step.graph is None:
            return self._one(step, cache)
        step.graph.replay()
        return step.out

    def _one(self, step: _Step, cache: FixedCache) -> Tensor:
        columns = torch.arange(cache.capacity, device=self.device)
        seen = (columns <= step.place)[None, None, None]
        window = self.config.sliding_window
        near = seen if window is None else seen & (columns > step.place - window)
        return self._through(step.ids, step.place.unsqueeze(0), (seen, near), cache.at(step.place))

    def _captured(self, cache: FixedCache) -> _Step:
        """What is written at the next place meanwhile is written again by the pass itself."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        place = torch.full((1,), cache.length, dtype=torch.long, device=self.device)
        step = _Step(ids, place, torch.empty(0))
        if self.device.type != "cuda":
            return step
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._one(step, cache)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy their logits meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step.out = self._one(step, cache)
        step.graph = graph
        return step
