"""Reads a model from a GGUF file or a safetensors folder: configuration, tensors, tokenizer.

Specs: GGUF (ggml's docs/gguf.md), safetensors, and the `config.json` of `transformers`. Whatever the source,
tensors leave here under `engine.model`'s own names, with the query, key and value matrices joined into
one, gate and up joined into one, and in the half-rotated rotary layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from llmos.engine import folder_source, gguf_source
from llmos.engine.groups import Grouped, pack, rounded, rounded_between
from llmos.engine.model import ModelConfig
from llmos.engine.source import Source
from llmos.errors import ModelError

Bits = Literal[7, 5, 4]
OnProgress = Callable[[float], None]  # the share that is done, 0..1


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to some matrices while they are loaded: an adapter's addition.

    `names` are `engine.model`'s (`blocks.3.attention.qkv.weight`); `apply` takes a name and the joined
    matrix, in the type it is to have (float32 before it is packed), and returns it changed.
    """

    names: frozenset[str]
    apply: Callable[[str, Tensor], Tensor]


def open_source(path: Path) -> Source:
    """Open a GGUF file or a model folder. Raises ModelError, with what to do, for what cannot be read."""
    if path.is_dir():
        return folder_source.open_folder(path)
    if not path.is_file():
        raise ModelError(f"there is no model at {path}", "Run: llmos model list")
    return gguf_source.open_gguf(path)


def tensors(
    source: Source,
    dtype: torch.dtype,
    on_progress: OnProgress | None = None,
    change: Change | None = None,
) -> dict[str, Tensor]:
    """All parameters of `engine.model.Transformer`, in `dtype`, joined as it wants them."""
    plan = _checked_plan(source, change)
    loaded = {}
    for index, (name, parts, offset) in enumerate(plan):
        # 1 + w is added before it is rounded.
        try:
            pieces = [source.get(part, torch.float32 if offset else dtype) for part in parts]
            joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        except (RuntimeError, SafetensorError) as error:
            raise ModelError(f"{parts[0]} cannot be read: {error}", "Fetch the model again.") from error
        if change is not None and name in change.names:
            joined = change.apply(name, joined)
        loaded[name] = (joined + offset).to(dtype) if offset else joined
        if on_progress is not None:
            on_progress((index + 1) / len(plan))
    return loaded


def packed_tensors(
    source: Source,
    on_progress: OnProgress | None = None,
    change: Change | None = None,
    bits: Bits | None = None,
) -> dict[str, Tensor]:
    """All parameters for `engine.packed`: matrices as `NAME.PART.KIND` in blocks, the rest in float32.

    With `bits` every matrix is rounded to so many (`_bits_of`); without, the file's own few bits stay and
    what has none is rounded to 7.
    """
    plan = _checked_plan(source, change)
    if source.config.tied:
        plan.append(("head.weight", ["model.embed_tokens.weight"], 0.0))
    loaded: dict[str, Tensor] = {}
    for index, (name, parts, offset) in enumerate(plan):
        try:
            loaded |= _packed(source, name, parts, offset, change=change, bits=bits)
        except (RuntimeError, SafetensorError) as error:
            raise ModelError(f"{parts[0]} cannot be read: {error}", "Fetch the model again.") from error
        if on_progress is not None:
            on_progress((index + 1) / len(plan))
    return loaded


def _packed(
    source: Source, name: str, parts: list[str], offset: float, *, change: Change | None, bits: Bits | None
) -> dict[str, Tensor]:
    if name == "embedding.weight":
        return _embedding(source, parts[0])
    if name.endswith(("norm.weight", ".bias")):
        return {name: torch.cat([source.get(part, torch.float32) for part in parts]) + offset}
    changed = change is not None and name in change.names
    if changed or bits is not None:
        # A changed matrix is no longer on the file's coarser grid.
        joined = torch.cat([source.get(part, torch.float32) for part in parts])
        whole = change.apply(name, joined) if change is not None and changed else joined
        made = [_rounded(whole, _bits_of(name, bits or 7))]
    else:
        made = [source.grouped(part) or rounded(source.get(part, torch.float32), bits=7) for part in parts]
    return {f"{name}.{number}.{matrix.kind.name}": pack(matrix) for number, matrix in enumerate(made)}


def _bits_of(name: str, bits: Bits) -> Bits:
    """The output matrix stays in 7. Of 4 attention has 5: an eighth of a block, and most of the loss."""
    if name == "head.weight":
        return 7
    return 5 if bits == 4 and ".attention." in name else bits


def _rounded(matrix: Tensor, bits: Bits) -> Grouped:
    return rounded_between(matrix) if bits == 4 else rounded(matrix, bits)


def _embedding(source: Source, name: str) -> dict[str, Tensor]:
    if (rows := source.rows(name)) is not None:
        return {f"embedding.rows.{rows[0]}": rows[1]}
    return {"embedding.weight": source.get(name, torch.bfloat16)}


_Plan = list[tuple[str, list[str], float]]


def _checked_plan(source: Source, change: Change | None) -> _Plan:
    """Raises ModelError where the file lacks a tensor, or the change names one that this model has not."""
    plan = list(_plan(source.config))
    parts = (part for _, parts, _ in plan for part in parts)
    if missing := next((part for part in parts if part not in source.names), ""):
        raise ModelError(f"the model lacks the tensor {missing}", "The file is incomplete; fetch it again.")
    if strange := (change.names if change else frozenset()) - {name for name, _, _ in plan}:
        raise ModelError(
            f"the adapter does not fit the model: there is no {min(strange)}",
            "Set `adapter = false` under [model] in the configuration.",
        )
    return plan


def _plan(config: ModelConfig) -> Iterator[tuple[str, list[str], float]]:
    """(our name, the parts' names, what to add): Gemma's norms are stored as w for a factor of 1 + w."""
    plus = 1.0 if config.post_norms else 0.0
    yield "embedding.weight", ["model.embed_tokens.weight"], 0.0
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            yield f"{ours}.attention.qkv.{kind}", [f"{theirs}.self_attn.{p}_proj.{kind}" for p in "qkv"], 0.0
        yield f"{ours}.attention.out.weight", [f"{theirs}.self_attn.o_proj.weight"], 0.0
        if config.qk_norm:
            for part in "qk":
                yield f"{ours}.attention.{part}_norm.weight", [f"{theirs}.self_attn.{part}_norm.weight"], plus
        gate_up = [f"{theirs}.mlp.{part}_proj.weight" for part in ("gate", "up")]
        yield f"{ours}.feed_forward.gate_up.weight", gate_up, 0.0
        yield f"{ours}.feed_forward.down.weight", [f"{theirs}.mlp.down_proj.weight"], 0.0
        for name, part in _norm_names(config.post_norms).items():
            yield f"{ours}.{name}.weight", [f"{theirs}.{part}.weight"], plus
    yield "norm.weight", ["model.norm.weight"], plus
    if not config.tied:
        yield "head.weight", ["lm_head.weight"], 0.0


def _norm_names(post_norms: bool) -> dict[str, str]:
    if not post_norms:
        return {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
    return {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_post_norm": "post_feedforward_layernorm",
    }
