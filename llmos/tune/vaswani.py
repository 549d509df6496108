"""The transformer of Vaswani et al. 2017 ("Attention Is All You Need"), to be trained from scratch.

    section 3.1   encoder and decoder blocks, residual connections, layer normalisation after each of them
    section 3.2   scaled dot-product and multi-head attention; in the decoder masked, and over the source
    section 3.3   position-wise feed-forward networks
    section 3.4   one matrix for both embeddings and, transposed, before the softmax; scaled by sqrt(width)
    section 3.5   sinusoidal positions (sines first, then cosines, as in the authors' tensor2tensor)
    section 5.4   residual dropout and label smoothing

With encoder blocks it is the paper's encoder-decoder; without, a decoder alone, which predicts the next token
of a text. Parameters are named as in `transformers`' Marian, whose architecture this is, so that its classes
read what is saved here. Shapes: B batch, S source tokens, T target tokens, H heads, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmos.tune.network import to_device


@dataclass(frozen=True, slots=True)
class Shape:
    """`encoder_layers` 0: a decoder alone. The defaults are the paper's base model (table 3)."""

    vocab_size: int
    width: int = 512
    heads: int = 8
    inner: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    max_positions: int = 1024
    dropout: float = 0.1
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"a width of {self.width} cannot be parted among {self.heads} heads")


class MultiHeadAttention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(shape.width, shape.width) for _ in range(4)
        )

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
        """x [B, T, W] attends to memory [B, S, W], where mask [B, 1, 1, S] (None: everywhere) is True."""
        q, k, v = (
            self._split(self.q_proj(x)),
            self._split(self.k_proj(memory)),
            self._split(self.v_proj(memory)),
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, H, T, W / H]


class Block(nn.Module):
    """One block; `crosses` adds the decoder's attention over the encoder's output."""

    def __init__(self, shape: Shape, *, crosses: bool) -> None:
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = MultiHeadAttention(shape), nn.LayerNorm(shape.width)
        if crosses:
            self.encoder_attn, self.encoder_attn_layer_norm = (
                MultiHeadAttention(shape),
                nn.LayerNorm(shape.width),
            )
        self.fc1, self.fc2 = nn.Linear(shape.width, shape.inner), nn.Linear(shape.inner, shape.width)
        self.final_layer_norm = nn.LayerNorm(shape.width)
        self._drop = nn.Dropout(shape.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        *,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        x = self.self_attn_layer_norm(x + self._drop(self.self_attn(x, x, mask, causal=causal)))
        if memory is not None:
            seen = self.encoder_attn(x, memory, memory_mask)
            x = self.encoder_attn_layer_norm(x + self._drop(seen))
        fed = self.fc2(F.relu(self.fc1(x)))
        return self.final_layer_norm(x + self._drop(fed))  # type: ignore[no-any-return]


class Stack(nn.Module):
    def __init__(self, shape: Shape, layers: int, *, crosses: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(shape, crosses=crosses) for _ in range(layers))


@dataclass(frozen=True, slots=True)
class Pair:
    """A source and its target; `ids` is the target behind the mark it starts with."""

    source: np.ndarray[Any, np.dtype[np.int32]]
    ids: np.ndarray[Any, np.dtype[np.int32]]
    learnt: np.ndarray[Any, np.dtype[np.bool_]]
    reply: np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Both sides padded on the right; no source for a decoder alone. `learnt` [B, T - 1] of ids[:, 1:]."""

    source: Tensor | None
    source_mask: Tensor | None
    ids: Tensor
    learnt: Tensor


class Transformer2017(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.shared = nn.Embedding(shape.vocab_size, shape.width)
        nn.init.normal_(self.shared.weight, std=shape.width**-0.5)
        crosses = shape.encoder_layers > 0
        if crosses:
            self.encoder = Stack(shape, shape.encoder_layers, crosses=False)
        self.decoder = Stack(shape, shape.decoder_layers, crosses=crosses)
        self._drop = nn.Dropout(shape.dropout)
        self.register_buffer("positions", sinusoids(shape.max_positions, shape.width), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and name != "shared.weight":
                nn.init.xavier_uniform_(parameter)

    @property
    def trained(self) -> nn.Module:
        return self

    def encode(self, source: Tensor, mask: Tensor | None) -> Tensor:
        """source [B, S]; mask [B, 1, 1, S], True where there is a token. Returns [B, S, W]."""
        x = self._embed(source)
        for block in self.encoder.layers:
            x = block(x, mask)
        return x

    def decode(self, ids: Tensor, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, vocab] for the token after each of ids [B, T]."""
        x = self._embed(ids)
        for block in self.decoder.layers:
            x = block(x, None, causal=True, memory=memory, memory_mask=memory_mask)
        return F.linear(x, self.shared.weight)

    def forward(self, batch: Batch) -> Tensor:
        memory = None if batch.source is None else self.encode(batch.source, batch.source_mask)
        return self.decode(batch.ids[:, :-1], memory, batch.source_mask)

    def collate(self, samples: Sequence[Any], device: torch.device) -> Batch:
        ids, _ = _padded([sample.ids for sample in samples])
        learnt, _ = _padded([sample.learnt for sample in samples])
        source = mask = None
        if self.shape.encoder_layers:
            source, seen = _padded([sample.source for sample in samples])
            mask = to_device(seen[:, None, None, :], device)
            source = to_device(source, device)
        return Batch(source, mask, to_device(ids, device), to_device(learnt[:, 1:].bool(), device))

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `network.Learner` wants them; smoothed while training, plain when judged."""
        logits = self(batch)[batch.learnt].float()
        targets = batch.ids[:, 1:][batch.learnt]
        smoothing = self.shape.label_smoothing if self.training else 0.0
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
        return losses, logits.argmax(-1) == targets

    @torch.inference_mode()
    def greedy(
        self, ids: list[int], source: list[int] | None, *, most: int, ends: frozenset[int]
    ) -> list[int]:
        """What follows `ids`, token by token, until one of `ends` or `most` tokens."""
        memory = None if source is None else self.encode(torch.tensor([source]), None)
        said = list(ids)
        for _ in range(min(most, self.shape.max_positions - len(ids))):
            said.append(int(self.decode(torch.tensor([said]), memory)[0, -1].argmax()))
            if said[-1] in ends:
                break
        return said[len(ids) :]

    def _embed(self, ids: Tensor) -> Tensor:
        x = self.shared(ids) * math.sqrt(self.shape.width)
        return self._drop(x + self.positions[: ids.shape[1]])  # type: ignore[no-any-return,index]


def sinusoids(positions: int, width: int) -> Tensor:
    """[positions, width]: sin and cos of pos / 10000^(2i / width), section 3.5."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), rates)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).float()


def _padded(rows: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """[B, longest] with zeros on the right, and where there is something."""
    longest = max(len(row) for row in rows)
    padded = np.zeros((len(rows), longest), np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    return torch.from_numpy(padded), torch.from_numpy(np.arange(longest)[None] < lengths[:, None])
