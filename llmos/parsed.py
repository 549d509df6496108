"""Shipped TOML that every start reads, parsed once: its tables are kept by the hash of the text.

    with parsed.kept(file):
        tables = parsed.loads(text)

The parser is written in Python, and a hundred manifests and tables of programs were a sixth of the daemon's
start. A text that changes has another hash, so nothing kept can be out of date; a file that is damaged or
cannot be written is as good as none. What is kept has to be as safe from others as the journal beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmos import paths
from llmos.errors import LlmosError

Table = dict[str, Any]


@dataclass
class _Store:
    known: dict[str, Table]
    used: dict[str, Table] = field(default_factory=dict)


_store: ContextVar[_Store | None] = ContextVar("parsed", default=None)


def loads(text: str) -> Table:
    """The tables of a TOML text; within `kept`, parsed only if no start before had it. As `tomllib.loads`."""
    store = _store.get()
    if store is None:
        return tomllib.loads(text)
    key = hashlib.sha256(text.encode()).hexdigest()
    found = store.known.get(key)
    store.used[key] = tomllib.loads(text) if found is None else found
    return store.used[key]


@contextlib.contextmanager
def kept(file: Path) -> Iterator[None]:
    """Remember in `file` what is parsed meanwhile, and that alone."""
    store = _Store(_read(file))
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)
    if store.used.keys() != store.known.keys():
        with contextlib.suppress(OSError, LlmosError):
            _write(file, store.used)


def _read(file: Path) -> dict[str, Table]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(table, dict) for table in found.values())
    return found if whole else {}


def _write(file: Path, tables: dict[str, Table]) -> None:
    paths.ensure_private(file.parent)
    fresh = file.with_suffix(".new")
    opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "w", encoding="ascii") as handle:
        json.dump(tables, handle)
    fresh.replace(file)
