"""Low-rank adaptation (Hu et al. 2021) of the engine's own transformer, as it is used: merged.

Each forward pass adds scale * B @ A to the frozen matrix and rounds the sum as the engine does when it loads
an adapter, so what is trained is what runs later. The backward pass makes the gradients of A and B from
the input and the output's gradient alone: neither the frozen matrix's gradient nor a side branch is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmos.engine import adapter as adapters
from llmos.engine.adapter import Adapter, merged
from llmos.engine.model import ModelConfig
from llmos.errors import ModelError
from llmos.tune.network import Network, gathered

TARGETS = ("attention.qkv", "attention.out", "feed_forward.gate_up", "feed_forward.down")


def target_names(config: ModelConfig) -> list[str]:
    """The matrices that are adapted: every projection of every block, by the engine's names."""
    return [f"blocks.{layer}.{target}" for layer in range(config.num_layers) for target in TARGETS]


class LowRank(nn.Module):
    """A [rank, in] and B [out, rank] for each target; B starts at zero, so training starts at the base."""

    def __init__(self, shapes: dict[str, tuple[int, int]], *, rank: int, alpha: float) -> None:
        super().__init__()
        self.rank, self.alpha = rank, alpha
        self.names = list(shapes)
        self.low = nn.ParameterList()
        self.high = nn.ParameterList()
        for rows, columns in shapes.values():
            self.low.append(nn.Parameter(torch.randn(rank, columns) / columns**0.5))
            self.high.append(nn.Parameter(torch.zeros(rows, rank)))

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        index = self.names.index(name)
        return self.low[index], self.high[index]

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from these, named as `tensors` names them. Raises KeyError for one that is not there."""
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            low.copy_(tensors[f"{name}.a"])
            high.copy_(tensors[f"{name}.b"])

    def tensors(self) -> dict[str, Tensor]:
        """As they are stored: `NAME.a` and `NAME.b`."""
        pairs = zip(self.names, self.low, self.high, strict=True)
        return {f"{name}.{key}": gathered(t) for name, a, b in pairs for key, t in (("a", a), ("b", b))}


class _MergedLinear(torch.autograd.Function):
    """x @ (W + scale * B A)^T + bias, with gradients for x, A and B."""

    @staticmethod
    def forward(  # noqa: PLR0917 - as autograd calls it
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor, high: Tensor, scale: float
    ) -> Tensor:
        whole = merged(weight, low, high, scale)
        ctx.save_for_backward(x, whole, low, high)
        ctx.scale = scale
        return F.linear(x, whole, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, whole, low, high = ctx.saved_tensors
        flat_grad, flat_x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        through = (flat_grad @ high.to(grad.dtype)) * ctx.scale  # [T, rank]
        grad_low = (through.t() @ flat_x).to(low.dtype)
        grad_high = (flat_grad.t() @ (flat_x @ low.to(x.dtype).t())).to(high.dtype) * ctx.scale
        grad_x = (flat_grad @ whole).view(x.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_low, grad_high, None


class Trainee(Network):
    """The frozen transformer (the engine's tensors, by its names) and the adapter upon it."""

    def __init__(
        self, config: ModelConfig, tensors: dict[str, Tensor], *, rank: int, alpha: float, positions: int
    ) -> None:
        super().__init__(config, tensors, positions=positions)
        shapes = {
            name: (tensors[f"{name}.weight"].shape[0], tensors[f"{name}.weight"].shape[1])
            for name in target_names(config)
        }
        self.lora = LowRank(shapes, rank=rank, alpha=alpha)

    @classmethod
    def going_on(
        cls, adapter: Adapter, config: ModelConfig, tensors: dict[str, Tensor], *, positions: int
    ) -> Trainee:
        """From where the adapter's training ended. Raises ModelError for one that lacks a matrix of these."""
        parts = adapters.tensors(adapter)
        try:
            rank = len(parts[f"{target_names(config)[0]}.a"])
            made = cls(config, tensors, rank=rank, alpha=adapter.scale * rank, positions=positions)
            made.lora.take(parts)
        except (KeyError, RuntimeError) as error:
            raise ModelError(
                f"{adapter.folder} is no adapter of all of these matrices: {error}", "Train without --start."
            ) from error
        return made

    @property
    def trained(self) -> nn.Module:
        return self.lora

    def _linear(self, x: Tensor, name: str) -> Tensor:
        low, high = self.lora.pair(name)
        bias = self.weight(f"{name}.bias") if self._has_bias(name) else None
        return _MergedLinear.apply(x, self.weight(f"{name}.weight"), bias, low, high, self.lora.scale)  # type: ignore[no-any-return,no-untyped-call]
