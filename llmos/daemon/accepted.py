"""What was accepted and has no outcome yet, on disk, so that a daemon that is killed owes nobody an answer.

    running/PID.START/UID.ID.json   written before the client hears of it, removed with the outcome
    running/PID.START/UID.ID.steps  of a request in several steps (`steplog`)

The next daemon writes down what folders of dead ones hold: `interrupted`, in the journal and in `history`.
The files are not synced: they survive the daemon and not the machine, with which every client dies as well.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from llmos import paths
from llmos.daemon import steplog
from llmos.daemon.request import Job
from llmos.errors import LlmosError, unwritten
from llmos.guard.audit import Audit
from llmos.guard.cgroups import started

log = logging.getLogger(__name__)
MAX_TEXT = 4000


@dataclass(frozen=True, slots=True)
class Left:
    """A request that a daemon was killed over."""

    uid: int
    id: str
    text: str
    cwd: str
    time: float


class Accepted:
    """This daemon's. Small files, written and removed in the event loop."""

    def __init__(self) -> None:
        self._top = paths.state_dir() / "running"
        self._own = own_folder()

    def enter(self, job: Job) -> None:
        """Raises DiskFull, CallFailed: what cannot be kept is not accepted."""
        told = {
            "uid": job.caller.uid,
            "id": job.id,
            "text": job.text[:MAX_TEXT],
            "cwd": job.cwd,
            "time": time.time(),
        }
        try:
            if not self._own.is_dir():
                paths.ensure_private(self._top)
                paths.ensure_private(self._own)
            self._file(job).write_text(json.dumps(told), encoding="ascii")
        except OSError as error:
            message = f"{self._own} cannot be written: {error.strerror}"
            raise unwritten(error, message, "Mend that and try again.") from error

    def leave(self, job: Job) -> None:
        self._file(job).unlink(missing_ok=True)

    def _file(self, job: Job) -> Path:
        return self._own / f"{job.caller.uid}.{job.id}.json"

    def write_down(self, audit: Audit) -> int:
        """Note in the journal what dead daemons left without an outcome; how many. Blocks."""
        folders = [folder for folder in self._folders() if not _lives(folder)]
        if not folders:
            return 0
        told = audit.unfinished()  # of these the journal says it already
        left = [one for folder in folders for one in _read(folder) if (one.uid, one.id) not in told]
        try:
            for one in left:
                facts = {"uid": one.uid, "command": one.text, "cwd": one.cwd, "began": one.time}
                audit.note("interrupted", one.id, facts)
        except LlmosError as error:
            log.error("requests that were cut off could not be written down: %s", error)
            return 0
        for folder in folders:
            steplog.rescue(folder)
            shutil.rmtree(folder, ignore_errors=True)
        return len(left)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._own.rmdir()

    def _folders(self) -> list[Path]:
        try:
            return [folder for folder in self._top.iterdir() if folder.is_dir()]
        except FileNotFoundError:
            return []


def own_folder() -> Path:
    """This daemon's folder; it is there while a request is."""
    return paths.state_dir() / "running" / f"{os.getpid()}.{started(os.getpid())}"


def steps_file(job: Job) -> Path:
    return own_folder() / f"{job.caller.uid}.{job.id}.steps"


def _lives(folder: Path) -> bool:
    pid, _, since = folder.name.partition(".")
    return pid.isdigit() and bool(since) and started(int(pid)) == since


def _read(folder: Path) -> list[Left]:
    found = []
    for file in folder.glob("*.json"):
        try:
            found.append(Left(**json.loads(file.read_bytes())))
        except (OSError, ValueError, TypeError):  # killed while it was written: nobody had heard of it yet
            log.warning("%s is left out", file)
    return sorted(found, key=lambda one: one.time)
