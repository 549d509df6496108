"""Whether the journal is what was written: numbers, chain, MACs, dropped files, and where it ends.

    without the verification key   the chain, the files in their order, the number of lines the key counted
    with it                        also that each line, and the key itself, descend from that key

With the key held elsewhere, nothing that was on disk before the machine was taken can be changed,
dropped or cut off unseen. One thing it cannot tell: a whole folder, key state included, put back to an
older copy of itself. Against that the key file can note how far a journal reached (`marked`), and
journald has the hashes. The first thing wrong is told; `notes` say what was not looked at.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from llmos.errors import CallFailed, UsageError
from llmos.guard import audit_files, audit_key
from llmos.guard.audit_key import FIRST, State, VerificationKey
from llmos.guard.audit_ledger import MAX_GROUP
from llmos.messages import JsonObject

_MAC = b',"mac":"'
_MAC_BYTES = len(_MAC) + 64 + len(b'"}')
_MAX_STEPS = 10**8  # keys derived before a number is called impossible; some minutes of work


@dataclass(frozen=True, slots=True)
class Verified:
    """What was walked, and what is wrong with the first line that is (empty: nothing)."""

    lines: int
    problem: str = ""
    files: int = 0
    sealed: int = 0  # lines whose MAC was right under the verification key
    notes: tuple[str, ...] = ()
    key_here: bool = False  # the verification key still lies beside the journal
    next_seq: int = 0
    last_hash: str = FIRST


@dataclass(frozen=True, slots=True)
class Piece:
    """One file, as long as it was when the walk began."""

    name: str
    file: BinaryIO
    num_bytes: int

    def lines(self) -> Iterator[bytes]:
        left = self.num_bytes
        for line in self.file:
            left -= len(line)
            if left < 0 or not line.endswith(b"\n"):
                return
            yield line[:-1]


class _Broken(Exception):
    """The walk ends here; its text is the problem."""


@dataclass(slots=True)
class _Walk:
    """Where the walk is: what the next line must be."""

    keys: dict[str, VerificationKey]
    state: State | None
    seq: int = -1  # of the next line; unknown before the first
    prev: str = FIRST
    first: int = 0
    first_prev: str = FIRST
    count: int = 0
    sealed: int = 0
    epoch: str = ""  # the id of the key in force
    key: bytes | None = None  # of the next line, when it can be known
    dropped: dict[int, str] = field(default_factory=dict)  # last line of a dropped file: its hash

    # --- one line ---

    def line(self, raw: bytes, where: str) -> None:
        try:
            self._line(raw, where)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _Broken(f"{where} is not a line of the journal") from error

    def _line(self, raw: bytes, where: str) -> None:
        entry, body, seal = _parsed(raw)
        self._chain(entry, where)
        if entry.get("kind") == "checkpoint":
            self._checkpoint(entry, where)
        self._seal(body, seal, where)
        if entry.get("kind") == "dropped":
            self.dropped[int(entry["last"])] = str(entry["last_hash"])
        self.prev = audit_key.digest(raw)
        self._compare_with_state()
        self._compare_with_marks()
        self.seq += 1
        self.count += 1

    def _chain(self, entry: JsonObject, where: str) -> None:
        seq, prev = entry["seq"], entry["prev"]
        if self.seq < 0:
            self.seq = self.first = seq
            self.prev = self.first_prev = prev
        if seq != self.seq:
            raise _Broken(f"{where} has the number {seq}, not {self.seq}: lines are missing, added or moved")
        if prev != self.prev:
            raise _Broken(f"line {seq - 1}, before {where}, was changed after it was written")

    def _checkpoint(self, entry: JsonObject, where: str) -> None:
        name = str(entry.get("key"))
        if name == self.epoch:
            return
        if self.epoch:
            raise _Broken(
                f"{where} begins under a new key ({entry.get('why')}): lines before it may be missing"
            )
        self.epoch = name
        if (found := self.keys.get(name)) is not None:
            if not 0 <= self.seq - found.start <= _MAX_STEPS or found.start != entry.get("since"):
                raise _Broken(f"{where} is sealed with a key that begins with line {found.start}")
            self.key = audit_key.next_key(found.key, self.seq - found.start)
        elif self.keys:
            held = ", ".join(self.keys)
            raise _Broken(f"{where} is sealed with the key {name}, not with the one that was given ({held})")

    def _seal(self, body: bytes, seal: str, where: str) -> None:
        if not seal:
            if self.epoch:
                raise _Broken(f"{where} carries no MAC")
            return
        if not self.epoch:
            raise _Broken(f"{where} carries a MAC, and no checkpoint says of which key")
        if self.key is None and self.state is not None and self.state.seq == self.seq:
            self.key = self.state.key  # lines that a crash left uncounted
        if self.key is None:
            return
        if audit_key.mac(self.key, body) != seal:
            raise _Broken(f"{where} was not written by this journal: its MAC is wrong")
        self.key = audit_key.next_key(self.key)
        self.sealed += 1

    def _compare_with_state(self) -> None:
        if self.state is not None and self.seq == self.state.seq - 1 and self.prev != self.state.prev:
            raise _Broken(f"line {self.seq} is not the one that the key was moved on for: it was changed")

    def _compare_with_marks(self) -> None:
        for key in self.keys.values():
            if key.seen == self.seq and key.seen_hash != self.prev:
                raise _Broken(f"line {self.seq} is not the one that was there when it was last verified")

    # --- the end ---

    def end(self, boot: str) -> Iterator[str]:
        """Check where the journal begins and ends; yields notes."""
        self._begins()
        next_seq = max(self.seq, 0)
        self._reaches(next_seq)
        if self.state is None:
            if self.epoch or self.keys:
                raise _Broken("audit.state, which counts the lines, is gone or damaged")
            yield from ["no line carries a MAC yet; the next one will"] if self.count else []
            return
        if self.state.seq > next_seq:
            raise _Broken(
                f"{self.state.seq - next_seq} lines are missing at the end, from line {next_seq} on"
            )
        self._descends(self.state)
        yield from self._behind(self.state, next_seq - self.state.seq, boot)

    def _begins(self) -> None:
        if self.count == 0 or self.first == 0:
            if self.first_prev != FIRST:
                raise _Broken("line 0 is not the first that was written")
            return
        if self.dropped.get(self.first - 1) != self.first_prev:
            raise _Broken(f"lines 0 to {self.first - 1} are missing, and no rotation dropped them")

    def _reaches(self, next_seq: int) -> None:
        for key in self.keys.values():
            if key.seen >= next_seq:
                raise _Broken(
                    f"it ends before line {next_seq}; when last verified, it reached line {key.seen}"
                )
            if next_seq > key.start and not self.epoch:
                raise _Broken(f"no line is sealed, although the key {key.id} was made for line {key.start}")

    def _descends(self, state: State) -> None:
        if self.epoch and state.id != self.epoch:
            raise _Broken("audit.state belongs to another journal")
        if (found := self.keys.get(state.id)) is not None:
            steps = state.seq - found.start
            if not 0 <= steps <= _MAX_STEPS or audit_key.next_key(found.key, steps) != state.key:
                raise _Broken("the key in audit.state does not descend from the verification key")
        elif self.keys:
            raise _Broken(f"audit.state belongs to the key {state.id}, which was not given")

    def _behind(self, state: State, behind: int, boot: str) -> Iterator[str]:
        if behind > MAX_GROUP and state.boot == boot:
            raise _Broken(f"audit.state is {behind} lines behind: an old copy of it was put back")
        if behind:
            yield f"audit.state is {behind} lines behind, as after a crash; the next line mends it"


def check(
    pieces: Sequence[Piece], state: State | None, keys: Sequence[VerificationKey], boot: str
) -> Verified:
    """Walk the files in the order given. Pure: reads nothing but them."""
    walk = _Walk({key.id: key for key in keys}, state)
    notes: list[str] = []
    problem = ""
    try:
        for piece in pieces:
            _walk_piece(walk, piece, last=piece is pieces[-1], notes=notes)
        notes += walk.end(boot)
    except _Broken as broken:
        problem = str(broken)
    unchecked = walk.count - walk.sealed
    if unchecked and walk.epoch and not walk.keys:
        notes.append(
            f"{unchecked} MACs were not checked: the verification key is elsewhere, give it with --key FILE"
        )
    return Verified(
        walk.count,
        problem,
        len(pieces),
        walk.sealed,
        tuple(notes),
        next_seq=max(walk.seq, 0),
        last_hash=walk.prev,
    )


def _walk_piece(walk: _Walk, piece: Piece, *, last: bool, notes: list[str]) -> None:
    seen = 0
    for number, raw in enumerate(piece.lines(), start=1):
        seen += len(raw) + 1
        walk.line(raw, f"{piece.name}:{number}")
    if torn := piece.num_bytes - seen:
        if not last:
            raise _Broken(f"{piece.name} ends in the middle of a line")
        notes.append(f"the last {torn} bytes are a torn line, as after a crash; the next line mends it")


def _parsed(raw: bytes) -> tuple[JsonObject, bytes, str]:
    """(the entry, what its MAC covers, the MAC or nothing). Raises ValueError, KeyError, TypeError."""
    entry = json.loads(raw)
    if type(entry["seq"]) is not int or entry["seq"] < 0 or not isinstance(entry["prev"], str):
        raise ValueError(entry["seq"])
    if "mac" not in entry:
        return entry, raw, ""
    body, mark, seal = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:][: len(_MAC)], raw[-_MAC_BYTES + len(_MAC) : -2]
    if mark != _MAC or not raw.endswith(b'"}') or entry["mac"] != seal.decode("ascii"):
        raise ValueError(mark)
    return entry, body, entry["mac"]


# --- the files as they are now ----------------------------------------------------------------------


def examine(path: Path, key_file: Path | None = None) -> Verified:
    """Verify the journal at `path`, with the keys in `key_file` or else those beside it, if any.

    Writers wait only while the files are opened. Raises UsageError (keys), CallFailed (not readable).
    """
    here = audit_key.read_keys(audit_files.key_file(path))
    keys = here if key_file is None else audit_key.read_keys(key_file)
    if key_file is not None and not keys:
        raise UsageError(
            f"there is no verification key in {key_file}", "Give the file `llmos audit key` made."
        )
    try:
        with ExitStack() as stack:
            pieces, state = _snapshot(path, stack)
            found = check(pieces, state, keys, audit_key.boot_id())
    except OSError as error:
        raise CallFailed(
            f"the journal {path} cannot be read ({error.strerror})", "Run it as its owner, or with sudo."
        ) from error
    return replace(found, key_here=bool(here))


def _snapshot(path: Path, stack: ExitStack) -> tuple[list[Piece], State | None]:
    """All files opened at one moment between two writes, and the state of that moment."""
    with _locked_state(path) as state:
        files = [(file.name, stack.enter_context(file.open("rb"))) for file in audit_files.all_files(path)]
        return [Piece(name, file, os.fstat(file.fileno()).st_size) for name, file in files], state


@contextmanager
def _locked_state(path: Path) -> Iterator[State | None]:
    """The key's state while nobody writes; None, and no lock, when there is none."""
    try:
        fd = os.open(audit_files.state_file(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield audit_key.read_state(fd)
    finally:
        os.close(fd)


def mark(key_file: Path, found: Verified) -> None:
    """Note in a key file how far the journal reached. Raises UsageError, OSError."""
    *older, newest = audit_key.read_keys(key_file)
    seen = replace(newest, seen=found.next_seq - 1, seen_hash=found.last_hash)
    audit_key.replace_keys(key_file, (*older, seen))
