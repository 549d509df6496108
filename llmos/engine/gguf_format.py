"""Reads a GGUF file's header: metadata and where each tensor lies. Tensor data is mapped, not read.

Spec: ggml's docs/gguf.md, versions 2 and 3, little-endian. `gguf.GGUFReader` does the same and builds
several numpy arrays for each string: 9 s of CPU for the 300,000 strings of a Qwen vocabulary, 0.2 s here (a
test holds the two equal). Every length is checked against the file before it is used, so that a truncated
or malicious file costs an error and neither memory nor time. It does not judge what the metadata means.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

from llmos.errors import ModelError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` in torch's order (outermost first); `data` the quantised bytes, a view of the mapped file."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    data: npt.NDArray[np.uint8]


class _Entry(NamedTuple):
    """A tensor as the header lists it; `offset` counts from the end of the header."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    fields: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read(path: Path) -> GgufFile:
    """Raises ModelError when `path` is no GGUF file, is cut short, or contradicts itself."""
    try:
        with path.open("rb") as handle:
            # A private writable mapping: torch wants writable memory, and nothing is ever written.
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        return _parse(mapped)
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(
            f"{path} is not a readable GGUF file ({error})",
            "It may be truncated: remove it and fetch it again.",
        ) from error


class _Cursor:
    """A position in the header. Slicing a mapping never fails, so lengths are checked here."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self.buffer, self.at = buffer, 0

    def take(self, num_bytes: int) -> bytes:
        start, self.at = self.at, self.at + num_bytes
        if self.at > len(self.buffer):
            raise ValueError(f"it ends at byte {len(self.buffer)}, inside the header")
        return self.buffer[start : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(self.number("I"), self.number("Q"))
        if kind not in _NUMBERS:
            raise ValueError(f"unknown metadata type {kind}")
        return self.number(_NUMBERS[kind])

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"unknown array type {kind}")
        code = _NUMBERS[kind]
        raw = self.take(count * struct.calcsize("<" + code))
        return list(struct.unpack(f"<{count}{code}", raw))


def _parse(buffer: mmap.mmap) -> GgufFile:
    cursor = _Cursor(buffer)
    if cursor.take(4) != b"GGUF":
        raise ValueError("its first bytes are not GGUF")
    if (version := cursor.number("I")) not in (2, 3):
        raise ValueError(f"version {version} is not supported")
    num_tensors, num_fields = cursor.number("Q"), cursor.number("Q")
    fields = {}
    for _ in range(num_fields):
        key = cursor.string()
        fields[key] = cursor.value(cursor.number("I"))
    entries = [_entry(cursor) for _ in range(num_tensors)]
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        raise ValueError(f"impossible alignment {alignment!r}")
    base = cursor.at + -cursor.at % alignment
    return GgufFile(fields, {entry.name: _tensor(buffer, base, entry) for entry in entries})


def _entry(cursor: _Cursor) -> _Entry:
    name = cursor.string()
    if (dimensions := cursor.number("I")) > _MAX_DIMENSIONS:
        raise ValueError(f"{name} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))
    return _Entry(name, shape[::-1], gguf.GGMLQuantizationType(cursor.number("I")), cursor.number("Q"))


def _tensor(buffer: mmap.mmap, base: int, entry: _Entry) -> GgufTensor:
    name, shape, kind, offset = entry
    values, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    if shape and shape[-1] % values:
        raise ValueError(f"{name} has rows of {shape[-1]}, which {kind.name} cannot pack")
    size = math.prod(shape) // values * num_bytes
    if base + offset + size > len(buffer):
        raise ValueError(f"it ends at byte {len(buffer)}, inside {name}")
    return GgufTensor(name, shape, kind, np.frombuffer(buffer, np.uint8, size, base + offset))
