"""The journal: a chain that shows tampering, survives crashes, and keeps secrets out."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.config import AuditSettings
from llmos.errors import CallFailed
from llmos.guard import audit_files
from llmos.guard.audit import MAX_ENTRY_BYTES, Audit
from llmos.guard.audit_journald import Journald
from llmos.messages import Caller, Decision, Effects, Outcome, Plan, ToolCall, Verdict

CALLER = Caller(uid=1000, gid=1000)
VERDICT = Verdict(decision=Decision.ALLOW, rule="look", reason="It only looks.")


def plan(command: str = "ls") -> Plan:
    call = ToolCall(tool="shell.run", args={"command": command})
    return Plan(call=call, command=command, effects=Effects(), steps=(), read_only=True)


def decide(journal: Audit, request_id: str = "r", command: str = "ls") -> int:
    return journal.decided(
        plan(command), VERDICT, CALLER, request_id=request_id, cwd="/", approved=False, runs=True
    )


@pytest.fixture
def journal(tmp_path: Path) -> Audit:
    return Audit(tmp_path / "state" / "audit.jsonl")


def test_a_call_as_large_as_a_frame_is_told_by_its_hash_and_costs_no_room(journal: Audit) -> None:
    """Else a few of one user's would push everybody's older lines out of the files."""
    many = [f"/{'x' * 200}/{number}" for number in range(20_000)]
    large = plan("rm").model_copy(update={"call": ToolCall(tool="file.delete", args={"paths": many})})
    journal.decided(large, VERDICT, CALLER, request_id="large", cwd="/", approved=False, runs=True)
    (entry,) = journal.history(10)
    assert set(entry["args"]["left_out"]) == {"bytes", "sha256"} and entry["status"] == "interrupted"
    assert journal.path.stat().st_size < MAX_ENTRY_BYTES and not journal.verify().problem


def test_two_users_requests_of_one_name_are_told_apart(journal: Audit) -> None:
    decide(journal, "same")
    other = Caller(uid=1001, gid=1001)
    journal.decided(plan("ls"), VERDICT, other, request_id="same", cwd="/", approved=False, runs=True)
    journal.finished("same", Outcome(exit_code=0), ok=True, uid=1000)
    journal.finished("same", Outcome(exit_code=1), ok=False, uid=1001)
    assert [journal.history(5, uid)[0]["status"] for uid in (1000, 1001)] == ["done", "failed"]


def test_a_decision_and_its_end_are_a_pair(journal: Audit) -> None:
    assert decide(journal, "a") == 1  # line 0 is the checkpoint that names the key
    assert decide(journal, "b") == 2
    journal.finished("a", Outcome(exit_code=3, duration_ms=5), ok=False, uid=1000)
    first, second = journal.history(10)
    assert (first["id"], first["status"], first["exit_code"]) == ("a", "failed", 3)
    assert (second["id"], second["status"]) == ("b", "interrupted")
    assert journal.history(1) == [second]
    assert journal.history(10, uid=5) == []
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert journal.verify().lines == 4 and not journal.verify().problem


def test_further_steps_of_a_request_are_noted(journal: Audit) -> None:
    decide(journal, "a")
    assert journal.note("committed", "a", {"paths": ["/x"], "undo_id": "u1"}) == 2
    line = journal.tail(1)[0]
    assert (line["kind"], line["id"], line["paths"], line["undo_id"]) == ("committed", "a", ["/x"], "u1")
    assert not journal.verify().problem


def test_a_torn_last_line_is_cut_off_and_that_is_written_down(journal: Audit) -> None:
    decide(journal)
    whole = journal.path.read_bytes()
    for torn in (b"x", b'{"seq":1,"prev"', b"{" * 100_000):
        journal.path.write_bytes(whole + torn)
        fresh = Audit(journal.path)
        number = decide(fresh, "after")
        kinds = [line["kind"] for line in fresh.lines()]
        assert kinds[-2:] == ["recovered", "decided"]
        assert fresh.tail(2)[0]["torn_bytes"] == len(torn)
        assert (fresh.verify().lines, fresh.verify().problem) == (number + 1, "")
        whole = journal.path.read_bytes()


def test_a_new_process_goes_on_with_the_chain(journal: Audit) -> None:
    decide(journal)
    assert decide(Audit(journal.path)) == 2
    assert decide(journal) == 3
    assert not journal.verify().problem


def _many(path: Path) -> None:
    journal = Audit(path)
    for number in range(20):
        decide(journal, str(number))


def test_two_processes_share_one_journal(journal: Audit) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_many, args=(journal.path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert journal.verify().sealed == 41
    assert not journal.verify().problem


FULL_DISK = """
import os, sys, pathlib
from llmos.errors import DiskFull
from tests.guard.test_audit import Audit, decide
folder = pathlib.Path(sys.argv[1])
os.system(f"mount -t tmpfs -o size=256k none {folder}")
journal = Audit(folder / "audit.jsonl")
decide(journal)
(folder / "ballast").write_bytes(b"x" * 150_000)
written = 1
try:
    while True:
        decide(journal, command="x" * 3000)
        written += 1
except DiskFull as error:
    print(error)
(folder / "ballast").unlink()
decide(journal, "after")
found = journal.verify()
print(found.problem or "whole", found.sealed == written + 2, journal.tail(1)[0]["id"])
"""


@pytest.mark.sandbox
def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path: Path) -> None:
    """On a small file system of its own, in a mount namespace of its own."""
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert "nothing is run" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "whole True after"


def test_a_bad_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CallFailed, match="nothing is run"):
        decide(Audit(tmp_path / "file" / "audit.jsonl"))


def test_a_journal_that_is_a_link_or_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CallFailed):
        decide(Audit(tmp_path / "link"))
    (tmp_path / "damaged").write_text("not ours\n")
    with pytest.raises(CallFailed, match="damaged"):
        decide(Audit(tmp_path / "damaged"))


# --- files -------------------------------------------------------------------------------------------


def small(folder: Path, **settings: float) -> Audit:
    return Audit(folder / "audit.jsonl", AuditSettings.model_validate({"max_file_bytes": 4096, **settings}))


def test_files_rotate_and_the_chain_goes_on_through_them(tmp_path: Path) -> None:
    journal = small(tmp_path, keep_files=3)
    for number in range(120):
        decide(journal, str(number))
    files = audit_files.rotated(journal.path)
    assert len(files) == 3 and all(file.stat().st_size < 8192 for file in files)
    found = journal.verify()
    assert (found.problem, found.files, found.sealed) == ("", 4, found.lines)
    assert [entry["id"] for entry in journal.history(25)] == [str(number) for number in range(95, 120)]
    dropped = [line for line in journal.lines() if line["kind"] == "dropped"]
    first = json.loads(files[0].read_bytes().splitlines()[0])
    assert first["seq"] == dropped[-1]["last"] + 1 and first["prev"] == dropped[-1]["last_hash"]


def test_old_files_go_by_age(tmp_path: Path) -> None:
    journal = small(tmp_path, keep_days=1)
    for number in range(60):
        decide(journal, str(number))
    old = audit_files.rotated(journal.path)
    for file in old[:2]:
        os.utime(file, (0, 0))
    for number in range(30):
        decide(journal, str(number))
    left = audit_files.rotated(journal.path)
    assert not set(old[:2]) & set(left) and old[2] in left
    assert not journal.verify().problem


def test_a_journal_of_an_older_version_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    prev = "0" * 64
    with path.open("w") as file:
        for seq in range(5):
            line = json.dumps({"seq": seq, "prev": prev, "time": 1.0, "kind": "decided", "id": str(seq)})
            prev = hashlib.sha256(line.encode()).hexdigest()
            file.write(line + "\n")
    assert "no line carries a MAC" in Audit(path).verify().notes[0]
    decide(Audit(path))
    found = Audit(path).verify()
    assert (found.lines, found.sealed, found.problem) == (7, 2, "")
    assert Audit(path).tail(2)[0]["why"] == "adopted"
    text = path.read_text()
    path.write_text(text.replace('"id": "2"', '"id": "x"'))
    assert "was changed" in Audit(path).verify().problem


def test_reading_stops_early_and_follows_the_files(tmp_path: Path) -> None:
    journal = small(tmp_path)
    for number in range(40):
        decide(journal, f"r{number}", f"ls {number} " + "x" * (number * 50))
    newest = [line["id"] for line in journal.tail(12) if "id" in line]
    assert newest[-5:] == [f"r{number}" for number in range(35, 40)]
    assert len(journal.tail(10_000)) == len(list(journal.lines())) == journal.verify().lines
    assert [line["command"][:4] for line in audit_files.entries_with(journal.path, "r7")] == ["ls 7"]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 64])
@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"bb", b"\n", b"c" * 70]), max_size=14))
def test_lines_read_backward_are_the_lines_read_forward(chunk_bytes: int, parts: list[bytes]) -> None:
    data = b"".join(parts)
    there = list(audit_files.forward(io.BytesIO(data)))
    assert list(audit_files.backward(io.BytesIO(data), chunk_bytes))[::-1] == there
    assert audit_files.whole_size(io.BytesIO(data), chunk_bytes) == data.rfind(b"\n") + 1


# --- threads and journald -----------------------------------------------------------------------------


def test_threads_that_wait_share_syncs_and_lose_nothing(tmp_path: Path) -> None:
    journal = small(tmp_path, keep_files=1000)
    with ThreadPoolExecutor(16) as pool:
        numbers = list(pool.map(lambda number: decide(journal, f"t{number}"), range(300)))
    assert len(set(numbers)) == 300
    by_number = {line["seq"]: line.get("id") for line in journal.lines()}
    assert [by_number[number] for number in numbers] == [f"t{number}" for number in range(300)]
    assert not journal.verify().problem


def test_entries_are_mirrored_to_journald(tmp_path: Path, short_dir: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(short_dir / "j"))
    journal = Audit(tmp_path / "audit.jsonl", journald=Journald(short_dir / "j"))
    decide(journal, "one", "printf 'a\nb' --password hunter2")
    datagram = listener.recv(1 << 16)
    fields = dict(
        line.split(b"=", 1) for line in datagram.split(b"\n") if line.startswith((b"LLMOS_ID", b"LLMOS_SEQ"))
    )
    assert fields == {b"LLMOS_ID": b"one", b"LLMOS_SEQ": b"1"}
    command = b"printf 'a\nb' --password [redacted]"
    assert b"LLMOS_COMMAND\n" + len(command).to_bytes(8, "little") + command + b"\n" in datagram
    assert b"LLMOS_HASH=" + journal.verify().last_hash.encode() in datagram
    listener.close()


def test_a_journald_that_is_full_or_gone_stops_nothing(tmp_path: Path, short_dir: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(short_dir / "j"))
    mirror = Journald(short_dir / "j")
    journal = Audit(tmp_path / "audit.jsonl", journald=mirror)
    for number in range(400):  # nobody reads; datagram queues are short
        decide(journal, str(number))
    assert not mirror.send({"kind": "decided"}, 1, "")
    listener.close()
    decide(journal, "after", "odd \udce9 \ud800 names")
    assert journal.history(1)[0]["id"] == "after"
