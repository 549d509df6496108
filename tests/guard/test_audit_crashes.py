"""SIGKILLs of writing processes: no decision that was acknowledged is ever missing.

The children are forked, so that a kill costs milliseconds, and killed at moments drawn at random; several
write at once, with small files, so that rotation and the key's state are hit as well. Here 120 of them;
`python -m tests.bench.audit --campaign` does thousands.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from pathlib import Path

import pytest

from llmos.config import AuditSettings
from llmos.guard import audit_files
from llmos.guard.audit import Audit
from tests.guard.test_audit import decide

KILLS = 120
SETTINGS = AuditSettings(max_file_bytes=32_000, keep_files=10_000)
_ACK = struct.Struct("II")


def _write_until_killed(path: Path, pipe: int, child: int) -> None:
    """In the child: decide, and tell the parent of each decision once `decided` has returned."""
    journal = Audit(path, SETTINGS)
    number = 0
    while True:
        decide(journal, f"{child}-{number}")
        os.write(pipe, _ACK.pack(child, number))
        number += 1


def _start(path: Path, pipe: int, child: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _write_until_killed(path, pipe, child)
        finally:
            os._exit(1)
    return pid


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, "the child ended by itself"


def kill_writers(path: Path, kills: int, seed: int) -> tuple[set[str], set[str]]:
    """Kill so many of two writers, each replaced at once; (what was acknowledged, what the journal has)."""
    dice = random.Random(seed)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    acknowledged: set[str] = set()
    alive = [_start(path, write_end, child) for child in range(2)]
    for child in range(2, kills + 2):
        time.sleep(dice.random() * 0.008)
        _kill(alive.pop(dice.randrange(len(alive))))
        alive.append(_start(path, write_end, child))
        acknowledged |= _read(read_end)
    for pid in alive:
        _kill(pid)
    acknowledged |= _read(read_end)
    os.close(read_end)
    os.close(write_end)
    return acknowledged, {line["id"] for line in audit_files.entries(path) if line["kind"] == "decided"}


def test_no_acknowledged_decision_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    acknowledged, written = kill_writers(path, KILLS, seed=11)
    assert len(acknowledged) > KILLS and acknowledged <= written
    decide(Audit(path, SETTINGS), "after")
    found = Audit(path).verify()
    assert not found.problem and found.sealed == found.lines
    assert found.files > 2


def _read(pipe: int) -> set[str]:
    found = set()
    while True:
        try:
            data = os.read(pipe, _ACK.size * 512)
        except BlockingIOError:
            return found
        found |= {f"{child}-{number}" for child, number in _ACK.iter_unpack(data)}


@pytest.mark.parametrize("step", ["line", "torn", "state"])
def test_a_kill_between_line_and_key_is_mended(tmp_path: Path, step: str) -> None:
    """The moments that a random kill seldom hits, made by putting the files into that state."""
    path = tmp_path / "audit.jsonl"
    journal = Audit(path)
    decide(journal, "a")
    state = audit_files.state_file(path).read_bytes()
    decide(journal, "b")
    if step == "line":  # written, the key not moved on
        audit_files.state_file(path).write_bytes(state)
    elif step == "torn":
        path.write_bytes(path.read_bytes() + b'{"seq":')
    else:  # first use: made, nothing in it yet
        audit_files.state_file(path).write_bytes(b"")
        path.unlink()
    decide(Audit(path), "c")
    found = Audit(path).verify()
    assert not found.problem and found.sealed == found.lines
    kinds = [line.get("id") or line["kind"] for line in Audit(path).lines()]
    expected = {"line": ["a", "b", "recovered", "c"], "torn": ["a", "b", "recovered", "c"], "state": ["c"]}
    assert kinds[-len(expected[step]) :] == expected[step]


def test_a_kill_between_renaming_and_the_new_file_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    journal = Audit(path)
    decide(journal, "a")
    path.rename(audit_files.rotated_name(path, 0))
    decide(journal, "b")
    assert [line.get("id") for line in journal.lines()] == [None, "a", None, "b"]
    assert not journal.verify().problem


def test_lines_that_went_missing_stay_missing(tmp_path: Path) -> None:
    """Going on after a loss must not paper over it."""
    path = tmp_path / "audit.jsonl"
    journal = Audit(path)
    for number in range(6):
        decide(journal, str(number))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    decide(journal, "after")
    assert "missing" in journal.verify().problem
    assert journal.tail(2)[0] | {"missing_lines": 2} == journal.tail(2)[0]


def test_a_lost_key_begins_anew_and_is_an_alarm(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    decide(Audit(path), "a")
    audit_files.state_file(path).unlink()
    decide(Audit(path), "b")
    assert Audit(path).history(1)[0]["id"] == "b"
    assert "key lost" in Audit(path).verify().problem
