"""A model whose weights stay in few bits: read by the kernels of `kernels/`, never unpacked.

The 4- and 5-bit formats of ggml (Q4_0, Q4_1, Q4_K, Q5_0) are taken over as they are, every other matrix is
rounded to 7 bits; the rows of the embedding stay as the file has them. An adapter's matrices are multiplied
beside the weights (`adapter.packed`). Activations are rounded to 8 bits
in front of each product, everything else is float32. One sequence at a time: batches are those of
`model.Transformer`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import gguf
import torch
from torch import Tensor

from llmos.engine import native
from llmos.engine.cache import KVCache
from llmos.engine.dequantize import unpacker
from llmos.engine.groups import GROUP, ROWS, Kind
from llmos.engine.model import ModelConfig, Rope, rms_norm
from llmos.engine.native import Layer, Matrix, Model, Part
from llmos.engine.turns import passes
from llmos.errors import ModelError

_GROUP_BYTES = 40  # sizeof(Group) in products.h
_MOST_RANK = 1024  # of an adapter: far above any


def fits(config: ModelConfig) -> bool:
    """Whether every matrix of this model divides into whole blocks, and every vector into whole registers."""
    widths = (config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim)
    rows = (config.num_kv_heads * config.head_dim, config.vocab_size)
    whole = not any(width % GROUP for width in widths) and not any(row % ROWS for row in rows)
    return whole and config.head_dim % 16 == 0


class PackedTransformer:
    """The same model as `model.Transformer`, of tensors as `weights.packed_tensors` names them.

    Raises KeyError or RuntimeError where they do not fit the configuration.
    """

    dtype = torch.float32  # of keys and values
    device = torch.device("cpu")
    exact = True  # several tokens at once give the very bits that one after the other gives

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], *, positions: int) -> None:
        kernels = native.library()
        assert kernels is not None, "packed weights are only made where there are kernels"
        self.config, self._kernels = config, kernels
        self._tensors = dict(tensors)
        self._embed = _embedding(tensors)
        self._norm = tensors["norm.weight"]
        self._ropes = [
            Rope(config, theta, factors, positions)
            for theta, factors in (
                (config.rope_theta, config.rope_factors),
                (config.local_rope_theta or config.rope_theta, ()),
            )
        ]
        self._widest = max(sum(self._qkv_rows()), 2 * config.intermediate_size)
        self._narrow = max(config.hidden_size, config.num_heads * config.head_dim)
        self._build()

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By name, those of an adapter among them."""
        return self._tensors

    def adapt(self, additions: Mapping[str, Tensor]) -> None:
        """Another adapter's narrow matrices (`adapter.packed`) beside the same weights, or none.

        Not while it computes. Raises ModelError for what does not fit, and is as before then.
        """
        before = self._tensors
        base = {name: tensor for name, tensor in before.items() if not name.endswith((".low", ".high"))}
        self._tensors = base | dict(additions)
        try:
            self._build()
        except ModelError:
            self._tensors = before
            self._build()
            raise

    # --- built for each adapter ---

    def _build(self) -> None:
        """What the kernels are given: addresses of tensors, which stay where they are."""
        config = self.config
        self._kept: list[Any] = []  # what the kernels hold addresses of
        self._rank = 0  # the highest of an adapter's
        self._head = self._matrix("head", config.vocab_size, config.hidden_size)
        self._layers = (Layer * config.num_layers)(*map(self._layer, range(config.num_layers)))
        self._model = self._described()

    def _described(self) -> Model:
        config = self.config
        return Model(
            layers=self._layers,
            **{name: getattr(config, name) for name in ("num_layers", "head_dim", "gelu")},
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            eps=config.rms_eps,
            attention_scale=config.attention_scale or config.head_dim**-0.5,
        )

    def _qkv_rows(self) -> tuple[int, ...]:
        config = self.config
        return tuple(
            n * config.head_dim for n in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        )

    def _layer(self, index: int) -> Layer:
        config, name = self.config, f"blocks.{index}"
        hidden, wide = config.hidden_size, config.intermediate_size
        rope = self._ropes[not config.is_global(index)]
        window = 0 if config.is_global(index) else config.sliding_window or 0
        norms = {
            norm: self._address(f"{name}.{norm}.weight") for norm in ("attention_norm", "feed_forward_norm")
        }
        if config.post_norms:
            more = ("attention_post_norm", "feed_forward_post_norm")
            norms |= {norm: self._address(f"{name}.{norm}.weight") for norm in more}
        if config.qk_norm:
            norms |= {norm: self._address(f"{name}.attention.{norm}.weight") for norm in ("q_norm", "k_norm")}
        return Layer(
            qkv=self._matrix(f"{name}.attention.qkv", sum(self._qkv_rows()), hidden),
            out=self._matrix(f"{name}.attention.out", hidden, self._qkv_rows()[0]),
            gate_up=self._matrix(f"{name}.feed_forward.gate_up", 2 * wide, hidden),
            down=self._matrix(f"{name}.feed_forward.down", hidden, wide),
            cos=rope.cos.data_ptr(),
            sin=rope.sin.data_ptr(),
            window=window,
            **norms,
        )

    def _address(self, name: str) -> int:
        return self._keep(self._tensors[name]).data_ptr()

    def _keep(self, tensor: Tensor) -> Tensor:
        self._kept.append(tensor := tensor.contiguous())
        return tensor

    def _matrix(self, name: str, rows: int, columns: int) -> Matrix:
        found = sorted(key for key in self._tensors if key.startswith(f"{name}.weight."))
        parts = [(Kind[key.rpartition(".")[2]], self._keep(self._tensors[key])) for key in found]
        if sum(len(blocks) for _, blocks in parts) * ROWS != rows:
            raise RuntimeError(f"{name} has not {rows} rows")
        if any(blocks.shape[1] != columns // GROUP * kind.block_bytes for kind, blocks in parts):
            raise RuntimeError(f"{name} has not {columns} columns")
        array = (Part * len(parts))(
            *(Part(blocks.data_ptr(), len(blocks) * ROWS, kind.value) for kind, blocks in parts)
        )
        self._kept.append(array)
        bias = self._address(f"{name}.bias") if f"{name}.bias" in self._tensors else None
        low, high = self._addition(name, rows, columns)
        return Matrix(ctypes.addressof(array), bias, low, high, len(parts), rows, columns)

    def _addition(self, name: str, rows: int, columns: int) -> tuple[int | None, int | None]:
        """The addresses of an adapter's `low` and `high` for this matrix. Raises ModelError."""
        if f"{name}.low" not in self._tensors:
            return None, None
        low, high = (self._keep(self._tensors[f"{name}.{part}"]) for part in ("low", "high"))
        rank = len(low) * ROWS
        widths = [n // GROUP * Kind.BITS_7.block_bytes for n in (columns, rank)]
        if [low.shape[1], high.shape[1]] != widths or len(high) * ROWS != rows or rank > _MOST_RANK:
            raise ModelError(
                f"the adapter does not fit the model: {name} has {rows} rows of {columns}",
                "Set `adapter = false` under [model] in the configuration.",
            )
        self._rank = max(self._rank, rank)
        part = self._kept_structure(Part(low.data_ptr(), rank, Kind.BITS_7.value))
        matrix = Matrix(parts=ctypes.addressof(part), num_parts=1, rows=rank, columns=columns)
        return ctypes.addressof(self._kept_structure(matrix)), high.data_ptr()

    def _kept_structure(self, structure: ctypes.Structure) -> ctypes.Structure:
        self._kept.append(structure)
        return structure

    # --- used again and again ---

    @property
    def bytes_per_token(self) -> int:
        """Of weights, which decoding one token reads once: all but the embedding's other rows."""
        return sum(t.nbytes for name, t in self._tensors.items() if not name.startswith("embedding."))

    def new_cache(self, batch: int, max_tokens: int) -> KVCache:
        return self.config.new_cache(batch, max_tokens, self.dtype)

    def __call__(self, ids: Tensor, cache: KVCache, *, wanted: int | None = 1) -> Tensor:
        """Logits [1, wanted, vocab] of the last (None: all) of ids [1, T]; see `states`."""
        return self.logits(self.states(ids, cache, wanted=wanted)[0]).unsqueeze(0)

    def states(self, ids: Tensor, cache: KVCache, *, wanted: int | None = 1) -> Tensor:
        """What logits are computed from, [1, wanted, hidden], of the last (None: all) of ids [1, T].

        `cache` holds what was read before and grows by T.
        """
        assert len(ids) == 1, "one sequence at a time"
        x = self._through(self._model, ids[0], cache, wanted)
        return rms_norm(x, self._norm, self.config.rms_eps).unsqueeze(0)

    def after(self, layers: int, ids: Tensor) -> Tensor:
        """What the first `layers` blocks make of ids [T], [T, hidden]; the others are the caller's."""
        lower = Model.from_buffer_copy(self._model)
        lower.num_layers = layers
        return self._through(lower, ids, self.new_cache(1, len(ids)), None)

    def _through(self, model: Model, ids: Tensor, cache: KVCache, wanted: int | None) -> Tensor:
        """What the model's last block makes of the last `wanted` (None: all) of ids [T]."""
        tokens = len(ids)
        cache.reserve(tokens)
        x = self._embed(ids) * self.config.embedding_scale
        groups = torch.empty(tokens, self._group_bytes(), dtype=torch.uint8)
        narrow, mixed = torch.empty(2, tokens, self._narrow)
        wide = torch.empty(tokens, self._widest)
        keys, values = cache.addresses()
        wanted = tokens if wanted is None else wanted
        with passes:
            self._kernels.llmos_forward(
                *(ctypes.byref(model), tokens, wanted, cache.length, cache.capacity, keys, values),
                *(tensor.data_ptr() for tensor in (x, narrow, mixed, wide, groups)),
            )
        cache.advance(tokens)
        return x[-wanted:]

    def logits(self, states: Tensor) -> Tensor:
        """[n, vocab] of states [n, hidden]."""
        return self._of_head(states, None, self.config.vocab_size // ROWS)

    def logits_of(self, state: Tensor, ids: Tensor) -> Tensor:
        """[len(ids)] of one state [hidden]; only the blocks of 8 rows that these ids are in are read."""
        units, places = torch.unique(ids // ROWS, return_inverse=True)
        out = self._of_head(state.unsqueeze(0), units.int(), len(units))
        return out[0, places * ROWS + ids % ROWS]

    def _of_head(self, states: Tensor, units: Tensor | None, num_units: int) -> Tensor:
        states = states.contiguous()
        groups = torch.empty(len(states), self._group_bytes(), dtype=torch.uint8)
        out = torch.empty(len(states), num_units * ROWS)
        address = None if units is None else units.data_ptr()
        with passes:
            self._kernels.llmos_product(
                *(ctypes.byref(self._head), len(states), states.data_ptr(), address, num_units),
                *(groups.data_ptr(), out.data_ptr()),
            )
        return out

    def _group_bytes(self) -> int:
        """Of a token: its widest activations in groups; an adapter's narrow ones in both forms."""
        widest = max(self._narrow, self.config.intermediate_size)
        return (widest + self._rank) // GROUP * _GROUP_BYTES + self._rank * 4


def _embedding(tensors: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Rows by id, in float32; ggml's blocks are unpacked as they are asked for."""
    if "embedding.weight" in tensors:
        whole = tensors["embedding.weight"]
        return lambda ids: whole[ids].float()
    name = next(key for key in tensors if key.startswith("embedding.rows."))
    kind = gguf.GGMLQuantizationType[name.rpartition(".")[2]]
    rows, unpack, num_bytes = tensors[name], unpacker(kind), gguf.GGML_QUANT_SIZES[kind][1]
    return lambda ids: unpack(rows[ids].view(-1, num_bytes)).view(len(ids), -1).float()
