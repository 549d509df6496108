"""The catalogue of models: what a name stands for, read from models.toml.

A model is known by its file's SHA-256 and has an ordered list of sources. This module only reads the
list; fetching is `download`'s and keeping is `store`'s business. No torch, no pydantic: the command
line reads it at start.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llmos import paths
from llmos.errors import ConfigError, ModelError

T = TypeVar("T")
SHIPPED = Path(__file__).with_name("models.toml")


@dataclass(frozen=True)
class HubSource:
    """One file of a model hub repository. The file arrives whole."""

    repo: str
    file: str
    revision: str = "main"
    disk_factor: int = 1

    def __str__(self) -> str:
        return f"hub {self.repo}"


@dataclass(frozen=True)
class WheelSource:
    """A file carried in the members of one or more wheels; `{n}` counts the parts from 1."""

    requirement: str
    member: str
    parts: int
    disk_factor: int = 2  # the wheels and, until its hash is known to be right, the file beside them

    def __str__(self) -> str:
        return f"wheels {self.requirement.format(n='N')}"


Source = HubSource | WheelSource


@dataclass(frozen=True)
class ModelCard:
    name: str
    title: str
    file: str
    num_bytes: int
    sha256: str
    license: str
    sources: tuple[Source, ...]
    summary: str = ""


def catalogue() -> tuple[ModelCard, ...]:
    """The shipped models, then the user's; raises ConfigError where a models.toml has a typo."""
    own = paths.config_dir() / "models.toml"
    cards = list(_read(SHIPPED))
    for card in _read(own) if own.exists() else ():
        if any(card.name == other.name or card.file == other.file for other in cards):
            raise ConfigError(
                "that model exists already", "Choose another name.", where=f"{own}: {card.name}"
            )
        cards.append(card)
    return tuple(cards)


def card(name: str) -> ModelCard:
    """Raises ModelError naming the models there are."""
    cards = catalogue()
    for found in cards:
        if found.name == name:
            return found
    names = ", ".join(known.name for known in cards)
    raise ModelError(f"there is no model named {name!r}", f"Use one of: {names}; or a path to a GGUF file.")


def _read(file: Path) -> tuple[ModelCard, ...]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(str(error), f"Mend {file}.", where=str(file)) from error
    return tuple(_card(name, table, f"{file}: {name}") for name, table in tables.items())


def _card(name: str, table: Any, where: str) -> ModelCard:
    if not isinstance(table, dict):
        raise ConfigError("a model is a table", f"Write [{name}] above its keys.", where=where)
    values = dict(table)
    sources = values.pop("source", [])
    made = _build(ModelCard, values | {"name": name, "sources": ()}, where)
    listed = tuple(_source(entry, f"{where}.source[{i}]") for i, entry in enumerate(sources))
    _check(made, where)
    return _build(ModelCard, vars(made) | {"sources": listed}, where)


def _source(table: Mapping[str, Any], where: str) -> Source:
    values = dict(table)
    kinds: dict[str, type[Source]] = {"hub": HubSource, "wheels": WheelSource}
    kind = kinds.get(values.pop("kind", ""))
    if kind is None:
        raise ConfigError("unknown kind", 'Write kind = "hub" or kind = "wheels".', where=f"{where}.kind")
    return _build(kind, values, where)


def _build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    try:
        return kind(**values)
    except TypeError as error:  # an unknown or a missing key; Python's sentence names it
        known = ", ".join(kind.__annotations__)
        sentence = str(error).rpartition("__init__() ")[2]
        raise ConfigError(sentence, f"The keys are: {known}.", where=where) from error


def _check(card: ModelCard, where: str) -> None:
    """`file` becomes a path, so it must be a bare name; a short hash would prove nothing."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", str(card.file)):
        raise ConfigError("not a plain file name", "Write letters, digits, . _ + -.", where=f"{where}.file")
    if not re.fullmatch(r"[0-9a-f]{64}", str(card.sha256)):
        raise ConfigError("not a SHA-256", "Write its 64 hexadecimal digits.", where=f"{where}.sha256")
    if not isinstance(card.num_bytes, int) or card.num_bytes <= 0:
        raise ConfigError("not a size", "Write the file's size in bytes.", where=f"{where}.num_bytes")
