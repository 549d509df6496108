"""The journal: what was decided, on disk before it runs, and what came of it.

One JSON object a line, appended only, mode 0600. Each line carries its number, the SHA-256 of the line
before it, and a MAC under a key that moves on, one way, with every line (`audit_key`). `audit_verify` finds
what was edited, dropped, reordered or cut off. Threads that wait together share one sync (`audit_ledger`
does the writing), and each line is mirrored to journald where there is one.

Not protected against: whoever controls this account from some moment on writes what he likes from there
on. Secrets are left out as far as `redaction` knows their shapes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from llmos.config import AuditSettings
from llmos.errors import CallFailed, DiskFull, LlmosError
from llmos.guard import audit_files, audit_verify
from llmos.guard.audit_journald import Journald
from llmos.guard.audit_ledger import MAX_GROUP, Ledger, Written
from llmos.guard.redaction import redact
from llmos.messages import Caller, JsonObject, Outcome, Plan, Verdict

OWN_KINDS = frozenset({"decided", "finished", "recovered", "checkpoint", "dropped"})
OWN_KEYS = frozenset({"seq", "prev", "time", "mac", "kind", "id"})
MAX_ENTRY_BYTES = 256 << 10  # a few large calls must not push everybody's older lines out of the files
_LOOKED_BACK = 2000  # lines; what a killed daemon left is among its last
_LARGE = ("given", "effects", "args")  # left out of a larger entry, in this order, until it fits


@dataclass(slots=True)
class _Waiting:
    """An entry whose thread waits. Until it is on disk, its error says that it is not."""

    entry: JsonObject
    written: Written | None = None
    error: LlmosError = field(default_factory=lambda: CallFailed("the journal was not written"))
    done: bool = False

    @property
    def body(self) -> bytes:
        return json.dumps(self.entry, separators=(",", ":")).encode()


class Audit:
    """One journal. Safe for threads, and for several processes that share it."""

    def __init__(
        self, path: Path, settings: AuditSettings | None = None, journald: Journald | None = None
    ) -> None:
        self.path = path
        self._ledger = Ledger(path, settings or AuditSettings())
        self._journald = journald
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()
        self._open: dict[tuple[int, str], int] = {}  # user and request -> number of its newest decision

    # --- writing ---

    def decided(
        self,
        plan: Plan,
        verdict: Verdict,
        caller: Caller,
        *,
        request_id: str,
        cwd: str,
        approved: bool,
        runs: bool,
        given: JsonObject | None = None,
    ) -> int:
        """Write a decision and return its number once it is on disk. Raises DiskFull, CallFailed.

        `given` is what else it was judged by (`replay.given`), so that it can be judged again.
        """
        entry: JsonObject = {
            "kind": "decided", "id": request_id, "uid": caller.uid, "cwd": cwd, "tool": plan.call.tool,
            "args": plan.call.args, "command": plan.command, "verdict": verdict.decision.word,
            "rule": verdict.rule, "reason": verdict.reason, "approved": approved, "runs": runs,
            "effects": plan.effects.model_dump(mode="json", exclude_defaults=True), "given": given or {},
        }  # fmt: skip
        seq = self._append(entry)
        if runs:  # else nothing will be finished
            self._open[caller.uid, request_id] = seq
        return seq

    def finished(self, request_id: str, outcome: Outcome, *, ok: bool, uid: int) -> int:
        """Write what came of the request's newest decision. Raises DiskFull, CallFailed."""
        entry: JsonObject = {
            "kind": "finished", "id": request_id, "of": self._open.pop((uid, request_id), -1), "ok": ok,
            "exit_code": outcome.exit_code, "timed_out": outcome.timed_out,
            "cancelled": outcome.cancelled, "duration_ms": round(outcome.duration_ms, 3),
        }  # fmt: skip
        return self._append(entry)

    def note(self, kind: str, request_id: str, facts: JsonObject) -> int:
        """Write down another step of a request, such as `rehearsed`, `committed` or `undone`, and return its
        number once it is on disk. `facts` is plain JSON data. Raises DiskFull, CallFailed.
        """
        assert kind not in OWN_KINDS and not facts.keys() & OWN_KEYS, (kind, facts)
        return self._append({"kind": kind, "id": request_id, **facts})

    def _append(self, entry: JsonObject) -> int:
        """Wait for a turn; whoever has it writes for all who wait."""
        waiting = _Waiting(_bounded(redact(entry)))
        self._queue.append(waiting)
        with self._lock:
            while not waiting.done:
                self._write_group()
        if waiting.written is None:
            raise waiting.error
        if self._journald is not None:
            self._journald.send(waiting.entry, waiting.written.seq, waiting.written.hash)
        return waiting.written.seq

    def _write_group(self) -> None:
        group = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_GROUP))]
        try:
            written = self._ledger.write([waiting.body for waiting in group])
            for waiting, where in zip(group, written, strict=True):
                waiting.written = where
        except LlmosError as error:
            _fail(group, error)
        except OSError as error:
            _fail(group, _explain(error, self.path))
        finally:
            for waiting in group:
                waiting.done = True

    # --- reading ---

    def lines(self) -> Iterator[JsonObject]:
        """Every whole line that is JSON, oldest first."""
        return audit_files.entries(self.path)

    def tail(self, n: int) -> list[JsonObject]:
        """The newest `n` lines, newest last."""
        return list(islice(audit_files.newest_entries(self.path), max(n, 0)))[::-1]

    def history(self, limit: int, uid: int | None = None) -> list[JsonObject]:
        """The newest decisions with what came of them, newest last; of one user unless `uid` is None."""
        found: list[JsonObject] = []
        ends: dict[int, JsonObject] = {}
        for line in audit_files.newest_entries(self.path) if limit > 0 else ():
            if line.get("kind") == "finished":
                ends[line.get("of", -1)] = line
            elif uid in (None, line.get("uid")) and line.get("kind") in ("decided", "interrupted"):
                found.append(_history_entry(line, ends.get(line["seq"])))
                if len(found) == limit:
                    break
        return found[::-1]

    def unfinished(self) -> set[tuple[int, str]]:
        """User and request of the newest decisions of which nothing says how they ended."""
        ends: set[int] = set()
        found: set[tuple[int, str]] = set()
        for line in islice(audit_files.newest_entries(self.path), _LOOKED_BACK):
            if line.get("kind") == "finished":
                ends.add(line.get("of", -1))
            elif line.get("kind") == "decided" and line.get("runs") and line["seq"] not in ends:
                found.add((line["uid"], line["id"]))
        return found

    def facts(self) -> JsonObject:
        """For `status`: where it lies, how large it is, and whether its verification key lies beside it."""
        sizes = audit_files.sizes(self.path)
        return {
            "path": str(self.path),
            "files": len(sizes),
            "bytes": sum(sizes),
            "verification_key": "on this machine"
            if audit_files.key_file(self.path).exists()
            else "elsewhere",
        }

    def verify(self) -> audit_verify.Verified:
        """Walk all files, with the verification key if it lies here."""
        return audit_verify.examine(self.path)


def _history_entry(line: JsonObject, end: JsonObject | None) -> JsonObject:
    keys = ("id", "time", "tool", "args", "command", "cwd", "verdict", "rule", "reason")
    entry = {key: line.get(key) for key in keys}
    if line["kind"] == "interrupted":  # before anything of it was decided, or between two calls
        why = "The daemon ended before this was done."
        entry |= {"time": line["began"], "tool": "", "args": {}, "verdict": "", "rule": "", "reason": why}
        return {**entry, "status": "interrupted", "exit_code": None, "duration_ms": None}
    if end is not None:
        status = "done" if end["ok"] else "failed"
        return {**entry, "status": status, "exit_code": end["exit_code"], "duration_ms": end["duration_ms"]}
    status = {"deny": "denied"}.get(line["verdict"], "needs_approval") if not line["runs"] else "interrupted"
    return {**entry, "status": status, "exit_code": None, "duration_ms": None}


def _bounded(entry: JsonObject) -> JsonObject:
    """What is left out of an entry that is too large is told by its length and its hash."""
    for key in _LARGE:
        if len(json.dumps(entry)) <= MAX_ENTRY_BYTES:
            break
        if key in entry:
            text = json.dumps(entry[key], sort_keys=True).encode()
            told = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
            entry = {**entry, key: {"left_out": told}}
    return entry


def _fail(group: list[_Waiting], error: LlmosError) -> None:
    for waiting in group:
        waiting.error = error


def _explain(error: OSError, path: Path) -> CallFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space is left for the journal {path}, so nothing is run",
            f"Make room on the file system of {path.parent}.",
        )
    return CallFailed(
        f"the journal {path} cannot be written ({error.strerror}), so nothing is run",
        f"Check the permissions of {path.parent}.",
    )
