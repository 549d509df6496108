"""The journal: what was decided, on disk before it runs, and what came of it.

One JSON object a line, appended only, mode 0600. Each line carries its number and the SHA-256 of the
line before it, so that an edited, dropped or reordered line is found by `verify`. A line that a crash
tore is cut off at the next start, and that is itself written down.

Not protected against: someone who rewrites the file from some line to its end with matching hashes, or
cuts lines off its end. Well-known shapes of secrets are left out of it; others are not recognised.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.errors import CallFailed, DiskFull
from llmos.messages import Caller, JsonObject, Outcome, Plan, Verdict

FIRST = "0" * 64
_TAIL_BYTES = 1 << 16
MAX_TEXT = 4000  # of one string in a line
OWN_KINDS = frozenset({"decided", "finished", "recovered"})  # written by methods of their own
OWN_KEYS = frozenset({"seq", "prev", "time", "kind", "id"})
_HIDDEN = "[redacted]"
_SECRETS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
               r"|\bxox[abprs]-[\w-]{10,}|\bsk-[\w-]{16,}|\bhf_\w{20,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/-]+=*|(?<=basic )[\w+/]{8,}=*"),
    re.compile(r"(?i)(?:(?<=password)|(?<=passwd)|(?<=secret)|(?<=token)|(?<=api_key)|(?<=api-key)|(?<=apikey))"
               r"(?:[\"']?\s*[=:]\s*|\s+)[\"']?[^\s\"'&]+"),
)  # fmt: skip


def redact(value: Any) -> Any:
    """The value with what looks like a secret replaced, in strings at any depth."""
    if isinstance(value, str):
        for pattern in _SECRETS:
            value = pattern.sub(_HIDDEN, value)
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… [{len(value)} characters]"
    if isinstance(value, dict):
        return {key: redact(item) for key, item in value.items()}
    return [redact(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class Verified:
    """How many lines are whole, and what is wrong with the first that is not (empty: nothing)."""

    lines: int
    problem: str = ""


class Audit:
    """One journal file. Safe for threads, and for several processes that share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}  # request id -> number of its newest decision
        self._seq, self._hash, self._size = -1, FIRST, 0

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
    ) -> int:
        """Write a decision and return its number once it is on disk. Raises DiskFull, CallFailed."""
        entry: JsonObject = {
            "kind": "decided", "id": request_id, "uid": caller.uid, "cwd": cwd, "tool": plan.call.tool,
            "args": plan.call.args, "command": plan.command, "verdict": verdict.decision.word,
            "rule": verdict.rule, "reason": verdict.reason, "approved": approved, "runs": runs,
            "effects": plan.effects.model_dump(mode="json", exclude_defaults=True),
        }  # fmt: skip
        with self._lock:
            self._open[request_id] = seq = self._append(entry)
        return seq

    def finished(self, request_id: str, outcome: Outcome, *, ok: bool) -> int:
        """Write what came of the request's newest decision. Raises DiskFull, CallFailed."""
        with self._lock:
            entry: JsonObject = {
                "kind": "finished", "id": request_id, "of": self._open.pop(request_id, -1), "ok": ok,
                "exit_code": outcome.exit_code, "timed_out": outcome.timed_out,
                "cancelled": outcome.cancelled, "duration_ms": round(outcome.duration_ms, 3),
            }  # fmt: skip
            return self._append(entry)

    def note(self, kind: str, request_id: str, facts: JsonObject) -> int:
        """Write down another step of a request, such as `rehearsed`, `committed` or `undone`, and return its
        number once it is on disk. `facts` is plain JSON data. Raises DiskFull, CallFailed.
        """
        assert kind not in OWN_KINDS and not facts.keys() & OWN_KEYS, (kind, facts)
        with self._lock:
            return self._append({"kind": kind, "id": request_id, **facts})

    def _append(self, entry: JsonObject) -> int:
        with self._file() as fd:
            self._catch_up(fd)
            return self._write(fd, entry)

    def _write(self, fd: int, entry: JsonObject) -> int:
        seq = self._seq + 1
        head = {"seq": seq, "prev": self._hash, "time": round(time.time(), 3)}
        line = json.dumps(head | redact(entry), separators=(",", ":")).encode()
        try:
            self._put(fd, line + b"\n")
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, self._size)  # half a line is no line
            raise
        self._seq, self._hash, self._size = seq, _digest(line), self._size + len(line) + 1
        return seq

    def _put(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fdatasync(fd)

    @contextmanager
    def _file(self) -> Iterator[int]:
        """The journal, opened for appending and locked against other processes."""
        fd = -1
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        except OSError as error:
            raise _explain(error, self.path) from error
        finally:
            if fd >= 0:
                os.close(fd)

    def _catch_up(self, fd: int) -> None:
        """Take up the chain where the file ends; cut off a torn last line, and write that down."""
        size = os.fstat(fd).st_size
        if size == self._size:
            return
        whole, last = _last_line(fd, size)
        self._seq, self._hash = (_number(last, self.path), _digest(last)) if last else (-1, FIRST)
        self._size = whole
        if whole < size:
            os.ftruncate(fd, whole)
            self._write(fd, {"kind": "recovered", "torn_bytes": size - whole})

    # --- reading ---

    def lines(self) -> Iterator[JsonObject]:
        """Every whole line that is JSON, oldest first."""
        for line in self._raw():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # `verify` tells of it

    def _raw(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                yield from (line[:-1] for line in file if line.endswith(b"\n"))
        except FileNotFoundError:
            return

    def tail(self, n: int) -> list[JsonObject]:
        """The newest `n` lines, newest last."""
        return list(self.lines())[-n:] if n > 0 else []

    def history(self, limit: int, uid: int | None = None) -> list[JsonObject]:
        """The newest decisions with what came of them, newest last; of one user unless `uid` is None."""
        entries: dict[int, JsonObject] = {}
        for line in self.lines():
            if line.get("kind") == "decided" and uid in (None, line.get("uid")):
                entries[line["seq"]] = _history_entry(line)
            elif line.get("kind") == "finished" and (entry := entries.get(line.get("of", -1))):
                entry |= {"status": "done" if line["ok"] else "failed", "exit_code": line["exit_code"]}
                entry["duration_ms"] = line["duration_ms"]
        return list(entries.values())[-limit:] if limit > 0 else []

    def verify(self) -> Verified:
        """Walk the chain from its start."""
        before, count = FIRST, 0
        for number, line in enumerate(self._raw()):
            try:
                entry = json.loads(line)
                seq, prev = entry["seq"], entry["prev"]
            except (ValueError, KeyError, TypeError):
                return Verified(count, f"line {number + 1} is not a line of the journal")
            if seq != number:
                return Verified(count, f"line {number + 1} has the number {seq}: lines are missing or added")
            if prev != before:
                return Verified(count, f"line {number} was changed after line {number + 1} was written")
            before, count = _digest(line), count + 1
        return Verified(count)


def _number(line: bytes, path: Path) -> int:
    try:
        return int(json.loads(line)["seq"])
    except (ValueError, KeyError, TypeError) as error:
        raise CallFailed(
            f"the last line of the journal {path} is not one of its own, so nothing is run",
            f"Look at it (llmos audit verify), then move it away: mv {path} {path}.damaged",
        ) from error


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _last_line(fd: int, size: int) -> tuple[int, bytes]:
    """(bytes up to the end of the last whole line, that line)."""
    reach = _TAIL_BYTES
    while True:
        start = max(0, size - reach)
        data = os.pread(fd, size - start, start)
        end = data.rfind(b"\n")
        begin = data.rfind(b"\n", 0, max(end, 0))
        if end >= 0 and (begin >= 0 or start == 0):
            return start + end + 1, data[begin + 1 : end]
        if start == 0:
            return 0, b""
        reach *= 4


def _history_entry(line: JsonObject) -> JsonObject:
    status = {"deny": "denied"}.get(line["verdict"], "needs_approval") if not line["runs"] else "interrupted"
    keys = ("id", "time", "tool", "args", "command", "cwd", "verdict", "rule", "reason")
    return {**{key: line.get(key) for key in keys}, "status": status, "exit_code": None, "duration_ms": None}


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
