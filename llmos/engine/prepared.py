"""The loaded form of a model, kept on disk: joined tensors in their final type, memory-mapped the next time.

Opening a GGUF of 0.5B parameters takes some ten seconds of dequantising and of reading its vocabulary; the
prepared form takes a fraction of a second and its pages are the kernel's to share and to drop.
A cache, nothing more: it is made beside the model store, may be deleted at any time, and a failure to make
or read it costs time only. It does not detect flipped bits; the weights' own file is what is verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as HfTokenizer
from torch import Tensor

from llmos import paths
from llmos.engine.model import ModelConfig
from llmos.engine.tokenizer import Tokenizer

_FORMAT = 2  # to be raised whenever the layout below or the model's parameter names change
_SPARE_BYTES = 1 << 30  # left free on the disk


def place(path: Path, dtype: torch.dtype, adapter: str = "") -> Path:
    """Where the prepared form of this very file (path, size, time), with the adapter of that hash, lies or
    would lie."""
    stat = path.stat()
    identity = f"{_FORMAT} {path.resolve()} {stat.st_size} {stat.st_mtime_ns} {dtype} {adapter}"
    return folder_of(path) / hashlib.sha256(identity.encode()).hexdigest()[:16]


def folder_of(path: Path) -> Path:
    """The folder of all prepared forms of a model file; `store.remove` deletes it with the model."""
    return paths.models_dir() / "prepared" / path.stem


def load(folder: Path) -> tuple[ModelConfig, dict[str, Tensor], Tokenizer] | None:
    """The prepared model, or None when there is none that can be read."""
    try:
        values = json.loads((folder / "model.json").read_text())
        tensors = load_file(folder / "weights.safetensors")
        hf = HfTokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # tokenizers raises plain Exception; whatever it is, the model's own file is there
        return None
    config = values["config"]
    config |= {key: tuple(value) for key, value in config.items() if isinstance(value, list)}
    settings = values["tokenizer"] | {"eos_ids": frozenset(values["tokenizer"]["eos_ids"])}
    return ModelConfig(**config), tensors, Tokenizer(hf, **settings)


def save(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Keep the prepared form, whole or not at all; quietly nothing when the disk is short or read-only."""
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    with contextlib.suppress(OSError, SafetensorError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < num_bytes + _SPARE_BYTES:
            return
        for older in folder.parent.iterdir():
            shutil.rmtree(older, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-") as name:
            _write(Path(name) / "form", config, tensors, tokenizer)
            (Path(name) / "form").replace(folder)


def _write(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "weights.safetensors")
    tokenizer.hf.save(str(folder / "tokenizer.json"))
    values = {"config": asdict(config), "tokenizer": tokenizer.settings()}
    (folder / "model.json").write_text(json.dumps(values))
