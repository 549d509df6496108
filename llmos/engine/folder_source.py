"""A model out of a folder as `transformers` saves it: config.json, *.safetensors, tokenizer.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmos.engine import tokenizer
from llmos.engine.model import ModelConfig
from llmos.engine.source import Source
from llmos.errors import ModelError

_FAMILIES = {"qwen2": True, "qwen3": False, "llama": False, "gemma3_text": False, "gemma3": False}


def open_folder(folder: Path) -> Source:
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

    def get(name: str, dtype: torch.dtype) -> Tensor:
        opened, stored = where[name]
        tensor: Tensor = opened.get_tensor(stored)
        return tensor.to(dtype)

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
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ModelError(
            f"config.json contradicts itself ({error})", "Use a complete model folder."
        ) from error


def _config_from(values: Mapping[str, Any], family: str, has_head: bool) -> ModelConfig:
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    gemma = family.startswith("gemma3")
    theta, local_theta, factors = _rope_settings(values, gemma)
    return ModelConfig(
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
        rope_factors=factors,
    )


def _rope_settings(values: Mapping[str, Any], gemma: bool) -> tuple[float, float | None, tuple[float, ...]]:
    """(global theta, local theta, global factors), from either generation of `transformers`' keys."""
    parameters = values.get("rope_parameters") or {}
    full = parameters.get("full_attention", parameters)
    scaling = values.get("rope_scaling") or full
    theta = float(full.get("rope_theta", values.get("rope_theta", 10000.0)))
    local = parameters.get("sliding_attention", {}).get(
        "rope_theta", values.get("rope_local_base_freq", 10000.0)
    )
    width = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    return theta, float(local) if gemma else None, _rope_factors(scaling, theta, width)


def _rope_factors(scaling: Mapping[str, Any], theta: float, width: int) -> tuple[float, ...]:
    match scaling.get("rope_type", scaling.get("type", "default")):
        case "default":
            return ()
        case "linear":
            return (float(scaling["factor"]),) * (width // 2)
        case "llama3":
            return tuple(_llama3_factor(scaling, theta ** (2 * i / width)) for i in range(width // 2))
        case kind:
            raise ModelError(f"the rotary scaling {kind!r} is not supported", "Use another model.")


def _llama3_factor(scaling: Mapping[str, Any], period: float) -> float:
    """Llama 3.1's rule: long waves are stretched by `factor`, short ones kept, the rest lie between."""
    low, high, factor = (float(scaling[key]) for key in ("low_freq_factor", "high_freq_factor", "factor"))
    turns = float(scaling["original_max_position_embeddings"]) / (2 * math.pi * period)
    kept = min(1.0, max(0.0, (turns - low) / (high - low)))
    return 1 / ((1 - kept) / factor + kept)


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
