"""Small things that outlive the daemon: one private JSON file each in a folder of the state, atomically.

A file that cannot be read is reported in the log and left where it is. Nothing here knows what is kept.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from llmos import paths
from llmos.errors import Overloaded, unwritten
from llmos.messages import Message

log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)


class Shelf(Generic[_M]):
    """At most `most` messages of one type, by id. Blocks; safe for one thread at a time."""

    def __init__(self, folder: Path, model: type[_M], most: int) -> None:
        self._folder, self._model, self._most = folder, model, most

    def all(self) -> dict[str, _M]:
        """Everything readable, oldest first."""
        found = {}
        for file in sorted(self._folder.glob("*.json"), key=_age):
            try:
                found[file.stem] = self._model.model_validate_json(file.read_bytes())
            except (OSError, ValidationError) as error:
                log.error("%s is left out: %s", file, str(error).splitlines()[0])
        return found

    def put(self, key: str, value: _M) -> None:
        """Keep it under this key. Raises Overloaded, DiskFull, CallFailed."""
        file = self._folder / f"{key}.json"
        if not file.exists() and len(list(self._folder.glob("*.json"))) >= self._most:
            raise Overloaded(f"{self._most} are kept already in {self._folder}", "Remove some of them first.")
        paths.ensure_private(self._folder)
        fresh = file.with_suffix(".new")
        try:
            with os.fdopen(
                os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w"
            ) as handle:
                handle.write(value.model_dump_json())
                handle.flush()
                os.fsync(handle.fileno())
            fresh.replace(file)
        except OSError as error:
            message = f"{file} cannot be written: {error.strerror}"
            raise unwritten(error, message, "Mend that and try again.") from error

    def remove(self, key: str) -> None:
        (self._folder / f"{key}.json").unlink(missing_ok=True)


def check_share(what: str, owners: Iterable[int], uid: int, most: int) -> None:
    """Nobody fills a shelf for the others. Raises Overloaded where this user has `most` there."""
    if sum(owner == uid for owner in owners) >= most:
        raise Overloaded(f"{most} of yours are kept already: {what}", "Remove some of them first.")


def _age(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
