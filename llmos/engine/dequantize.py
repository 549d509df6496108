"""ggml's quantised blocks to plain tensors, a slice at a time so that little memory is needed.

The `gguf` library unpacks them, several slices at once (numpy lets go of the interpreter's lock); Q8_0 is
torch's, four times as fast. Formats: ggml's ggml-common.h, `block_*`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gguf
import torch
from gguf import quants
from torch import Tensor

from llmos.engine.gguf_format import GgufTensor

# What is proven here; the library can unpack more.
SUPPORTED = frozenset(["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
_SLICE_VALUES = 1 << 18


def dequantize(tensor: GgufTensor, dtype: torch.dtype) -> Tensor:
    """The tensor's values in `dtype`, in torch's order of dimensions."""
    values, num_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
    blocks = torch.from_numpy(tensor.data).view(-1, num_bytes)
    unpack = unpacker(tensor.kind)
    out = torch.empty(len(blocks), values, dtype=dtype)
    step = max(1, _SLICE_VALUES // values)

    def fill(start: int) -> None:
        out[start : start + step] = unpack(blocks[start : start + step])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, range(0, len(blocks), step)))
    return out.view(tensor.shape)


def unpacker(kind: gguf.GGMLQuantizationType) -> Callable[[Tensor], Tensor]:
    """What turns blocks [n, bytes] into values [n, values of a block]."""
    return _UNPACK.get(kind.name) or _by_library(kind)


def _q8_0(blocks: Tensor) -> Tensor:
    """A half-precision scale, 32 signed bytes."""
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return blocks[:, 2:].contiguous().view(torch.int8) * scale


def _by_library(kind: gguf.GGMLQuantizationType) -> Callable[[Tensor], Tensor]:
    def unpack(blocks: Tensor) -> Tensor:
        # The library unpacks along the last dimension, so any number of blocks is one row to it.
        values = quants.dequantize(blocks.numpy().reshape(1, -1), kind)
        return torch.from_numpy(values).view(len(blocks), -1)

    return unpack


def _plain(kind: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda blocks: blocks.view(kind)


_UNPACK: dict[str, Callable[[Tensor], Tensor]] = {
    "F32": _plain(torch.float32),
    "F16": _plain(torch.float16),
    "BF16": _plain(torch.bfloat16),
    "Q8_0": _q8_0,
}
