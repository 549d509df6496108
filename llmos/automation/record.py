"""The record of a run, from which it can be resumed: one line when a step begins, one when it is done.

A file of its own under the state folder, private, appended to and synced line by line, so that a run that
was killed knows what it had done. It is a convenience of the person who runs the script and no evidence: what
really happened stands in the daemon's journal.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from llmos import paths
from llmos.errors import UsageError

JsonObject = dict[str, Any]
KEPT = 50  # records; older ones are removed


def folder() -> Path:
    return paths.state_dir() / "runs"


class Record:
    """What has been done of one run; `add` writes on."""

    def __init__(self, file: Path, done: dict[str, JsonObject], begun: dict[str, str]) -> None:
        self.file = file
        self.done = done  # results by step
        self.begun = begun  # request ids of steps whose end was not seen

    @property
    def run_id(self) -> str:
        return self.file.stem.rpartition(".")[2]

    def add(self, line: JsonObject) -> None:
        text = json.dumps(line) + "\n"  # ASCII: whatever bytes a program printed
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fdatasync(handle.fileno())


def begin(script: Path, sha256: str, given: JsonObject) -> Record:
    """The record of a new run of this script."""
    paths.ensure_private(folder())
    _prune()
    file = folder() / f"{_key(script)}.{os.urandom(4).hex()}.jsonl"
    record = Record(file, {}, {})
    record.add({"script": str(script), "sha256": sha256, "inputs": given})
    return record


def resume(script: Path, sha256: str, given: JsonObject) -> Record:
    """The newest unfinished run of this script. Raises UsageError when there is none, or it has changed."""
    files = sorted(folder().glob(f"{_key(script)}.*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        raise UsageError(f"there is no run of {script} to resume", "Run it without --resume.")
    head, record, ended = _read(files[-1])
    if ended:
        raise UsageError(f"the last run of {script} came to its end", "Run it without --resume.")
    if head.get("sha256") != sha256 or head.get("inputs") != given:
        what = "was changed" if head.get("sha256") != sha256 else "had other inputs"
        raise UsageError(f"{script} {what} since the run that was cut off", "Run it without --resume.")
    return record


def _read(file: Path) -> tuple[JsonObject, Record, bool]:
    """(its first line, what was done, whether it came to its end); a torn last line is left out."""
    head: JsonObject = {}
    found = Record(file, {}, {})
    ended = False
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "script" in line:
            head = line
        elif "ended" in line:
            ended = True
        elif "result" in line:
            found.done[str(line["step"])] = line["result"]
        elif "begun" in line:
            found.begun[str(line["begun"])] = str(line["id"])
    return head, found, ended


def _key(script: Path) -> str:
    return hashlib.sha256(str(script).encode()).hexdigest()[:16]


def _prune() -> None:
    files = sorted(folder().glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    for file in files[: -KEPT + 1]:
        file.unlink(missing_ok=True)
