"""The engine's transformer as it is trained: the same tensors by the same names, whole sequences, no cache.

Sequences are padded on the right and attention is causal, so padding is seen by no token that counts and no
mask is needed. Logits are made only for places that a loss is taken of. Families with normalised queries,
output norms or windows (Qwen3, Gemma) are not trained here.

`Network` is frozen; what learns is added by who derives from it: low-rank additions (`lora.Trainee`) or all
of the tensors (`Whole`). With `recomputed`, a block keeps its input alone and is computed again in the
backward pass (activation checkpointing): the same gradients, less memory, about a third more work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmos.engine.model import ModelConfig, Rope
from llmos.errors import ModelError


@dataclass(frozen=True, slots=True)
class Batch:
    """ids [B, T] padded on the right; `rows`, `columns`, `targets`: which places predict which token."""

    ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor


class Learner(Protocol):
    """What `train.Run` trains."""

    @property
    def trained(self) -> nn.Module: ...

    def collate(self, samples: Sequence[Any], device: torch.device) -> Any: ...

    def losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """For each target: its cross-entropy, and whether it is the likeliest token."""
        ...


class Network(nn.Module):
    def __init__(self, config: ModelConfig, tensors: dict[str, Tensor], *, positions: int) -> None:
        super().__init__()
        if config.qk_norm or config.post_norms or config.sliding_window is not None or config.gelu:
            raise ModelError(
                f"models of the family {config.architecture} cannot be trained here",
                "Use a Qwen2, Qwen2.5, Llama or SmolLM2 model.",
            )
        self.config = config
        self.recomputed = False
        self._frozen = tensors
        self._rope = Rope(config, config.rope_theta, config.rope_factors, positions)

    def to_device(self, device: torch.device) -> Any:
        self._frozen = {name: tensor.to(device) for name, tensor in self._frozen.items()}
        self._rope.cos, self._rope.sin = self._rope.cos.to(device), self._rope.sin.to(device)
        return self.to(device)

    def weight(self, name: str) -> Tensor:
        return self._frozen[name]

    @property
    def frozen(self) -> dict[str, Tensor]:
        return self._frozen

    def hidden(self, ids: Tensor) -> Tensor:
        """The last block's normalised output [B, T, hidden]."""
        return self._norm(self.states(ids)[-1], "norm")

    def states(self, ids: Tensor) -> list[Tensor]:
        """The embedded tokens and what each block makes of them, [B, T, hidden] each."""
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        x = F.embedding(ids, self.weight("embedding.weight"))
        rope = self._rope.at(positions, x.dtype)
        seen = [x]
        for layer in range(self.config.num_layers):
            seen.append(self._through(layer, seen[-1], rope))
        return seen

    def _through(self, layer: int, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        name = f"blocks.{layer}"
        if not (self.recomputed and torch.is_grad_enabled()):
            return self._block(x, rope, name)
        again: Tensor = checkpoint(self._block, x, rope, name, use_reentrant=False)
        return again

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight("embedding.weight" if self.config.tied else "head.weight"))

    def collate(self, samples: Sequence[Any], device: torch.device) -> Batch:
        return collate(samples, device)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For each target: its cross-entropy, and whether it is the likeliest token."""
        logits = self.logits(self.hidden(batch.ids)[batch.rows, batch.columns]).float()
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
        bias = self.weight(f"{name}.bias") if self._has_bias(name) else None
        return F.linear(x, self.weight(f"{name}.weight"), bias)

    def _has_bias(self, name: str) -> bool:
        return self.config.qkv_bias and name.endswith(".qkv")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight(f"{name}.weight"), self.config.rms_eps)


class Part(nn.Module):
    """Weights needed together: where they are spread over processes, they are gathered for a call."""

    def forward(self, work: Callable[..., Tensor], *args: Any) -> Tensor:
        return work(*args)


class Weights(nn.Module):
    """Every tensor of a model, by the engine's names: a part for each block, and one for all others."""

    def __init__(self, tensors: Mapping[str, Tensor], num_layers: int) -> None:
        super().__init__()
        self.names = tuple(tensors)
        self.blocks = nn.ModuleList(Part() for _ in range(num_layers))
        self.rest = Part()
        for name, tensor in tensors.items():
            part, key = self._place(name)
            part.register_parameter(key, nn.Parameter(tensor.float()))

    def __getitem__(self, name: str) -> Tensor:
        part, key = self._place(name)
        return part.get_parameter(key)

    def _place(self, name: str) -> tuple[Part, str]:
        head, _, tail = name.partition(".")
        if head != "blocks":
            return self.rest, name.replace(".", "_")
        number, _, key = tail.partition(".")
        part = self.blocks[int(number)]
        assert isinstance(part, Part)
        return part, key.replace(".", "_")


class Whole(Network):
    """Every tensor learns. Kept in float32; where `mixed`, products are made in bfloat16."""

    def __init__(
        self, config: ModelConfig, tensors: dict[str, Tensor], *, positions: int, mixed: bool = False
    ) -> None:
        super().__init__(config, {}, positions=positions)
        self.trained = Weights(tensors, config.num_layers)
        self._mixed = mixed

    def weight(self, name: str) -> Tensor:
        return self.trained[name]

    def hidden(self, ids: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._mixed):
            return super().hidden(ids)

    def tensors(self) -> dict[str, Tensor]:
        """By every process at once, where they are spread."""
        return {name: gathered(self.trained[name]) for name in self.trained.names}

    def _through(self, layer: int, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        passed: Tensor = self.trained.blocks[layer](super()._through, layer, x, rope)
        return passed


def gathered(tensor: Tensor) -> Tensor:
    """All of it, detached; what is spread over processes is asked for by every one of them."""
    full = getattr(tensor.detach(), "full_tensor", None)
    return full() if full else tensor.detach()


def collate(samples: Sequence[Any], device: torch.device) -> Batch:
    """Padded on the right; the place before a learnt token is the one that predicts it."""
    longest = max(len(sample.ids) for sample in samples)
    ids = np.zeros((len(samples), longest), np.int64)
    rows, columns, targets = [], [], []
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
        places = np.flatnonzero(sample.learnt)
        rows.append(np.full(len(places), row))
        columns.append(places - 1)
        targets.append(sample.ids[places])
    joined = [np.concatenate(part).astype(np.int64) for part in (rows, columns, targets)]
    return Batch(*(to_device(torch.from_numpy(part), device) for part in (ids, *joined)))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin
