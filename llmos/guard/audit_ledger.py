"""The journal's writing hand: lines put at the end of the files, numbered, chained, sealed and synced.

The order in `_put` is the durability of the whole:

    lines written, lines synced, key moved on in place; only then does `write` return

so a killed process leaves at most one group of lines that the key has not counted, and never a key that
has counted lines that are not there. What a crash left is mended by the next write, from the lines, and
written down (`recovered`). Processes lock each other out by the key's file, which is never replaced.

Not protected against: a power loss may put the key's file back to any older state (it is synced only with
a checkpoint); the key is then moved on again, and only until then could its reader forge those lines.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llmos.config import AuditSettings
from llmos.errors import CallFailed
from llmos.guard import audit_files, audit_key
from llmos.guard.audit_key import FIRST, State
from llmos.messages import JsonObject

log = logging.getLogger(__name__)

MAX_GROUP = 32  # lines written with one sync
CHECKPOINT_LINES = 1024
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Written:
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class _End:
    """Where the files end: the last line, and the file it stands in (`size` 0: a new one must begin)."""

    seq: int = -1
    hash: str = FIRST
    sealed: bool = False
    inode: int = -1
    size: int = 0


class Ledger:
    """Not safe for threads; several processes may share the files."""

    def __init__(self, path: Path, settings: AuditSettings) -> None:
        self.path = path
        self._settings = settings
        self._state_path, self._key_path = audit_files.state_file(path), audit_files.key_file(path)
        self._end = _End()

    def write(self, bodies: Sequence[bytes]) -> list[Written]:
        """Append JSON objects as lines; once they are on disk, their numbers. Raises OSError, CallFailed."""
        with self._locked() as state_fd:
            notes: list[JsonObject] = []
            state = self._take_up(state_fd, notes)
            dropped = self._rotate(notes)
            if why := self._checkpoint_due(state, len(bodies)):
                notes.insert(0, _checkpoint(state, why))
            own = [json.dumps(note).encode() for note in notes]
            written = self._put(state_fd, state, [*own, *bodies], sync_key=bool(why))
            for file in dropped:
                file.unlink(missing_ok=True)
        return written[len(own) :]

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._state_path, _FLAGS, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    # --- where the files end, and which key comes next ---

    def _take_up(self, state_fd: int, notes: list[JsonObject]) -> State:
        """The state for the next line; what was found amiss is added to `notes`."""
        state = audit_key.read_state(state_fd)
        if state is not None and self._nothing_changed(state):
            return state
        if torn := self._find_end():
            notes.append({"kind": "recovered", "torn_bytes": torn})
        return self._new_key(state_fd) if state is None else self._agreed(state_fd, state, notes)

    def _nothing_changed(self, state: State) -> bool:
        """Since this object's last write, by other processes or by hand."""
        with suppress(OSError):
            found = self.path.stat(follow_symlinks=False)
            end = self._end
            return (found.st_ino, found.st_size, state.seq) == (end.inode, end.size, end.seq + 1)
        return False

    def _find_end(self) -> int:
        """Set `_end` from the files; cut a torn line off and return its length."""
        last, torn, inode, size = b"", 0, -1, 0
        if os.path.lexists(self.path):
            with os.fdopen(os.open(self.path, _FLAGS), "r+b") as file:
                found = os.fstat(file.fileno())
                inode, size = found.st_ino, audit_files.whole_size(file)
                last, torn = audit_files.last_line(file), found.st_size - size
                if torn:
                    os.ftruncate(file.fileno(), size)
                os.fdatasync(file.fileno())  # a killed process may have left lines that are not on disk
        if not last and (older := audit_files.rotated(self.path)):
            last = _last_of(older[-1])
        seq, sealed = _read_end(last, self.path)
        self._end = _End(seq, audit_key.digest(last) if last else FIRST, sealed, inode, size)
        return torn

    def _agreed(self, state_fd: int, state: State, notes: list[JsonObject]) -> State:
        """Key and lines brought together; where lines are missing, their numbers stay missing."""
        behind = self._end.seq + 1 - state.seq
        if behind > 0:
            notes.append({"kind": "recovered", "uncounted_lines": behind})
            state = state.after(behind, self._end.hash)
            audit_key.write_state(state_fd, state)
        elif behind < 0:
            log.error("%d lines are missing at the end of the journal %s", -behind, self.path)
            notes.append({"kind": "recovered", "missing_lines": -behind})
        elif state.prev != self._end.hash:
            log.error("the last line of the journal %s was changed", self.path)
            notes.append({"kind": "recovered", "changed_line": self._end.seq})
        return state

    def _new_key(self, state_fd: int) -> State:
        """First use, or the state was lost: the next line begins under a new verification key."""
        if self._end.sealed:
            log.error("the running key of the journal %s is gone; a new one begins", self.path)
        start = self._end.seq + 1
        kept = audit_key.read_keys(self._key_path)
        unused = kept[-1:] if kept and kept[-1].start == start and not self._end.sealed else ()
        key = unused[0] if unused else audit_key.make_key(self._key_path, start)
        state = audit_key.first_state(key, self._end.hash)
        audit_key.write_state(state_fd, state)
        os.fsync(state_fd)
        return state

    def _checkpoint_due(self, state: State, num_lines: int) -> str:
        """Why a checkpoint stands before the next lines; empty when none does."""
        if state.seq == state.start:
            return "key lost" if self._end.sealed else "adopted" if state.seq else "begun"
        if self._end.size == 0:
            return "new file"
        due = state.seq // CHECKPOINT_LINES != (state.seq + num_lines) // CHECKPOINT_LINES
        return "periodic" if due else ""

    # --- files ---

    def _rotate(self, notes: list[JsonObject]) -> list[Path]:
        """Set a full file aside. Returns what is to be removed once `notes`, which names it, is on disk."""
        if self._end.size < self._settings.max_file_bytes:
            return []
        with self.path.open("rb") as file:
            first, _ = _read_end(file.readline().rstrip(b"\n"), self.path)
        self.path.rename(audit_files.rotated_name(self.path, first))
        audit_key.sync_folder(self.path.parent)
        self._end = replace(self._end, inode=-1, size=0)
        dropped = self._too_old()
        notes += [_dropped(file) for file in dropped]
        return dropped

    def _too_old(self) -> list[Path]:
        """The oldest files, as many as the settings do not keep; never one from between."""
        files = audit_files.rotated(self.path)
        count = max(0, len(files) - self._settings.keep_files)
        if days := self._settings.keep_days:
            limit = time.time() - days * _DAY_S
            count = max(count, sum(1 for file in files if file.stat().st_mtime < limit))
        return files[:count]

    # --- lines ---

    def _put(self, state_fd: int, state: State, bodies: Sequence[bytes], *, sync_key: bool) -> list[Written]:
        lines: list[bytes] = []
        written: list[Written] = []
        for body in bodies:
            line = _line(state, body)
            written.append(Written(state.seq, audit_key.digest(line)))
            lines.append(line + b"\n")
            state = state.after(1, written[-1].hash)
        end = self._append(b"".join(lines))
        audit_key.write_state(state_fd, state)
        if sync_key:
            os.fdatasync(state_fd)
        self._end = _End(written[-1].seq, written[-1].hash, True, end.st_ino, end.st_size)
        return written

    def _append(self, data: bytes) -> os.stat_result:
        """Write and sync, all or nothing."""
        before, self._end = self._end, _End()  # whatever fails from here on: look again at the next write
        fd = os.open(self.path, _FLAGS | os.O_APPEND, 0o600)
        try:
            _write_all(fd, data)
            if before.size == 0:
                audit_key.sync_folder(self.path.parent)
            return os.fstat(fd)
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, before.size)  # half a line is no line
            raise
        finally:
            os.close(fd)


def _line(state: State, body: bytes) -> bytes:
    head = f'{{"seq":{state.seq},"prev":"{state.prev}","time":{time.time():.3f},'.encode()
    text = head + body.strip()[1:-1]
    return text + b',"mac":"' + audit_key.mac(state.key, text).encode() + b'"}'


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fdatasync(fd)


def _checkpoint(state: State, why: str) -> JsonObject:
    return {"kind": "checkpoint", "why": why, "key": state.id, "since": state.start}


def _dropped(file: Path) -> JsonObject:
    last = _last_of(file)
    seq, _ = _read_end(last, file)
    return {"kind": "dropped", "file": file.name, "last": seq, "last_hash": audit_key.digest(last)}


def _last_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return audit_files.last_line(opened)


def _read_end(line: bytes, path: Path) -> tuple[int, bool]:
    """(number, sealed?) of the last line. Raises CallFailed when it is not one of ours."""
    if not line:
        return -1, False
    try:
        entry = json.loads(line)
        return int(entry["seq"]), "mac" in entry
    except (ValueError, KeyError, TypeError) as error:
        raise CallFailed(
            f"the last line of the journal {path} is not one of its own, so nothing is run",
            f"Look at it (llmos audit verify), then move it away: mv {path} {path}.damaged",
        ) from error
