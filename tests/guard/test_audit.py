"""The journal: a chain that shows tampering, survives crashes, and keeps secrets out."""

from __future__ import annotations

import json
import multiprocessing
import random
import stat
from pathlib import Path

import pytest

from llmos.errors import CallFailed, DiskFull
from llmos.guard.audit import Audit, redact
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


def test_a_decision_and_its_end_are_a_pair(journal: Audit) -> None:
    assert decide(journal, "a") == 0
    assert decide(journal, "b") == 1
    journal.finished("a", Outcome(exit_code=3, duration_ms=5), ok=False)
    first, second = journal.history(10)
    assert (first["id"], first["status"], first["exit_code"]) == ("a", "failed", 3)
    assert (second["id"], second["status"]) == ("b", "interrupted")
    assert journal.history(1) == [second]
    assert journal.history(10, uid=5) == []
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert journal.verify().lines == 3 and not journal.verify().problem


def test_further_steps_of_a_request_are_noted(journal: Audit) -> None:
    decide(journal, "a")
    assert journal.note("committed", "a", {"paths": ["/x"], "undo_id": "u1"}) == 1
    line = journal.tail(1)[0]
    assert (line["kind"], line["id"], line["paths"], line["undo_id"]) == ("committed", "a", ["/x"], "u1")
    assert not journal.verify().problem


def test_every_tampering_inside_is_found(journal: Audit) -> None:
    for number in range(12):
        decide(journal, str(number), f"ls {number}")
    lines = journal.path.read_bytes().splitlines(keepends=True)
    dice = random.Random(7)
    for _ in range(300):
        at = dice.randrange(len(lines) - 1)
        changed = list(lines)
        match dice.choice(("edit", "drop", "swap", "repeat")):
            case "edit":
                changed[at] = changed[at].replace(b"ls ", b"rm ", 1)
            case "drop":
                del changed[at]
            case "swap":
                changed[at], changed[at + 1] = changed[at + 1], changed[at]
            case "repeat":
                changed.insert(at, changed[at])
        journal.path.write_bytes(b"".join(changed))
        assert journal.verify().problem


def test_a_torn_last_line_is_cut_off_and_that_is_written_down(journal: Audit) -> None:
    decide(journal)
    whole = journal.path.read_bytes()
    for torn in (b"x", b'{"seq":1,"prev"', b"{" * 100_000):
        journal.path.write_bytes(whole + torn)
        fresh = Audit(journal.path)
        assert decide(fresh, "after") == 2
        assert [line["kind"] for line in fresh.lines()] == ["decided", "recovered", "decided"]
        assert fresh.tail(2)[0]["torn_bytes"] == len(torn)
        assert not fresh.verify().problem


def test_a_new_process_goes_on_with_the_chain(journal: Audit) -> None:
    decide(journal)
    assert decide(Audit(journal.path)) == 1
    assert decide(journal) == 2
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
    assert journal.verify().lines == 40
    assert not journal.verify().problem


def test_a_full_disk_and_a_bad_place_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="nothing is run"):
        decide(Audit(Path("/dev/full")))
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


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("curl -H 'Authorization: Bearer abc.def-123'", "abc.def-123"),
        ("psql postgres://me:hunter2@db/x", "hunter2"),
        ("export PASSWORD=hunter2", "hunter2"),
        ("x --token hunter2 y", "hunter2"),
        ("aws AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
        ("git clone ghp_abcdefghijklmnopqrstuvwxyz0123", "ghp_abcdefghij"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
    ],
)
def test_secrets_are_left_out(journal: Audit, text: str, secret: str) -> None:
    decide(journal, command=text)
    assert secret not in journal.path.read_text()
    assert secret not in json.dumps(redact({"deep": [text]}))


def test_what_is_no_secret_stays(journal: Audit) -> None:
    text = "grep -rn tokenizer src | head"
    assert redact(text) == text
