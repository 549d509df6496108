"""Reads a model from a GGUF file or a safetensors folder: configuration, tensors, tokenizer.

Specs: GGUF (ggml's docs/gguf.md), safetensors, and the `config.json` of `transformers`. Whatever the source,
tensors leave here under `engine.model`'s own names, with the query, key and value matrices joined into
one, gate and up joined into one, and in the half-rotated rotary layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmos.engine import tokenizer
from llmos.engine.model import ModelConfig
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import ModelError

# The quantisations that are proven here; gguf can read more.
SUPPORTED = frozenset(["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
OnProgress = Callable[[float], None]  # the share that is done, 0..1


@dataclass(frozen=True, slots=True)
class Source:
    """An opened model: `names` it holds, by `transformers`' names, each fetched by `get` as float32."""

    config: ModelConfig
    tokenizer: Tokenizer
    names: frozenset[str]
    get: Callable[[str], Tensor]


def open_source(path: Path) -> Source:
    """Open a GGUF file or a model folder. Raises ModelError, with what to do, for what cannot be read."""
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ModelError(f"there is no model at {path}", "Run: llmos model list")
    return _open_gguf(path)


def tensors(source: Source, dtype: torch.dtype, on_progress: OnProgress | None = None) -> dict[str, Tensor]:
    """All parameters of `engine.model.Transformer`, in `dtype`, joined as it wants them."""
    plan = list(_plan(source.config))
    loaded = {}
    for index, (name, parts, offset) in enumerate(plan):
        missing = [part for part in parts if part not in source.names]
        if missing:
            raise ModelError(
                f"the model lacks the tensor {missing[0]}", "The file is incomplete; fetch it again."
            )
        pieces = [source.get(part) for part in parts]
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        loaded[name] = (joined + offset if offset else joined).to(dtype)
        if on_progress is not None:
            on_progress((index + 1) / len(plan))
    return loaded


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


# --- GGUF ------------------------------------------------------------------------------------------

_GGUF_NAMES = {
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
_GGUF_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_GGUF_ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})


def _open_gguf(path: Path) -> Source:
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        found = {_from_gguf_name(tensor.name): tensor for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ModelError(
            f"{path} is not a readable GGUF file ({error})",
            "It may be truncated: remove it and fetch it again.",
        ) from error
    config = _gguf_config(fields, found)
    for name, tensor in found.items():
        if tensor.tensor_type.name not in SUPPORTED:
            raise ModelError(
                f"{path}: {name} is quantised as {tensor.tensor_type.name}, which is not supported",
                f"Use a file quantised as one of {', '.join(sorted(SUPPORTED))} (Q4_K_M mixes such).",
            )
    unpermute = fields["general.architecture"] == "llama"

    def get(name: str) -> Tensor:
        tensor = _dequantised(found[name])
        if unpermute and (heads := _rotary_heads(name, config)):
            tensor = _half_rotated(tensor, heads)
        return tensor

    return Source(config, tokenizer.from_gguf(fields, config.vocab_size), frozenset(found), get)


def _from_gguf_name(name: str) -> str:
    """`blk.3.attn_q.weight` as `model.layers.3.self_attn.q_proj.weight`; unknown names stay."""
    stem, _, kind = name.rpartition(".")
    if stem in _GGUF_TOP:
        return f"{_GGUF_TOP[stem]}.{kind}"
    match stem.split("."):
        case ["blk", layer, part] if part in _GGUF_NAMES:
            return f"model.layers.{layer}.{_GGUF_NAMES[part]}.{kind}"
    return name


def _gguf_config(fields: Mapping[str, Any], found: Mapping[str, Any]) -> ModelConfig:
    architecture = fields.get("general.architecture", "unknown")
    if architecture not in _GGUF_ARCHITECTURES:
        raise ModelError(
            f"the GGUF's architecture is {architecture!r}, which is not supported",
            f"Use one of {', '.join(sorted(_GGUF_ARCHITECTURES))}, or the model's safetensors folder.",
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
        vocab_size=int(found["model.embed_tokens.weight"].shape[1]),
        max_positions=field("context_length"),
        rms_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base", 10000.0),
        qkv_bias="model.layers.0.self_attn.q_proj.bias" in found,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in found,
        tied="lm_head.weight" not in found,
    )


def _dequantised(tensor: Any) -> Tensor:
    """A GGUF tensor as float32, in torch's order of dimensions (GGUF lists them innermost first)."""
    from gguf import quants

    values = quants.dequantize(tensor.data, tensor.tensor_type)
    shape = [int(size) for size in reversed(tensor.shape)]
    return torch.from_numpy(values.copy() if not values.flags.writeable else values).reshape(shape)


def _rotary_heads(name: str, config: ModelConfig) -> int:
    if ".self_attn.q_proj." in name:
        return config.num_heads
    return config.num_kv_heads if ".self_attn.k_proj." in name else 0


def _half_rotated(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's interleaving of each head's rotary halves (its convert script's `permute`)."""
    rows = weight.shape[0] // heads
    folded = weight.reshape(heads, rows // 2, 2, *weight.shape[1:])
    return folded.swapaxes(1, 2).reshape(weight.shape)


# --- safetensors folders ---------------------------------------------------------------------------

_FAMILIES = {"qwen2": True, "qwen3": False, "llama": False, "gemma3_text": False, "gemma3": False}


def _open_folder(folder: Path) -> Source:
    from safetensors import SafetensorError, safe_open

    values = _read_json(folder / "config.json")
    if values.get("model_type") == "gemma3":
        values = values["text_config"]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors file", "Use a complete model folder.")
    where: dict[str, Any] = {}
    try:
        for file in files:
            opened = safe_open(str(file), framework="pt")
            where |= {name.replace("language_model.", "", 1): (opened, name) for name in opened.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}", "It may be truncated: fetch it again.") from error
    config = _folder_config(values, "lm_head.weight" in where)

    def get(name: str) -> Tensor:
        opened, stored = where[name]
        tensor: Tensor = opened.get_tensor(stored)
        return tensor.float()

    return Source(config, tokenizer.from_folder(folder, config.vocab_size), frozenset(where), get)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}", "Use a complete model folder.") from error


def _folder_config(values: Mapping[str, Any], has_head: bool) -> ModelConfig:
    family = values.get("model_type", "unknown")
    if family not in _FAMILIES:
        raise ModelError(
            f"the folder's model_type is {family!r}, which is not supported",
            f"Use one of {', '.join(sorted(_FAMILIES))}.",
        )
    try:
        return _config_from(values, family, has_head)
    except KeyError as error:
        raise ModelError(f"config.json lacks {error.args[0]}", "Use a complete model folder.") from error


def _config_from(values: Mapping[str, Any], family: str, has_head: bool) -> ModelConfig:
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    gemma = family.startswith("gemma3")
    theta, local_theta, scale = _rope_settings(values, gemma)
    config = ModelConfig(
        architecture=family,
        num_layers=values["num_hidden_layers"],
        hidden_size=hidden,
        intermediate_size=values["intermediate_size"],
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads", heads),
        head_dim=values.get("head_dim") or hidden // heads,
        vocab_size=values["vocab_size"],
        max_positions=values["max_position_embeddings"],
        rms_eps=values["rms_norm_eps"],
        rope_theta=theta,
        qkv_bias=bool(values.get("attention_bias", _FAMILIES[family])),
        qk_norm=family == "qwen3" or gemma,
        tied=bool(values.get("tie_word_embeddings", gemma)) or not has_head,
        gelu=gemma,
        post_norms=gemma,
        embedding_scale=hidden**0.5 if gemma else 1.0,
        attention_scale=values["query_pre_attn_scalar"] ** -0.5 if gemma else None,
        sliding_window=_window(values, gemma),
        global_layers=_global_layers(values) if gemma else None,
        local_rope_theta=local_theta,
        rope_scale=scale,
    )
    return config


def _rope_settings(values: Mapping[str, Any], gemma: bool) -> tuple[float, float | None, float]:
    """(global theta, local theta, linear scale), from either generation of `transformers`' keys."""
    parameters = values.get("rope_parameters") or {}
    full = parameters.get("full_attention", parameters)
    scaling = values.get("rope_scaling") or full
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear"):
        raise ModelError(f"the rotary scaling {kind!r} is not supported", "Use another model.")
    theta = full.get("rope_theta", values.get("rope_theta", 10000.0))
    local = parameters.get("sliding_attention", {}).get(
        "rope_theta", values.get("rope_local_base_freq", 10000.0)
    )
    scale = float(scaling.get("factor", 1.0)) if kind == "linear" else 1.0
    return float(theta), float(local) if gemma else None, scale


def _window(values: Mapping[str, Any], gemma: bool) -> int | None:
    if not gemma and values.get("use_sliding_window"):
        raise ModelError("this Qwen uses a sliding window, which is not supported", "Use another model.")
    return int(values["sliding_window"]) if gemma else None


def _global_layers(values: Mapping[str, Any]) -> tuple[int, ...]:
    kinds = values.get("layer_types")
    if kinds is None:
        period = values.get("sliding_window_pattern", 6)
        return tuple(layer for layer in range(values["num_hidden_layers"]) if (layer + 1) % period == 0)
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "full_attention")
