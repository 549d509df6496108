"""The decoder-only transformer, one code for Qwen2/2.5, Qwen3, Llama/SmolLM2 and Gemma 3 (text).

Vaswani et al. 2017 with pre-normalisation (RMSNorm, Zhang and Sennrich 2019), rotary positions (Su et al.
2021), gated feed-forward (Shazeer 2020) and grouped-query attention (Ainslie et al. 2023). What differs
between the families stands in `ModelConfig`, and nowhere else.

Shapes: B batch, T new tokens, S all positions so far, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmos.engine.cache import KVCache
from llmos.engine.turns import passes

# Far above any real model; what is allocated before a weight is read stays small all the same.
_LIMITS = {"num_layers": 1 << 10, "num_heads": 1 << 12, "head_dim": 1 << 12}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything the families differ in. `global_layers` is None where every layer sees everything."""

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_eps: float
    rope_theta: float
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = True
    gelu: bool = False  # Gemma gates with GELU (tanh form), the others with SiLU
    post_norms: bool = False  # Gemma normalises each block's output as well
    embedding_scale: float = 1.0
    attention_scale: float | None = None  # None: 1/sqrt(head_dim)
    sliding_window: int | None = None
    global_layers: tuple[int, ...] | None = None
    local_rope_theta: float | None = None
    rope_factors: tuple[float, ...] = ()  # what each rotary frequency of the global layers is divided by

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that no model can have; they come from files."""
        sizes = ("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim")
        for name in (*sizes, "vocab_size", "max_positions"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 < value <= _LIMITS.get(name, 1 << 24):
                raise ValueError(f"{name} is {value!r}")
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise ValueError(f"{self.num_heads} heads of {self.head_dim} on {self.num_kv_heads} key heads")
        if len(self.rope_factors) not in (0, self.head_dim // 2):
            raise ValueError(f"{len(self.rope_factors)} rotary factors for heads of {self.head_dim}")

    def is_global(self, layer: int) -> bool:
        return self.global_layers is None or layer in self.global_layers

    def new_cache(
        self, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device | None = None
    ) -> KVCache:
        return KVCache(
            layers=self.num_layers,
            batch=batch,
            kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            max_tokens=max_tokens,
            dtype=dtype,
            device=device,
        )


class Linear(nn.Linear):
    """Without the random start: weights come from a file, and torch's initialisers import its compiler.

    Where the processor has no bfloat16 products, many rows are multiplied in float32: torch's own way is ten
    times slower there than unpacking the matrix each time.
    """

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        slow = x.dtype is torch.bfloat16 and not multiplies_bfloat16() and not torch.is_grad_enabled()
        if not slow or x.numel() < _MANY_ROWS * x.shape[-1]:
            return super().forward(x)
        wide = x.float()
        parts = [F.linear(wide, part.float()) for part in torch.split(self.weight, _UNPACKED // x.shape[-1])]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return (out if self.bias is None else out.add_(self.bias)).bfloat16()


_MANY_ROWS = 16  # from here on it pays
_UNPACKED = 1 << 25  # elements at a time; only the output matrix is larger


@cache
def multiplies_bfloat16() -> bool:
    """AVX512-BF16 or AMX, or their like on ARM, as the kernel reports them."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


class Embedding(nn.Embedding):
    """Without the random start, as `Linear`."""

    def reset_parameters(self) -> None:
        pass


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Rope:
    """Cosines and sines for each position, [positions, D], in the half-rotated layout of `transformers`."""

    def __init__(self, config: ModelConfig, theta: float, factors: tuple[float, ...], positions: int) -> None:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        frequencies = theta**-exponents / torch.tensor(factors or 1.0)
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos(), angles.sin()

    def at(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """For positions [B, T]: two of [B, 1, T, D]."""
        return self.cos[positions].unsqueeze(1).to(dtype), self.sin[positions].unsqueeze(1).to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Keeping(Protocol):
    """What attention needs of a cache."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self._widths = [
            n * config.head_dim for n in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        ]
        self.qkv = Linear(config.hidden_size, sum(self._widths), bias=config.qkv_bias)
        self.out = Linear(self._widths[0], config.hidden_size, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: Keeping) -> Tensor:
        """x [B, T, hidden]; mask [B or 1, 1, T, S], True where attention may go, or None for all."""
        config = self.config
        batch, tokens, _ = x.shape
        q, k, v = (
            part.view(batch, tokens, -1, config.head_dim).transpose(1, 2)
            for part in self.qkv(x).split(self._widths, dim=-1)
        )
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = _rotate(q, *rope), _rotate(k, *rope)
        keys, values = cache.append(self.layer, k, v)
        # The H/K query heads that share a key head are laid out as further queries of it: nothing is copied.
        group = config.num_heads // config.num_kv_heads
        q = q.reshape(batch, config.num_kv_heads, group * tokens, config.head_dim)
        if mask is not None:
            mask = mask.repeat(1, 1, group, 1)
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=config.attention_scale)
        mixed = mixed.reshape(batch, config.num_heads, tokens, config.head_dim)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, -1))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gelu = config.gelu
        self.gate_up = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        gate = F.gelu(gate, approximate="tanh") if self.gelu else F.silu(gate)
        return self.down(gate * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_eps
        self.attention_norm, self.feed_forward_norm = RMSNorm(width, eps), RMSNorm(width, eps)
        self.attention, self.feed_forward = Attention(config, layer), FeedForward(config)
        self.post_norms = config.post_norms
        if config.post_norms:
            self.attention_post_norm, self.feed_forward_post_norm = RMSNorm(width, eps), RMSNorm(width, eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: Keeping) -> Tensor:
        mixed = self.attention(self.attention_norm(x), rope, mask, cache)
        x = x + (self.attention_post_norm(mixed) if self.post_norms else mixed)
        fed = self.feed_forward(self.feed_forward_norm(x))
        return x + (self.feed_forward_post_norm(fed) if self.post_norms else fed)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    exact = False  # the products of one row and of several add up in different orders

    def __init__(self, config: ModelConfig, *, positions: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        with torch.device("cpu"):
            self._rope = Rope(config, config.rope_theta, config.rope_factors, positions)
            local = config.local_rope_theta
            self._local_rope = Rope(config, local, (), positions) if local is not None else self._rope

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.weight.dtype  # of what is computed; packed weights are narrower

    def new_cache(self, batch: int, max_tokens: int) -> KVCache:
        return self.config.new_cache(batch, max_tokens, self.dtype, self.device)

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    def move(self, device: torch.device) -> None:
        """All of it, the rotary tables too."""
        self.to(device)
        for rope in (self._rope, self._local_rope):
            rope.cos, rope.sin = rope.cos.to(device), rope.sin.to(device)

    @property
    def bytes_per_token(self) -> int:
        """Of weights, which decoding one token reads once: all but the embedding's other rows."""
        own = sum(weight.nbytes for weight in self.parameters())  # a tied matrix counts once
        return own if self.config.tied else own - self.embedding.weight.nbytes

    def forward(
        self, ids: Tensor, cache: KVCache, *, padding: Tensor | None = None, wanted: int | None = 1
    ) -> Tensor:
        """Logits [B, wanted, vocab] of the last (None: all) of ids [B, T]; see `states`."""
        return self.logits(self.states(ids, cache, padding=padding, wanted=wanted))

    def logits(self, states: Tensor) -> Tensor:
        """[..., vocab] of states [..., hidden]."""
        with kernels_for(states.numel() // states.shape[-1]):
            return self.head(states)  # type: ignore[no-any-return]

    def logits_of(self, state: Tensor, ids: Tensor) -> Tensor:
        """[len(ids)] of one state [hidden]; no less is computed for it than for all."""
        return self.logits(state.unsqueeze(0))[0, ids]

    def states(
        self, ids: Tensor, cache: KVCache, *, padding: Tensor | None = None, wanted: int | None = 1
    ) -> Tensor:
        """What logits are computed from, [B, wanted, hidden], of the last (None: all) of ids [B, T].

        `cache` holds what was read before and grows by T.

        `padding` [B] counts the left padding of each row, in the whole sequence: padded positions are
        seen by nobody, and a row's positions start behind them.
        """
        tokens = ids.shape[1]
        cache.reserve(tokens)
        ids = ids.to(self.device)
        positions = torch.arange(cache.length, cache.length + tokens, device=self.device).unsqueeze(0)
        if padding is not None:
            positions = (positions - padding.unsqueeze(1)).clamp(min=0)
        masks = self._masks(cache.length, tokens, padding)
        with kernels_for(len(ids) * tokens):
            x = self._through(ids, positions, masks, cache)
        cache.advance(tokens)
        x = x if wanted is None else x[:, -wanted:]
        with kernels_for(x.shape[0] * x.shape[1]):
            return self.norm(x)  # type: ignore[no-any-return]

    def _through(
        self, ids: Tensor, positions: Tensor, masks: tuple[Tensor | None, Tensor | None], cache: Keeping
    ) -> Tensor:
        """What the last block makes of ids [B, T] at `positions` [B or 1, T], [B, T, hidden]."""
        ropes = self._rope.at(positions, self.dtype), self._local_rope.at(positions, self.dtype)
        x = self.embedding(ids)
        if self.config.embedding_scale != 1.0:
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)
        for layer, block in enumerate(self.blocks):
            local = not self.config.is_global(layer)
            x = block(x, ropes[local], masks[local], cache)
        return x  # type: ignore[no-any-return]

    def _masks(self, start: int, tokens: int, padding: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """(global, local) masks [B or 1, 1, T, S]; None where one new token may see everything."""
        window = self.config.sliding_window
        end = start + tokens
        windowed = window is not None and end > window
        if tokens == 1 and padding is None and not windowed:
            return None, None
        rows = torch.arange(start, end, device=self.device).unsqueeze(1)
        columns = torch.arange(end, device=self.device).unsqueeze(0)
        causal = (columns <= rows)[None, None]
        if padding is not None:
            # A padded query sees itself alone, so that its softmax is not empty.
            seen = (columns >= padding.view(-1, 1, 1, 1)) | (columns == rows)
            causal = causal & seen
        if not windowed:
            return causal, causal
        assert window is not None
        return causal, causal & (columns > rows - window)


@contextmanager
def kernels_for(rows: int) -> Iterator[None]:
    """For one row, torch's own matrix-vector product: it reads bf16 weights at twice oneDNN's speed (17 to
    8 GB/s on two Zen 4 cores; from three rows on oneDNN wins). The switch is the whole process's."""
    with passes:
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = before and rows > 1  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before
