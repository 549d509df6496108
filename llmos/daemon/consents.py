"""Leave to send, given by a person once for a backend and a kind of request; remembered, and revocable.

It holds for the address it was given for: a backend whose URL or model has changed is asked about again. The
planner and the courier have no way to this file.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from llmos import paths
from llmos.config import BackendSettings
from llmos.errors import CallFailed, UsageError

ALL_KINDS = "*"


@dataclass(frozen=True, slots=True)
class Consent:
    uid: int
    backend: str
    kind: str  # or "*"
    destination: str  # URL and model
    since: float
    expires: float


def destination(backend: BackendSettings) -> str:
    return f"{backend.url} {backend.model}"


class Consents:
    """The file `consents.json` of the state folder. Safe for threads."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or paths.state_dir() / "consents.json"
        self._lock = threading.Lock()

    def given(self, uid: int, backend: BackendSettings, kind: str) -> bool:
        return any(
            one.uid == uid
            and one.backend == backend.name
            and one.kind in (kind, ALL_KINDS)
            and one.destination == destination(backend)
            for one in self._read()
        )

    def of(self, uid: int) -> list[Consent]:
        return [one for one in self._read() if one.uid == uid]

    def give(self, uid: int, backend: BackendSettings, kind: str, days: float) -> None:
        """Remember. Raises CallFailed when it cannot be written."""
        now = time.time()
        fresh = Consent(uid, backend.name, kind, destination(backend), now, now + days * 86_400)
        with self._lock:
            others = [
                one for one in self._read() if (one.uid, one.backend, one.kind) != (uid, backend.name, kind)
            ]
            self._write([*others, fresh])

    def revoke(self, uid: int, backend: str, kind: str = "") -> int:
        """Forget what was given for a backend; how many. Raises UsageError when there is none."""
        with self._lock:
            old = self._read()
            kept = [
                one for one in old if one.uid != uid or one.backend != backend or (kind and one.kind != kind)
            ]
            if len(kept) == len(old):
                raise UsageError(f"nothing was allowed for {backend}", "See: llmos backend list")
            self._write(kept)
        return len(old) - len(kept)

    def _read(self) -> list[Consent]:
        """What has not expired. A file that is broken, or that others could write, allows nothing."""
        try:
            with self.file.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
                    return []
                given = [Consent(**entry) for entry in json.loads(file.read())]
        except (OSError, ValueError, TypeError):
            return []
        now = time.time()
        return [one for one in given if one.since <= now + 60 and now < one.expires]

    def _write(self, consents: list[Consent]) -> None:
        fresh = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        try:
            paths.ensure_private(self.file.parent)
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump([asdict(one) for one in consents], file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.file)
        except OSError as error:
            raise CallFailed(
                f"the consent cannot be kept in {self.file} ({error.strerror})",
                "Check permissions and space.",
            ) from error
