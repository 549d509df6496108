"""ggml's 4- and 5-bit blocks as grouped whole numbers, bit for bit, without going through their values.

Formats: ggml's ggml-common.h, `block_*`. The scales of Q4_K are products of two numbers; here they are
rounded to half precision, as the others are stored.
"""

from __future__ import annotations

import gguf
import torch
from gguf import quants
from torch import Tensor

from llmos.engine.gguf_format import GgufTensor
from llmos.engine.groups import GROUP, Grouped, Kind


def grouped(tensor: GgufTensor) -> Grouped | None:
    """The matrix as it stands in the file, or None for formats that have no equal here."""
    take = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q4_K": _q4_k}.get(tensor.kind.name)
    if take is None or len(tensor.shape) != 2:
        return None
    num_bytes = gguf.GGML_QUANT_SIZES[tensor.kind][1]
    blocks = torch.from_numpy(tensor.data).view(-1, num_bytes)
    kind, values, scales, minima = take(blocks)
    rows, columns = tensor.shape
    by_group = (rows, columns // GROUP)
    least = None if minima is None else minima.half().view(by_group)
    return Grouped(kind, values.reshape(rows, columns), scales.half().view(by_group), least)


_Parts = tuple[Kind, Tensor, Tensor, Tensor | None]


def _halves(nibbles: Tensor) -> Tensor:
    """[blocks, n] bytes as [blocks, 2 n]: the low halves, then the high ones."""
    return torch.cat([nibbles & 15, nibbles >> 4], dim=1)


def _half(two_bytes: Tensor) -> Tensor:
    return two_bytes.contiguous().view(torch.float16)


def _q4_0(blocks: Tensor) -> _Parts:
    return Kind.BITS_4, _halves(blocks[:, 2:]), _half(blocks[:, :2]), None


def _q4_1(blocks: Tensor) -> _Parts:
    return Kind.BITS_4_MIN, _halves(blocks[:, 4:]), _half(blocks[:, :2]), -_half(blocks[:, 2:4])


def _q5_0(blocks: Tensor) -> _Parts:
    fifth = blocks[:, 2:6].repeat_interleave(8, dim=1) >> torch.arange(8, dtype=torch.uint8).repeat(4)
    return Kind.BITS_5, _halves(blocks[:, 6:]) | (fifth & 1) << 4, _half(blocks[:, :2]), None


def _q4_k(blocks: Tensor) -> _Parts:
    """Eight groups share two half-precision factors; scales and minima are 6-bit multiples of them."""
    scale, least = (
        torch.from_numpy(part).float() for part in quants.Q4_K.get_scale_min(blocks[:, 4:16].numpy())
    )
    values = _halves(blocks[:, 16:].reshape(-1, 32))
    whole = _half(blocks[:, :2]).float(), _half(blocks[:, 2:4]).float()
    return Kind.BITS_4_MIN, values, whole[0] * scale, whole[1] * least
