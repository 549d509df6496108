"""Adapters: small trained additions to a model's matrices, shipped beside the program, one folder each.

A folder holds `adapter.safetensors` (`NAME.a` [rank, in] and `NAME.b` [out, rank] for each matrix NAME of
`engine.model`) and `card.toml`: which weights it was trained on (by SHA-256), its scale, and the form of
prompt it knows. Beside packed weights it stays what it is, two narrow matrices that are multiplied as well
(`packed`): the weights keep their few bits, and are the same for every adapter. To other forms it is added
once, when they are loaded (`change`). An adapter on other weights than its own would make nonsense, so it
is never tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos import paths
from llmos.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from llmos.engine.weights import Change

WEIGHTS_FILE, CARD_FILE = "adapter.safetensors", "card.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How it was trained to be asked.

    `form` names a `planner.prompt.PromptForm`; the shots are how many worked examples a prompt carries.
    """

    form: str
    shots: int
    command_shots: int
    heads: bool = False  # whether it was shown the columns and keys of files that a request names


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Asked):
    name: str
    folder: Path
    base_sha256: str
    sha256: str
    scale: float

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS_FILE


def read(folder: Path) -> Adapter:
    """Raises ConfigError, naming the file, for a card that lacks something."""
    with _reading(folder / CARD_FILE) as card:
        return Adapter(
            **_asked(card),
            name=folder.name,
            folder=folder,
            base_sha256=str(card["base_sha256"]),
            sha256=str(card["sha256"]),
            scale=float(card["alpha"]) / int(card["rank"]),
        )


def asked(model: Path) -> Asked | None:
    """How a model whose own weights have learnt the calls wants to be asked, by the card in its folder.

    None for a file, and for a folder without a card. Raises ConfigError as `read` does.
    """
    if not (model / CARD_FILE).is_file():
        return None
    with _reading(model / CARD_FILE) as card:
        return Asked(**_asked(card))


def write_asked(folder: Path, asked: Asked) -> None:
    """The card that `asked` reads."""
    write_card(folder, how(asked))


def how(asked: Asked) -> dict[str, Any]:
    """What a card says of it."""
    return {field.name: getattr(asked, field.name) for field in fields(Asked)}


def write_card(folder: Path, values: Mapping[str, Any]) -> None:
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    (folder / CARD_FILE).write_text("\n".join(lines) + "\n")


def _asked(card: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: int(card[key]) for key in ("shots", "command_shots")}
    return {"form": str(card["form"]), **numbers, "heads": bool(card.get("heads", False))}


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[dict[str, Any]]:
    try:
        yield tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, KeyError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"not an adapter's card: {error}", "Mend or remove it.", where=str(file)) from error


def find(base_sha256: str, root: Path | None = None) -> Adapter | None:
    """The shipped adapter for these very weights, or None."""
    cards = sorted((root or paths.adapters_dir()).glob(f"*/{CARD_FILE}"))
    return next((a for a in map(read, (card.parent for card in cards)) if a.base_sha256 == base_sha256), None)


def chosen(wanted: bool | str, base_sha256: str | None) -> Adapter | None:
    """The one that `[model] adapter` asks for, for weights with this hash (None: of the person's own).

    Raises ConfigError where a named one is missing, and ModelError where it was made for other weights.
    """
    if isinstance(wanted, bool):
        return find(base_sha256) if wanted and base_sha256 else None
    folder = Path(wanted).expanduser()
    found = read(folder if folder.is_absolute() else paths.own_adapters_dir() / wanted)
    if found.base_sha256 != base_sha256:
        raise ModelError(
            f"the adapter {found.name} was made for other weights than those of the model",
            "Under [model] in the configuration, name the model it was trained on, or set `adapter = true`.",
        )
    return found


def merged(weight: Tensor, low: Tensor, high: Tensor, scale: float) -> Tensor:
    """weight + scale * high @ low, summed in float32 and rounded once to the weight's own type."""
    import torch

    return torch.addmm(weight.float(), high.float(), low.float(), alpha=scale).to(weight.dtype)


def packed(adapter: Adapter, held: Collection[str]) -> dict[str, Tensor]:
    """`NAME.low` and `NAME.high` in 7-bit blocks for `engine.packed`, the scale in `high`.

    The rank is filled up to whole groups. `held` names the model's tensors. Raises ModelError for an adapter
    that cannot be read, or that names a matrix the model has not.
    """
    import torch.nn.functional as F

    from llmos.engine.groups import GROUP, pack, rounded

    made: dict[str, Tensor] = {}
    parts, matrices = tensors(adapter), {name.split(".weight.")[0] for name in held}
    try:
        for name in sorted({key[:-2] for key in parts}):
            if name not in matrices:
                raise KeyError(f"there is no {name}")
            low, high = parts[f"{name}.a"].float(), parts[f"{name}.b"].float() * adapter.scale
            missing = -len(low) % GROUP
            made[f"{name}.low"] = pack(rounded(F.pad(low, (0, 0, 0, missing)), 7))
            made[f"{name}.high"] = pack(rounded(F.pad(high, (0, missing)), 7))
    except (KeyError, RuntimeError) as error:
        raise _unfit(adapter, error) from error
    return made


def change(adapter: Adapter) -> Change:
    """What the adapter does to the matrices it names. Raises ModelError for one that cannot be read."""
    from llmos.engine.weights import Change

    parts = tensors(adapter)

    def apply(name: str, weight: Tensor) -> Tensor:
        own = name.removesuffix(".weight")
        try:
            return merged(weight, parts[f"{own}.a"], parts[f"{own}.b"], adapter.scale)
        except (KeyError, RuntimeError) as error:
            raise _unfit(adapter, error) from error

    return Change(frozenset(f"{key[:-2]}.weight" for key in parts), apply)


def tensors(adapter: Adapter) -> dict[str, Tensor]:
    """`NAME.a` and `NAME.b` as they lie in the file. Raises ModelError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = adapter.weights.read_bytes()
        if hashlib.sha256(data).hexdigest() != adapter.sha256:
            raise ModelError(f"{adapter.weights} is not what its card says", "Install llmos again.")
        return load(data)
    except (OSError, SafetensorError) as error:
        raise _unfit(adapter, error) from error


def _unfit(adapter: Adapter, error: Exception) -> ModelError:
    why = error.args[0] if isinstance(error, KeyError) else error
    return ModelError(
        f"the adapter {adapter.name} does not fit the model: {why}",
        "Set `adapter = false` under [model] in the configuration.",
    )
