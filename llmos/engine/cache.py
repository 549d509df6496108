"""Keys and values of what the model has read, preallocated and reused from call to call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

_BLOCK = 512  # positions; capacity grows by doubling, in whole blocks


class KVCache:
    """Keys and values of one batch for every layer, each [batch, kv_heads, capacity, head_dim]."""

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        kv_heads: int,
        head_dim: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        self.length = 0
        self.max_tokens = max_tokens
        self._shape = (batch, kv_heads, head_dim)
        self._dtype, self._device = dtype, device
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._layers = layers
        self._reserve(min(_BLOCK, max_tokens))

    def _reserve(self, capacity: int) -> None:
        batch, heads, width = self._shape
        grown_keys: list[torch.Tensor] = []
        grown_values: list[torch.Tensor] = []
        for index in range(self._layers):
            for old, grown in ((self._keys, grown_keys), (self._values, grown_values)):
                fresh = torch.empty(batch, heads, capacity, width, dtype=self._dtype, device=self._device)
                if old:
                    fresh[:, :, : self.length] = old[index][:, :, : self.length]
                grown.append(fresh)
        self._keys, self._values = grown_keys, grown_values
        self.capacity = capacity

    def reserve(self, num_tokens: int) -> None:
        """Make room for `num_tokens` more positions."""
        wanted = self.length + num_tokens
        assert wanted <= self.max_tokens, "the engine checks the context length first"
        if wanted > self.capacity:
            self._reserve(min(self.max_tokens, max(wanted, 2 * self.capacity)))

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [batch, kv_heads, tokens, head_dim] behind what is there; returns all of it (views)."""
        end = self.length + keys.shape[2]
        self._keys[layer][:, :, self.length : end] = keys
        self._values[layer][:, :, self.length : end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def addresses(self) -> tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_void_p]]:
        """Where each layer's keys and values lie, for the kernels; good until the next `reserve`."""
        pointers = ctypes.c_void_p * self._layers
        keys, values = ([tensor.data_ptr() for tensor in kept] for kept in (self._keys, self._values))
        return pointers(*keys), pointers(*values)

    def advance(self, num_tokens: int) -> None:
        """Count the positions that every layer has appended."""
        self.length += num_tokens

    def held(self, length: int) -> torch.Tensor:
        """A copy of the first positions: [layers, 2, batch, kv_heads, length, head_dim]."""
        assert length <= self.length
        pairs = zip(self._keys, self._values, strict=True)
        return torch.stack([torch.stack([part[:, :, :length] for part in pair]) for pair in pairs])

    def restore(self, held: torch.Tensor) -> None:
        """Begin with what `held` gave; raises RuntimeError for another model's."""
        assert self.length == 0
        layers, length = len(held), held.shape[-2]
        if layers != self._layers or held.dtype != self._dtype:
            raise RuntimeError("kept for another model")
        self.reserve(length)
        for keys, values, pair in zip(self._keys, self._values, held, strict=True):
            keys[:, :, :length], values[:, :, :length] = pair[0], pair[1]
        self.length = length

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        assert 0 <= length <= self.length
        self.length = length


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading ids two sequences share."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
