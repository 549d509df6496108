"""A model quantised for good: a folder that loads at once, without the file it was made from.

    weights.safetensors   matrices in blocks of few bits (`kernels/products.h`), the rest in float32
    model.json            the model's sizes, and how its tokenizer treats text
    tokenizer.json        as the `tokenizers` library keeps it
    quantised.json        what it was made from: the base, its hash, the bits, the adapter that is inside
    card.toml             how it was trained to be asked, where it was

An adapter is added before the weights are rounded and cannot be taken out again. The form is llmos' own:
other programs do not read it, and it needs the kernels, which need a C compiler once.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from llmos.engine import adapter as adapters
from llmos.engine import packed, prepared, weights
from llmos.engine.adapter import Adapter
from llmos.engine.localfile import QUANTISED_FILE, Origin
from llmos.engine.model import ModelConfig
from llmos.engine.tokenizer import Tokenizer
from llmos.engine.weights import Bits, OnProgress
from llmos.errors import DiskFull, ModelError, UsageError


def write(
    path: Path,
    out: Path,
    origin: Origin,
    *,
    bits: Bits,
    adapter: Adapter | None = None,
    on_progress: OnProgress | None = None,
) -> int:
    """Quantise the model at `path` into the new folder `out`, whole or not at all; its bytes of weights."""
    if out.exists():
        raise UsageError(f"{out} is there already", "Remove it, or name another folder with --out.")
    source = weights.open_source(path)
    if not packed.fits(source.config):
        raise ModelError(f"{path} does not divide into blocks of 8 by 32", "It can be used as it is.")
    change = adapters.change(adapter) if adapter else None
    tensors = weights.packed_tensors(source, on_progress, change, bits)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".new-") as name:
            made = Path(name) / "form"
            prepared.write(made, source.config, tensors, source.tokenizer)
            (made / QUANTISED_FILE).write_text(json.dumps(asdict(origin), indent=1) + "\n", encoding="utf-8")
            if asked := adapter or adapters.asked(path):
                adapters.write_asked(made, asked)
            made.replace(out)
    except (OSError, SafetensorError) as error:
        raise DiskFull(
            f"{out} cannot be written: {error}", "Free some space, or name another --out."
        ) from error
    return sum(tensor.nbytes for tensor in tensors.values())


def load(
    folder: Path, origin: Origin, adapter: Adapter | None
) -> tuple[ModelConfig, dict[str, Tensor], Tokenizer]:
    """Raises ModelError for a damaged folder, and where the adapter inside is not the one that is wanted."""
    if (adapter.sha256 if adapter else None) != origin.adapter_sha256:
        inside = "an adapter inside that is not" if origin.adapter_sha256 else "no adapter inside, but one is"
        raise ModelError(f"{folder} has {inside} wanted now", "Make it again: llmos model quantize --help")
    if (found := prepared.load(folder)) is None:
        raise ModelError(f"{folder} is damaged or not complete", "Make it again: llmos model quantize --help")
    return found
