"""A model out of a GGUF file: its metadata as our configuration, its tensors under `transformers`' names.

Llama-style files hold query and key rows interleaved for llama.cpp's rotary layout; that is undone here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmos.engine import gguf_format, tokenizer
from llmos.engine.dequantize import SUPPORTED, dequantize
from llmos.engine.gguf_format import GgufTensor
from llmos.engine.gguf_groups import grouped
from llmos.engine.groups import Grouped
from llmos.engine.model import ModelConfig
from llmos.engine.source import Source
from llmos.errors import ModelError

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})


def open_gguf(path: Path) -> Source:
    """Raises ModelError for what cannot be read or is not supported, before any tensor is unpacked."""
    file = gguf_format.read(path)
    found = {_from_gguf_name(name): tensor for name, tensor in file.tensors.items()}
    try:
        config = _config(file.fields, found)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(f"{path} contradicts itself ({error})", "Fetch the file again.") from error
    for tensor in found.values():
        if tensor.kind.name not in SUPPORTED:
            raise ModelError(
                f"{path}: {tensor.name} is quantised as {tensor.kind.name}, which is not supported",
                f"Use a file quantised as one of {', '.join(sorted(SUPPORTED))} (Q4_K_M mixes such).",
            )
    unpermute = config.architecture == "llama"

    def get(name: str, dtype: torch.dtype) -> Tensor:
        tensor = dequantize(found[name], dtype)
        if unpermute and (heads := _rotary_heads(name, config)):
            tensor = _half_rotated(tensor, heads)
        return tensor

    def groups(name: str) -> Grouped | None:
        taken = grouped(found[name])
        if taken is not None and unpermute and (heads := _rotary_heads(name, config)):
            return taken.changed(lambda rows: _half_rotated(rows, heads))
        return taken

    def rows(name: str) -> tuple[str, Tensor]:
        tensor = found[name]
        return tensor.kind.name, torch.from_numpy(tensor.data).view(tensor.shape[0], -1)

    words = tokenizer.from_gguf(file.fields, config.vocab_size)
    return Source(config, words, frozenset(found), get, groups, rows)


def _from_gguf_name(name: str) -> str:
    """`blk.3.attn_q.weight` as `model.layers.3.self_attn.q_proj.weight`; unknown names stay."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    match stem.split("."):
        case ["blk", layer, part] if part in _NAMES:
            return f"model.layers.{layer}.{_NAMES[part]}.{kind}"
    return name


def _config(fields: Mapping[str, Any], found: Mapping[str, GgufTensor]) -> ModelConfig:
    architecture = fields.get("general.architecture", "unknown")
    if architecture not in _ARCHITECTURES:
        raise ModelError(
            f"the GGUF's architecture is {architecture!r}, which is not supported",
            f"Use one of {', '.join(sorted(_ARCHITECTURES))}, or the model's safetensors folder.",
        )

    def field(name: str, default: Any = None) -> Any:
        value = fields.get(f"{architecture}.{name}", default)
        if value is None:
            raise ModelError(f"the GGUF lacks {architecture}.{name}", "Use a complete GGUF file.")
        return value

    if fields.get(f"{architecture}.rope.scaling.type") not in (None, "none"):
        raise ModelError("the GGUF scales its rotary positions, which is not supported", "Use another model.")
    heads = field("attention.head_count")
    hidden = field("embedding_length")
    if "model.embed_tokens.weight" not in found:
        raise ModelError("the GGUF has no token embedding", "Use a complete GGUF file.")
    return ModelConfig(
        architecture=architecture,
        num_layers=field("block_count"),
        hidden_size=hidden,
        intermediate_size=field("feed_forward_length"),
        num_heads=heads,
        num_kv_heads=field("attention.head_count_kv", heads),
        head_dim=field("attention.key_length", hidden // heads),
        vocab_size=found["model.embed_tokens.weight"].shape[0],
        max_positions=field("context_length"),
        rms_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base", 10000.0),
        qkv_bias="model.layers.0.self_attn.q_proj.bias" in found,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in found,
        tied="lm_head.weight" not in found,
        rope_factors=_rope_factors(found),
    )


def _rope_factors(found: Mapping[str, GgufTensor]) -> tuple[float, ...]:
    """Llama 3.1 and later carry the divisors of their rotary frequencies as a tensor."""
    tensor = found.get("rope_freqs.weight")
    return () if tensor is None else tuple(dequantize(tensor, torch.float32).tolist())


def _rotary_heads(name: str, config: ModelConfig) -> int:
    if ".self_attn.q_proj." in name:
        return config.num_heads
    return config.num_kv_heads if ".self_attn.k_proj." in name else 0


def _half_rotated(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's interleaving of each head's rotary halves (its convert script's `permute`)."""
    rows = weight.shape[0] // heads
    folded = weight.reshape(heads, rows // 2, 2, *weight.shape[1:])
    return folded.swapaxes(1, 2).reshape(weight.shape)
