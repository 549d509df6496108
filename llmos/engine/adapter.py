"""Adapters: small trained additions to a model's matrices, shipped beside the program, one folder each.

A folder holds `adapter.safetensors` (`NAME.a` [rank, in] and `NAME.b` [out, rank] for each matrix NAME of
`engine.model`) and `card.toml`: which weights it was trained on (by SHA-256), its scale, and the form of
prompt it knows. It is added to the dequantised weights when a model is loaded, once (`weights.Change`), so
that it costs nothing afterwards. An adapter on other weights than its own would make nonsense, so it is
never tried.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos import paths
from llmos.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from llmos.engine.weights import Change

WEIGHTS_FILE, CARD_FILE = "adapter.safetensors", "card.toml"


@dataclass(frozen=True, slots=True)
class Adapter:
    """`form` names a `planner.prompt.PromptForm`; the shots are how many worked examples a prompt carries."""

    name: str
    folder: Path
    base_sha256: str
    sha256: str
    scale: float
    form: str
    shots: int
    command_shots: int

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS_FILE


def read(folder: Path) -> Adapter:
    """Raises ConfigError, naming the file, for a card that lacks something."""
    file = folder / CARD_FILE
    try:
        card: dict[str, Any] = tomllib.loads(file.read_text())
        return Adapter(
            name=folder.name,
            folder=folder,
            base_sha256=str(card["base_sha256"]),
            sha256=str(card["sha256"]),
            scale=float(card["alpha"]) / int(card["rank"]),
            form=str(card["form"]),
            shots=int(card["shots"]),
            command_shots=int(card["command_shots"]),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"not an adapter's card: {error}", "Mend or remove it.", where=str(file)) from error


def find(base_sha256: str, root: Path | None = None) -> Adapter | None:
    """The shipped adapter for these very weights, or None."""
    cards = sorted((root or paths.adapters_dir()).glob(f"*/{CARD_FILE}"))
    return next((a for a in map(read, (card.parent for card in cards)) if a.base_sha256 == base_sha256), None)


def merged(weight: Tensor, low: Tensor, high: Tensor, scale: float) -> Tensor:
    """weight + scale * high @ low, summed in float32 and rounded once to the weight's own type."""
    import torch

    return torch.addmm(weight.float(), high.float(), low.float(), alpha=scale).to(weight.dtype)


def change(adapter: Adapter) -> Change:
    """What the adapter does to the matrices it names. Raises ModelError for one that cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from llmos.engine.weights import Change

    try:
        data = adapter.weights.read_bytes()
        if hashlib.sha256(data).hexdigest() != adapter.sha256:
            raise ModelError(f"{adapter.weights} is not what its card says", "Install llmos again.")
        parts = load(data)
    except (OSError, SafetensorError) as error:
        raise _unfit(adapter, error) from error

    def apply(name: str, weight: Tensor) -> Tensor:
        own = name.removesuffix(".weight")
        try:
            return merged(weight, parts[f"{own}.a"], parts[f"{own}.b"], adapter.scale)
        except (KeyError, RuntimeError) as error:
            raise _unfit(adapter, error) from error

    return Change(frozenset(f"{key[:-2]}.weight" for key in parts), apply)


def _unfit(adapter: Adapter, error: Exception) -> ModelError:
    return ModelError(
        f"the adapter {adapter.name} does not fit the model: {error}",
        "Set `adapter = false` under [model] in the configuration.",
    )
