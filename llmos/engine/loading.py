"""From a model's file to a model in memory, in one of three number formats.

    packed     the weights in the file's few bits, multiplied by kernels of our own (where they can be had)
    bfloat16   unpacked to 16 bits, multiplied by torch: runs everywhere
    float32    for proofs

`auto` is the first of them that this machine and this model allow; on a GPU (`device`) it is bfloat16.

An adapter (`engine.adapter`) is multiplied beside packed weights, whose prepared form is the same with every
adapter and without one. To the other forms it is added before they are kept, under its hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from llmos.engine import adapter as adapters
from llmos.engine import native, packed, prepared, quantised, weights
from llmos.engine.adapter import Adapter
from llmos.engine.graphed import GraphedTransformer
from llmos.engine.localfile import read_origin
from llmos.engine.model import ModelConfig, Transformer
from llmos.engine.packed import PackedTransformer
from llmos.engine.source import Source
from llmos.engine.tokenizer import Tokenizer
from llmos.errors import ModelError

Device = Literal["cpu", "cuda"]
Numbers = Literal["packed", "bfloat16", "float32"]
AnyModel = Transformer | PackedTransformer
_TORCH = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load(
    path: Path,
    numbers: Numbers | Literal["auto"],
    context_tokens: int,
    on_progress: weights.OnProgress | None = None,
    *,
    adapter: Adapter | None = None,
    device: Device = "cpu",
) -> tuple[AnyModel, Tokenizer]:
    """Raises ModelError for what cannot be used."""
    if device != "cpu":
        _check(device, numbers)
        numbers = "bfloat16" if numbers == "auto" else numbers
    chosen, config, tensors, tokenizer = _read(path, numbers, on_progress, adapter)
    positions = min(context_tokens, config.max_positions)
    try:
        if chosen == "packed":
            return PackedTransformer(config, tensors, positions=positions), tokenizer
        model = _plain(Transformer if device == "cpu" else GraphedTransformer, config, tensors, positions)
        if device != "cpu":
            model.move(torch.device(device))
        return model, tokenizer
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"{path} does not fit its own description: {error}", "Fetch it again.") from error


def kept_at(path: Path, numbers: Numbers, adapter: Adapter | None) -> Path:
    """The folder of all that is kept of this model in this form."""
    return prepared.place(path, f"{numbers}-{adapter.sha256[:8]}" if adapter else numbers)


def numbers_of(model: AnyModel) -> Numbers:
    if model.exact:
        return "packed"
    return "float32" if model.dtype is torch.float32 else "bfloat16"


def _check(device: Device, numbers: str) -> None:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "sees no GPU" if built else "is a build without CUDA"
        raise ModelError(
            f"torch {torch.__version__} {why}", "Leave --device out, or install what is missing."
        )
    if numbers == "packed":
        raise ModelError("packed weights are multiplied by the processor", "Use --numbers bfloat16.")


def _plain(
    kind: type[Transformer], config: ModelConfig, tensors: dict[str, Tensor], positions: int
) -> Transformer:
    with torch.device("meta"):
        model = kind(config, positions=positions)
    if model.config.tied:
        tensors["head.weight"] = tensors["embedding.weight"]
    model.load_state_dict(tensors, assign=True)
    if model.config.tied:
        model.head.weight = model.embedding.weight
    return model.eval().requires_grad_(False)


def _read(
    path: Path,
    numbers: Numbers | Literal["auto"],
    on_progress: weights.OnProgress | None,
    adapter: Adapter | None,
) -> tuple[Numbers, ModelConfig, dict[str, Tensor], Tokenizer]:
    """From the prepared form where there is one; else from the file itself, and prepare it."""
    if path.is_dir() and (origin := read_origin(path)) is not None:
        if _first_choice("packed" if numbers == "auto" else numbers) != "packed":
            raise ModelError(f"{path} is quantised and has no {numbers} form", 'Use dtype = "auto".')
        return "packed", *quantised.load(path, origin, adapter)
    chosen = _first_choice(numbers)
    inside = None if chosen == "packed" else adapter
    # Folders of safetensors are in a good form already, and float32 is not for every day.
    keep = path.is_file() and chosen != "float32"
    found = prepared.load(kept_at(path, chosen, inside)) if keep else None
    if found is None:
        source = weights.open_source(path)
        if chosen == "packed" and not packed.fits(source.config):
            if numbers == "auto":
                return _read(path, "bfloat16", on_progress, adapter)
            raise ModelError(f"{path} does not divide into blocks of 8 by 32", 'Use dtype = "bfloat16".')
        change = adapters.change(inside) if inside else None
        found = (*_tensors(source, chosen, on_progress, change), source.tokenizer)
        if keep:
            prepared.save(kept_at(path, chosen, inside), *found)
    config, tensors, tokenizer = found
    if adapter is not None and inside is None:
        tensors = tensors | additions(path, adapter, tensors)
    return chosen, config, tensors, tokenizer


def additions(path: Path, adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `adapters.packed` makes of an adapter beside these packed weights, kept for the next start."""
    file = kept_at(path, "packed", adapter) / f"adapter-{adapter.scale:g}.safetensors"
    return prepared.kept(file, lambda: adapters.packed(adapter, tensors))


def _first_choice(numbers: Numbers | Literal["auto"]) -> Numbers:
    if numbers in ("auto", "packed") and native.library() is not None:
        return "packed"
    if numbers == "packed":
        raise ModelError("there are no kernels for packed weights", 'Install a C compiler, or use "auto".')
    return "bfloat16" if numbers == "auto" else numbers


def _tensors(
    source: Source,
    numbers: Numbers,
    on_progress: weights.OnProgress | None,
    change: weights.Change | None,
) -> tuple[ModelConfig, dict[str, Tensor]]:
    if numbers == "packed":
        return source.config, weights.packed_tensors(source, on_progress, change)
    tensors = weights.tensors(source, _TORCH[numbers], on_progress, change)
    return (source.config if numbers == "float32" else _tie(source.config, tensors)), tensors


def _tie(config: ModelConfig, tensors: dict[str, Tensor]) -> ModelConfig:
    """A tied output matrix that the file stores a second time, value for value, is kept once."""
    if config.tied or not torch.equal(tensors["head.weight"], tensors["embedding.weight"]):
        return config
    del tensors["head.weight"]
    return replace(config, tied=True)
