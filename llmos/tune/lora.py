"""Low-rank adaptation (Hu et al. 2021) of the engine's own transformer, as it is used: merged.

Each forward pass adds scale * B @ A to the frozen matrix and rounds the sum as the engine does when it loads
an adapter, so what is trained is what runs later. The backward pass makes the gradients of A and B from
the input and the output's gradient alone: neither the frozen matrix's gradient nor a side branch is made.

Sequences are padded on the right and attention is causal, so padding is seen by no token that counts and no
mask is needed. Logits are made only for tokens that a loss is taken of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmos.engine.adapter import merged
from llmos.engine.model import ModelConfig, Rope

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

    def tensors(self) -> dict[str, Tensor]:
        """As they are stored: `NAME.a` and `NAME.b`."""
        pairs = zip(self.names, self.low, self.high, strict=True)
        return {f"{name}.{key}": t.detach() for name, a, b in pairs for key, t in (("a", a), ("b", b))}


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


@dataclass(frozen=True, slots=True)
class Batch:
    """ids [B, T] padded on the right; `rows`, `columns`, `targets`: which places predict which token."""

    ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor


class Trainee(nn.Module):
    """The frozen transformer (the engine's tensors, by its names) and the adapter upon it."""

    def __init__(
        self, config: ModelConfig, tensors: dict[str, Tensor], *, rank: int, alpha: float, positions: int
    ) -> None:
        super().__init__()
        self.config = config
        shapes = {
            name: (tensors[f"{name}.weight"].shape[0], tensors[f"{name}.weight"].shape[1])
            for name in target_names(config)
        }
        self.lora = LowRank(shapes, rank=rank, alpha=alpha)
        self._frozen = tensors
        self._rope = Rope(config, config.rope_theta, config.rope_factors, positions)

    def to_device(self, device: torch.device) -> Trainee:
        self._frozen = {name: tensor.to(device) for name, tensor in self._frozen.items()}
        self._rope.cos, self._rope.sin = self._rope.cos.to(device), self._rope.sin.to(device)
        return self.to(device)

    def hidden(self, ids: Tensor) -> Tensor:
        """The last block's normalised output [B, T, hidden]."""
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        x = F.embedding(ids, self._frozen["embedding.weight"])
        rope = self._rope.at(positions, x.dtype)
        for layer in range(self.config.num_layers):
            x = self._block(x, rope, f"blocks.{layer}")
        return self._norm(x, "norm")

    def logits(self, hidden: Tensor) -> Tensor:
        name = "embedding.weight" if self.config.tied else "head.weight"
        return F.linear(hidden, self._frozen[name])

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For each target: its cross-entropy, and whether it is the likeliest token."""
        hidden = self.hidden(batch.ids)[batch.rows, batch.columns]
        logits = self.logits(hidden).float()
        return F.cross_entropy(logits, batch.targets, reduction="none"), logits.argmax(-1) == batch.targets

    def _block(self, x: Tensor, rope: tuple[Tensor, Tensor], name: str) -> Tensor:
        x = x + self._attention(self._norm(x, f"{name}.attention_norm"), rope, f"{name}.attention")
        gate, up = self._linear(
            self._norm(x, f"{name}.feed_forward_norm"), f"{name}.feed_forward.gate_up"
        ).chunk(2, -1)
        return x + self._linear(F.silu(gate) * up, f"{name}.feed_forward.down")

    def _attention(self, x: Tensor, rope: tuple[Tensor, Tensor], name: str) -> Tensor:
        config = self.config
        batch, tokens, _ = x.shape
        widths = [n * config.head_dim for n in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
        q, k, v = (
            part.view(batch, tokens, -1, config.head_dim).transpose(1, 2)
            for part in torch.split(self._linear(x, f"{name}.qkv"), widths, dim=-1)
        )
        q, k = _rotate(q, *rope), _rotate(k, *rope)
        group = config.num_heads // config.num_kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=config.attention_scale)
        return self._linear(mixed.transpose(1, 2).reshape(batch, tokens, -1), f"{name}.out")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        low, high = self.lora.pair(name)
        bias = self._frozen.get(f"{name}.bias")
        return _MergedLinear.apply(x, self._frozen[f"{name}.weight"], bias, low, high, self.lora.scale)  # type: ignore[no-any-return,no-untyped-call]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self._frozen[f"{name}.weight"], self.config.rms_eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin
