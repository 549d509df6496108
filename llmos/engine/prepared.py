"""The loaded form of a model, kept on disk: joined tensors in their final type, memory-mapped the next time.

Opening a GGUF of 0.5B parameters takes some ten seconds of dequantising and of reading its vocabulary; the
prepared form takes a fraction of a second and its pages are the kernel's to share and to drop.
A cache, nothing more: it is made beside the model store, may be deleted at any time, and a failure to make
or read it costs time only. It does not detect flipped bits; the weights' own file is what is verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as HfTokenizer
from torch import Tensor

from llmos import paths
from llmos.engine.model import ModelConfig
from llmos.engine.tokenizer import Tokenizer

_FORMAT = 6  # to be raised whenever the layout below or the model's parameter names change
_PIECES = "pieces.safetensors"  # the bytes of each token
_SPARE_BYTES = 1 << 30  # left free on the disk
_MAX_FORMS = 4  # of one model: number formats and adapters
_STALE_S = 3600.0  # what is still being written by then was given up


def place(path: Path, form: str) -> Path:
    """Where a form (`packed`, say) of this very file (path, size, time) lies or would lie."""
    stat = path.stat()
    identity = f"{_FORMAT} {stat.st_size} {stat.st_mtime_ns}"
    return folder_of(path) / f"{form}-{_short(str(path.resolve()))}-{_short(identity)}"


def folder_of(path: Path) -> Path:
    """The folder of all prepared forms of a model file; `store.remove` deletes it with the model."""
    return paths.prepared_dir() / path.stem


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def load(folder: Path) -> tuple[ModelConfig, dict[str, Tensor], Tokenizer] | None:
    """The prepared model, or None when there is none that can be read."""
    try:
        values = json.loads((folder / "model.json").read_text())
        tensors = load_file(folder / "weights.safetensors")
        hf = HfTokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # tokenizers raises plain Exception; whatever it is, the model's own file is there
        return None
    with contextlib.suppress(OSError):  # another person's, or read-only
        os.utime(folder)  # when it was last used
    config = values["config"]
    config |= {key: tuple(value) for key, value in config.items() if isinstance(value, list)}
    settings = values["tokenizer"] | {"eos_ids": frozenset(values["tokenizer"]["eos_ids"])}
    tokenizer = Tokenizer(hf, **settings, kept_pieces=partial(_pieces, folder / _PIECES))
    return ModelConfig(**config), tensors, tokenizer


def _pieces(file: Path) -> list[bytes] | None:
    """Reading them takes a tenth of finding them out."""
    try:
        kept = load_file(file)
    except (OSError, SafetensorError):  # a folder that was made before they were kept
        return None
    whole, ends = kept["bytes"].numpy().tobytes(), kept["ends"].tolist()
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def save(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Keep the prepared form, whole or not at all; quietly nothing when the disk is short or read-only."""
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    with contextlib.suppress(OSError, SafetensorError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < num_bytes + _SPARE_BYTES:
            return
        _clear(folder)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-") as name:
            write(Path(name) / "form", config, tensors, tokenizer)
            shutil.rmtree(folder, ignore_errors=True)  # what was damaged, or holds a prefix alone
            (Path(name) / "form").replace(folder)


def kept(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` makes, from `file` where it lies there; else it is made and put there, where it can be."""
    try:
        return load_file(file)
    except (OSError, SafetensorError):
        made = make()
    put(file, made)
    return made


def put(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Keep a file beside a prepared form, whole or not at all; quietly nothing where it cannot be."""
    with contextlib.suppress(OSError, SafetensorError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent.parent, prefix="new-") as name:
            save_file(tensors, Path(name) / file.name, metadata)
            (Path(name) / file.name).replace(file)


def _clear(folder: Path) -> None:
    """Drop forms of an earlier state of the same file, those longest unused, and what was never finished."""
    others = sorted(folder.parent.iterdir(), key=lambda other: -other.stat().st_mtime)
    finished = [other for other in others if not other.name.startswith("new-")]
    given_up = [other for other in others if other.stat().st_mtime < time.time() - _STALE_S]
    origin, state = folder.name.rsplit("-", 2)[1:]
    for other in others:
        earlier = f"-{origin}-" in other.name and not other.name.endswith(state)
        spare = other in finished[_MAX_FORMS - 1 :]
        if earlier or spare or (other in given_up and other not in finished):
            shutil.rmtree(other, ignore_errors=True)


def write(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Make the folder. Raises OSError or SafetensorError and may leave half of it."""
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "weights.safetensors")
    tokenizer.hf.save(str(folder / "tokenizer.json"))
    if (pieces := tokenizer.pieces()) is not None:
        whole = torch.frombuffer(bytearray(b"".join(pieces)), dtype=torch.uint8)
        ends = torch.tensor(list(itertools.accumulate(map(len, pieces))), dtype=torch.int32)
        save_file({"bytes": whole, "ends": ends}, folder / _PIECES)
    values = {"config": asdict(config), "tokenizer": tokenizer.settings()}
    (folder / "model.json").write_text(json.dumps(values))
