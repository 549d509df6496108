"""How fast this machine reads memory, which bounds decoding: each token reads every weight once."""

from __future__ import annotations

import time

import torch

_BLOCK_BYTES = 256 << 20  # far more than any cache holds
_PASSES = 5


def memory_gbps(device: torch.device | None = None) -> float:
    """The best of a few passes over one block, beside whatever else runs; with the threads torch uses."""
    block = torch.ones(_BLOCK_BYTES // 8, dtype=torch.int64, device=device)
    times = []
    for _ in range(_PASSES):
        began = time.perf_counter()
        block.sum().item()  # waits for a GPU
        times.append(time.perf_counter() - began)
    return _BLOCK_BYTES / min(times) / 1e9
