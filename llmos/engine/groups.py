"""Matrices in few bits: whole numbers, and a scale for each 32 columns.

The layout they are packed in is described in `kernels/products.h`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

GROUP = 32
ROWS = 8
_STEPS = 8


class Kind(Enum):
    """Values are the numbers that products.h knows them by."""

    BITS_7 = 0
    BITS_5 = 1
    BITS_4 = 2
    BITS_4_MIN = 3

    @property
    def zero(self) -> int:
        return {Kind.BITS_7: 64, Kind.BITS_5: 16, Kind.BITS_4: 8, Kind.BITS_4_MIN: 0}[self]

    @property
    def block_bytes(self) -> int:
        return {Kind.BITS_7: 272, Kind.BITS_5: 176, Kind.BITS_4: 144, Kind.BITS_4_MIN: 160}[self]


@dataclass(frozen=True, slots=True)
class Grouped:
    """A matrix [rows, columns] as whole numbers: scale * (values - zero), or scale * values - minima."""

    kind: Kind
    values: Tensor  # uint8 [rows, columns]
    scales: Tensor  # float16 [rows, columns / 32]
    minima: Tensor | None = None  # float16, as scales

    def changed(self, change: Callable[[Tensor], Tensor]) -> Grouped:
        """With the rows as `change` orders them."""
        minima = None if self.minima is None else change(self.minima)
        return Grouped(self.kind, change(self.values), change(self.scales), minima)

    def plain(self) -> Tensor:
        """float32 [rows, columns]."""
        rows, columns = self.values.shape
        whole = self.values.view(rows, -1, GROUP).float() - self.kind.zero
        value = whole * self.scales.float().unsqueeze(-1)
        if self.minima is not None:
            value = value - self.minima.float().unsqueeze(-1)
        return value.view(rows, columns)


def rounded(matrix: Tensor, bits: int) -> Grouped:
    """The nearest symmetric 7-, 5- or 4-bit form of a matrix."""
    kind = {7: Kind.BITS_7, 5: Kind.BITS_5, 4: Kind.BITS_4}[bits]
    grouped = matrix.float().view(len(matrix), -1, GROUP)
    if bits == 7:
        scale = grouped.abs().amax(-1, keepdim=True) / (kind.zero - 1)
    else:  # the value furthest out is met exactly: -zero can be written and +zero cannot
        place = grouped.abs().argmax(-1, keepdim=True)
        scale = grouped.gather(-1, place) / -kind.zero
    scale = scale.half()
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale.float())
    whole = (grouped * inverse + kind.zero).round_().clamp_(0, 2 * kind.zero - 1)
    return Grouped(kind, whole.to(torch.uint8).view(matrix.shape), scale.squeeze(-1))


_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a group's range: what lies outside is cut off


def rounded_between(matrix: Tensor) -> Grouped:
    """A 4-bit form with a scale and a minimum for each group, the best of a few ranges."""
    grouped = matrix.float().view(len(matrix), -1, GROUP)
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    middle, best = (low + high) / 2, torch.full_like(low, torch.inf)
    values = torch.zeros_like(grouped, dtype=torch.uint8)
    scales, minima = torch.zeros_like(low).half(), torch.zeros_like(low).half()
    for shrink in _SHRINKS:
        scale = (shrink * (high - low) / 15).half()
        minimum = (shrink * (high - low) / 2 - middle).half()
        inverse = torch.where(scale == 0, 0.0, 1.0 / scale.float())
        whole = ((grouped + minimum.float()) * inverse).round_().clamp_(0, 15)
        error = (whole * scale.float() - minimum.float() - grouped).square_().sum(-1, keepdim=True)
        better = error < best
        values = torch.where(better, whole.to(torch.uint8), values)
        scales, minima = torch.where(better, scale, scales), torch.where(better, minimum, minima)
        best = torch.where(better, error, best)
    return Grouped(Kind.BITS_4_MIN, values.view(matrix.shape), scales.squeeze(-1), minima.squeeze(-1))


def pack(matrix: Grouped) -> Tensor:
    """uint8 [rows / 8, bytes], the blocks of products.h; rows a multiple of 8, columns of 32."""
    rows, columns = matrix.values.shape
    blocks = matrix.values.view(rows // ROWS, ROWS, columns // GROUP, _STEPS, 4)
    steps = blocks.permute(0, 2, 3, 1, 4).reshape(rows // ROWS, columns // GROUP, _STEPS, ROWS * 4)
    heads = [_head(matrix.scales)] + ([] if matrix.minima is None else [_head(matrix.minima)])
    return torch.cat([*heads, *_bytes(matrix.kind, steps)], dim=-1).flatten(1)


def _head(scales: Tensor) -> Tensor:
    """[rows, groups] of float16 as bytes [rows / 8, groups, 16]."""
    eights = scales.view(len(scales) // ROWS, ROWS, -1).transpose(1, 2).contiguous()
    return eights.view(torch.uint8)


def _bytes(kind: Kind, steps: Tensor) -> list[Tensor]:
    if kind is Kind.BITS_7:
        return [steps.flatten(2)]
    low = steps & 15
    halves = (low[:, :, 0::2] | low[:, :, 1::2] << 4).flatten(2)
    if kind is not Kind.BITS_5:
        return [halves]
    weights = (1 << torch.arange(_STEPS, dtype=torch.uint8)).view(-1, 1)
    return [halves, ((steps >> 4) * weights).sum(2, dtype=torch.uint8)]
