"""Model folders as `transformers` reads them: config.json, model.safetensors, tokenizer.json.

The inverse of `engine.weights` and `engine.folder_source` for the families that are trained here, so that a
trained model runs in the engine (`llmos model use FOLDER`) and everywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as HfTokenizer
from torch import Tensor

from llmos.engine.model import ModelConfig
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import ModelError
from llmos.tune.vaswani import Shape, Transformer2017

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_SHAPE_FILE = "shape.json"


def save(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    marks: Mapping[str, int],
) -> None:
    """Weights and config.json; `marks` are the ids of bos, eos and pad that there are."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {name: part.to(dtype).contiguous().cpu() for name, part in _their_names(config, tensors)}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    values: dict[str, Any] = {
        "architectures": [_CLASSES[config.architecture]],
        "model_type": config.architecture,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "torch_dtype": str(dtype).removeprefix("torch."),
        **{f"{name}_token_id": number for name, number in marks.items()},
    }
    _write(folder / "config.json", values)


def save_like(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """In bfloat16, with the tokenizer and the chat template of the model it comes from."""
    settings = tokenizer.settings()
    ids = {key: tokenizer.hf.token_to_id(text) for key, text in settings["variables"].items()}
    marks = {key.removesuffix("_token"): number for key, number in ids.items() if number is not None}
    save(folder, config, tensors, dtype=torch.bfloat16, marks=marks)
    save_tokenizer(folder, tokenizer.hf, template=settings["chat_template"], marks=settings["variables"])


def save_tokenizer(folder: Path, tokenizer: HfTokenizer, *, template: str, marks: Mapping[str, str]) -> None:
    """`marks`: the text of bos_token, eos_token and pad_token that there are."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **marks}
    if template:
        settings["chat_template"] = template
    _write(folder / "tokenizer_config.json", settings)


def _their_names(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    widths = [n * config.head_dim for n in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
    for name, tensor in tensors.items():
        _, _, rest = name.partition(".")
        layer, _, part = rest.partition(".")
        theirs = f"model.layers.{layer}"
        if not name.startswith("blocks."):
            yield (
                {
                    "embedding.weight": "model.embed_tokens.weight",
                    "norm.weight": "model.norm.weight",
                    "head.weight": "lm_head.weight",
                }[name],
                tensor,
            )
        elif part.startswith("attention.qkv."):
            for which, piece in zip("qkv", torch.split(tensor, widths), strict=True):
                yield f"{theirs}.self_attn.{which}_proj.{part.rpartition('.')[2]}", piece
        elif part == "feed_forward.gate_up.weight":
            for which, piece in zip(("gate", "up"), tensor.chunk(2), strict=True):
                yield f"{theirs}.mlp.{which}_proj.weight", piece
        else:
            yield f"{theirs}.{_PARTS[part]}", tensor


_PARTS = {
    "attention.out.weight": "self_attn.o_proj.weight",
    "feed_forward.down.weight": "mlp.down_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
}


# --- the transformer of 2017 ------------------------------------------------------------------------


def save_2017(folder: Path, model: Transformer2017, *, end: int, pad: int) -> None:
    """An encoder-decoder as Marian's classes read it. A decoder alone is MarianForCausalLM: it reports that
    the attention over a source is missing and does not use it."""
    folder.mkdir(parents=True, exist_ok=True)
    shape, alone = model.shape, model.shape.encoder_layers == 0
    named = {
        _marian_name(name, alone): tensor.contiguous().cpu() for name, tensor in model.state_dict().items()
    }
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / _SHAPE_FILE, asdict(shape))
    values = {
        "architectures": ["MarianForCausalLM" if alone else "MarianMTModel"],
        "model_type": "marian",
        "vocab_size": shape.vocab_size,
        "decoder_vocab_size": shape.vocab_size,
        "d_model": shape.width,
        "encoder_layers": shape.encoder_layers,
        "decoder_layers": shape.decoder_layers,
        "encoder_attention_heads": shape.heads,
        "decoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.inner,
        "decoder_ffn_dim": shape.inner,
        "max_position_embeddings": shape.max_positions,
        "activation_function": "relu",
        "dropout": shape.dropout,
        "scale_embedding": True,
        "is_encoder_decoder": not alone,
        "decoder_start_token_id": end,
        "eos_token_id": end,
        "pad_token_id": pad,
        "forced_eos_token_id": None,
    }
    _write(folder / "config.json", values)


def load_2017(folder: Path) -> Transformer2017:
    """Raises ModelError for a folder that holds no such model."""
    try:
        shape = Shape(**json.loads((folder / _SHAPE_FILE).read_text()))
        tensors = load_file(folder / "model.safetensors")
        model = Transformer2017(shape)
        alone = shape.encoder_layers == 0
        model.load_state_dict({name: tensors[_marian_name(name, alone)] for name in model.state_dict()})
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{folder} is no folder of `llmos tune pretrain`: {error}",
            "Name the folder that was given as --out.",
        ) from error
    return model.eval()


def _marian_name(name: str, alone: bool) -> str:
    return "model.decoder.embed_tokens.weight" if alone and name == "shared.weight" else f"model.{name}"


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
