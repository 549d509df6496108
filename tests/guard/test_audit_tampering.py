"""Tamperings, every one found: whoever takes the machine has all of it but the first key.

The tamperer knows every line, the running key of this moment and how the journal works, and makes state
and hashes fit as well as that allows. Small journals, changed in memory, so that it takes seconds. Here
2,000 of them; `python -m tests.bench.audit --campaign` does tens of thousands.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from llmos.config import AuditSettings
from llmos.guard import audit_files, audit_key, audit_verify
from llmos.guard.audit import Audit
from llmos.guard.audit_key import State, VerificationKey
from llmos.guard.audit_ledger import MAX_GROUP
from tests.guard.test_audit import decide

PER_KIND = 120
BOOT = audit_key.boot_id()
Dice = random.Random


@dataclass(frozen=True)
class Copy:
    """A journal's files as lists of lines, its state, and the key that its owner took away."""

    files: tuple[tuple[bytes, ...], ...]
    state: State | None
    keys: tuple[VerificationKey, ...]

    @property
    def lines(self) -> list[bytes]:
        return [line for file in self.files for line in file]

    def relined(self, lines: Sequence[bytes]) -> Copy:
        """The same number of files, these lines in them."""
        left, files = list(lines), []
        for file in self.files[:-1]:
            files.append(tuple(left[: len(file)]))
            left = left[len(file) :]
        return replace(self, files=(*files, tuple(left)))

    def verify(self, keys: tuple[VerificationKey, ...] | None = None) -> audit_verify.Verified:
        pieces = [
            audit_verify.Piece(f"file{number}", io.BytesIO(data), len(data))
            for number, data in enumerate(b"".join(line + b"\n" for line in file) for file in self.files)
        ]
        return audit_verify.check(pieces, self.state, self.keys if keys is None else keys, BOOT)


@cache
def journal(name: str) -> Copy:
    with TemporaryDirectory() as folder:
        path = Path(folder, "audit.jsonl")
        if name == "adopted":
            _old_lines(path, 8)
        many = {"plain": 18, "other": 18, "rotated": 34, "adopted": 10, "long": 48}[name]
        limit = 4096 if name == "rotated" else 1 << 20
        writer = Audit(path, AuditSettings(max_file_bytes=limit, keep_files=2))
        for number in range(many):
            decide(writer, f"{name}{number}", f"ls {number}")
        assert not writer.verify().problem
        return _copy(path)


def _old_lines(path: Path, count: int) -> None:
    prev = audit_key.FIRST
    with path.open("wb") as file:
        for seq in range(count):
            line = json.dumps({"seq": seq, "prev": prev, "time": 1.0, "kind": "decided"}).encode()
            prev = audit_key.digest(line)
            file.write(line + b"\n")


def _copy(path: Path) -> Copy:
    files = [tuple(file.read_bytes().splitlines()) for file in audit_files.all_files(path)]
    state = audit_key.parse_state(audit_files.state_file(path).read_bytes())
    return Copy(tuple(files), state, audit_key.read_keys(audit_files.key_file(path)))


# --- what a tamperer does ------------------------------------------------------------------------------


def _fitted(copy: Copy, start: int, *, seal: str) -> Copy:
    """Numbers and hashes from line `start` on made to fit, MACs too as far as the running key goes."""
    assert copy.state is not None
    lines, key = copy.lines, copy.state.key
    first = json.loads(lines[0])["seq"]
    for index in range(max(start, 1), len(lines)):
        entry = json.loads(lines[index])
        entry |= {"seq": first + index, "prev": audit_key.digest(lines[index - 1])}
        old = entry.pop("mac", None)
        text = json.dumps(entry, separators=(",", ":")).encode()[:-1]
        made = audit_key.mac(key, text) if seal == "running key" else old
        lines[index] = text + (f',"mac":"{made}"'.encode() if seal != "none" and old else b"") + b"}"
    state = replace(copy.state, seq=first + len(lines), prev=audit_key.digest(lines[-1]))
    return replace(copy.relined(lines), state=state)


def edit(copy: Copy, dice: Dice) -> Copy:
    lines = copy.lines
    at = dice.randrange(len(lines))
    where = dice.randrange(len(lines[at]))
    new = bytes([dice.choice(b'0123456789abcdefxyz" ,:}')])
    lines[at] = lines[at][:where] + new + lines[at][where + 1 :]
    return copy.relined(lines)


def edit_and_fit(copy: Copy, dice: Dice) -> Copy:
    lines = copy.lines
    sealed = [index for index, line in enumerate(lines) if b'"mac"' in line and b"ls " in line]
    at = dice.choice(sealed)
    lines[at] = lines[at].replace(b"ls ", b"rm ")
    return _fitted(copy.relined(lines), at, seal=dice.choice(("running key", "old")))


def drop(copy: Copy, dice: Dice) -> Copy:
    lines = copy.lines
    at = dice.randrange(len(lines))
    del lines[at : at + dice.randint(1, 5)]
    changed = copy.relined(lines)
    return (
        _fitted(changed, at, seal=dice.choice(("running key", "old")))
        if lines and dice.random() < 0.5
        else changed
    )


def reorder(copy: Copy, dice: Dice) -> Copy:
    lines = copy.lines
    one, two = dice.sample(range(len(lines)), 2)
    lines[one], lines[two] = lines[two], lines[one]
    changed = copy.relined(lines)
    return _fitted(changed, min(one, two), seal="old") if dice.random() < 0.5 else changed


def truncate(copy: Copy, dice: Dice) -> Copy:
    """Cut the end off, and perhaps make up a state that counts as many."""
    lines = copy.lines[: -dice.randint(1, len(copy.lines))]
    changed = copy.relined(lines)
    if dice.random() < 0.5 or not lines or copy.state is None:
        return changed
    key = dice.choice((copy.state.key, audit_key.next_key(copy.state.key), dice.randbytes(32)))
    seq = json.loads(lines[-1])["seq"] + 1
    return replace(changed, state=replace(copy.state, seq=seq, key=key, prev=audit_key.digest(lines[-1])))


def cut_in_a_line(copy: Copy, dice: Dice) -> Copy:
    lines = copy.lines
    at = dice.randrange(len(lines))
    lines[at] = lines[at][: dice.randrange(1, len(lines[at]))]
    return copy.relined(lines[: at + 1])


def replay(copy: Copy, dice: Dice) -> Copy:
    """A line written once stands there twice."""
    lines = copy.lines
    at, to = dice.randrange(len(lines)), dice.randint(0, len(lines))
    lines.insert(to, lines[at])
    changed = copy.relined(lines)
    return _fitted(changed, to, seal=dice.choice(("running key", "old"))) if dice.random() < 0.5 else changed


def splice(copy: Copy, dice: Dice) -> Copy:
    """Lines of another journal of the same machine, at their own numbers."""
    lines, other = copy.lines, journal("other").lines
    start = dice.randrange(min(len(lines), len(other)))
    end = min(start + dice.randint(1, 6), len(lines), len(other))
    lines[start:end] = other[start:end]
    changed = copy.relined(lines)
    return _fitted(changed, start, seal="old") if dice.random() < 0.5 else changed


def replace_whole(copy: Copy, dice: Dice) -> Copy:
    """Another journal, state and all, in the place of this one."""
    other = journal("other")
    return replace(other, keys=copy.keys, state=dice.choice((other.state, copy.state)))


def rewrite_end(copy: Copy, dice: Dice) -> Copy:
    """Everything from some line on written anew with fitting hashes."""
    lines = copy.lines
    at = dice.randrange(1, len(lines) - 1)
    for index in range(at, len(lines)):
        lines[index] = lines[index].replace(b'"uid":1000', b'"uid":0').replace(b'"ls ', b'"rm ')
    return _fitted(copy.relined(lines), at, seal=dice.choice(("running key", "old", "none")))


def strip_macs(copy: Copy, dice: Dice) -> Copy:
    """As if it had been written by a version that knew no MACs."""
    kept = [line for line in copy.lines if b'"checkpoint"' not in line or dice.random() < 0.5]
    changed = _fitted(copy.relined(kept), 0, seal="none")
    return replace(changed, state=dice.choice((changed.state, None)))


def new_key(copy: Copy, dice: Dice) -> Copy:
    """A key of the tamperer's own from some line on, announced by a checkpoint like a lost one's."""
    assert copy.state is not None
    lines = copy.lines[: dice.randint(0, len(copy.lines) - 1)]
    start = json.loads(lines[-1])["seq"] + 1 if lines else 0
    own = VerificationKey(start, dice.randbytes(32))
    key, prev = own.key, audit_key.digest(lines[-1]) if lines else audit_key.FIRST
    for seq in range(start, start + dice.randint(1, 4)):
        entry = {
            "seq": seq,
            "prev": prev,
            "kind": "checkpoint",
            "why": "begun",
            "key": own.id,
            "since": start,
        }
        text = json.dumps(entry, separators=(",", ":")).encode()[:-1]
        lines.append(text + f',"mac":"{audit_key.mac(key, text)}"}}'.encode())
        key, prev = audit_key.next_key(key), audit_key.digest(lines[-1])
    state = State(own.id, start, json.loads(lines[-1])["seq"] + 1, key, prev, BOOT)
    return replace(copy.relined(lines), state=state)


def damage_state(copy: Copy, dice: Dice) -> Copy:
    """Gone, of another journal, of another key, or with another count."""
    state = copy.state
    assert state is not None
    return replace(copy, state=dice.choice((
        None,
        journal("other").state if copy.keys != journal("other").keys else None,
        replace(state, key=dice.randbytes(32)),
        replace(state, seq=state.seq + dice.randint(1, 1 << 40)),
        replace(state, prev=dice.randbytes(32).hex()),
        replace(state, id=dice.randbytes(8).hex()),
    )))  # fmt: skip


def swap_files(copy: Copy, dice: Dice) -> Copy:
    files = list(copy.files)
    one, two = dice.sample(range(len(files)), 2)
    files[one], files[two] = files[two], files[one]
    return replace(copy, files=tuple(files))


def drop_file(copy: Copy, dice: Dice) -> Copy:
    files = list(copy.files)
    del files[dice.randrange(len(files))]
    return replace(copy, files=tuple(files))


def roll_back_state(copy: Copy, dice: Dice) -> Copy:
    """An old copy of the running key, put back."""
    assert copy.state is not None
    seq = dice.randrange(1, copy.state.seq - MAX_GROUP - 1)
    first = copy.keys[-1]
    prev = audit_key.digest(copy.lines[seq - 1])
    old = State(first.id, first.start, seq, audit_key.next_key(first.key, seq), prev, BOOT)
    return replace(copy, state=old)


def set_back(copy: Copy, dice: Dice) -> Copy:
    """Journal and state both as they once were, which only the note in the key file tells."""
    rolled = roll_back_state(copy, dice)
    assert rolled.state is not None and copy.state is not None
    keys = (replace(copy.keys[-1], seen=copy.state.seq - 1, seen_hash=copy.state.prev),)
    return replace(rolled.relined(copy.lines[: rolled.state.seq]), keys=keys)


Tamper = Callable[[Copy, Dice], Copy]
ANYWHERE: tuple[Tamper, ...] = (edit, edit_and_fit, drop, reorder, truncate, cut_in_a_line, replay, splice,
                                replace_whole, rewrite_end, strip_macs, new_key, damage_state)  # fmt: skip
CASES = (
    *((tamper, ("plain", "rotated", "adopted")) for tamper in ANYWHERE),
    *((tamper, ("rotated",)) for tamper in (swap_files, drop_file)),
    *((tamper, ("long",)) for tamper in (roll_back_state, set_back)),
)


def unseen(tamper: Tamper, names: Sequence[str], count: int, seed: str) -> list[Copy]:
    """Tamper so many times; what was not found."""
    dice = random.Random(seed)
    missed: list[Copy] = []
    done = 0
    while done < count:
        whole = journal(dice.choice(names))
        changed = tamper(whole, dice)
        if (changed.files, changed.state) == (whole.files, whole.state):
            continue
        done += 1
        missed += [] if changed.verify().problem else [changed]
    return missed


@pytest.mark.parametrize(("tamper", "names"), CASES, ids=[tamper.__name__ for tamper, _ in CASES])
def test_every_tampering_is_found(tamper: Tamper, names: tuple[str, ...]) -> None:
    assert not unseen(tamper, names, PER_KIND, seed=tamper.__name__)


@pytest.mark.parametrize("name", ["plain", "rotated", "adopted", "long"])
def test_what_was_not_tampered_with_is_whole(name: str) -> None:
    whole = journal(name)
    found = whole.verify()
    assert not found.problem and not found.notes
    assert found.sealed == sum(b'"mac"' in line for line in whole.lines)
    assert "not checked" in whole.verify(keys=()).notes[0]


@pytest.mark.parametrize("tamper", [edit, drop, reorder, truncate, replay, splice, damage_state])
def test_careless_tampering_is_found_without_the_key(tamper: Tamper) -> None:
    """Hashes, numbers and the count of the running key are enough for who does not make them fit."""
    dice = random.Random(tamper.__name__)
    missed = 0
    for _ in range(300):
        whole = journal("plain")
        changed = tamper(whole, dice)
        fits = changed.state != whole.state and tamper is not damage_state
        if fits or (changed.files == whole.files and changed.state == whole.state):
            continue
        missed += not changed.verify(keys=()).problem
    assert missed == 0 if tamper is not damage_state else missed < 100  # a made-up key looks like any key


def test_what_a_crash_leaves_is_no_alarm() -> None:
    """The key a group of lines behind, or, after a power loss, further."""
    whole = journal("long")
    assert whole.state is not None
    first = whole.keys[-1]
    for seq in range(1, whole.state.seq):
        prev = audit_key.digest(whole.lines[seq - 1])
        old = State(first.id, 0, seq, audit_key.next_key(first.key, seq), prev, BOOT)
        lost_power = replace(old, boot="an earlier one")
        assert not replace(whole, state=lost_power).verify().problem
        if whole.state.seq - seq <= MAX_GROUP:
            found = replace(whole, state=old).verify()
            assert not found.problem and "behind" in found.notes[0]
            assert not replace(whole, state=old).verify(keys=()).problem


def test_who_has_the_key_of_a_moment_can_write_from_there_on_only() -> None:
    """The promise, and its limit: with the running key one forges the next line, and none before."""
    whole = journal("plain")
    assert whole.state is not None
    entry = {"seq": whole.state.seq, "prev": whole.state.prev, "time": 1.0, "kind": "decided", "id": "forged"}
    text = json.dumps(entry, separators=(",", ":")).encode()[:-1]
    line = text + f',"mac":"{audit_key.mac(whole.state.key, text)}"}}'.encode()
    forged = whole.relined([*whole.lines, line])
    assert not replace(forged, state=whole.state.after(1, audit_key.digest(line))).verify().problem
