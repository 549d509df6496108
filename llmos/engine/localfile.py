"""Models that are the person's own files: told from catalogue names, and checked before they are used.

A quick look only (magic number, expected names), so that a wrong path is one clear sentence. Whether
the weights inside are whole and supported is found out by loading them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llmos.errors import ModelError

QUANTISED_FILE = "quantised.json"  # in a folder that `llmos model quantize` has made


def is_path(name: str) -> bool:
    return "/" in name or name.endswith(".gguf") or name in (".", "..", "~")


def checked(path: Path) -> Path:
    """A GGUF file by its magic number, or a folder as `save_pretrained` leaves it."""
    try:
        if path.is_dir():
            return _folder(path)
        with path.open("rb") as handle:
            magic = handle.read(4)
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror}", "Check the path, or see: llmos model list"
        ) from error
    if magic != b"GGUF":
        raise ModelError(
            f"{path} is not a GGUF file", "Give a .gguf file or a folder with safetensors weights."
        )
    return path


def _folder(path: Path) -> Path:
    config = "model.json" if (path / QUANTISED_FILE).is_file() else "config.json"
    missing = [name for name in (config, "tokenizer.json") if not (path / name).is_file()]
    missing += [] if any(path.glob("*.safetensors")) else ["*.safetensors"]
    if missing:
        raise ModelError(
            f"{path} is not a safetensors model: {', '.join(missing)} missing",
            "Give the folder of a model as its hub repository has it.",
        )
    return path


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a quantised model came from; no hash for a file of the person's own, and for no adapter."""

    base: str
    base_sha256: str | None
    bits: int
    adapter_sha256: str | None


def read_origin(folder: Path) -> Origin | None:
    """None for anything but a quantised model's folder. Raises ModelError for one that is damaged."""
    file = folder / QUANTISED_FILE
    if not file.is_file():
        return None
    try:
        return Origin(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{file} cannot be read: {error}", "Make it again: llmos model quantize") from error
