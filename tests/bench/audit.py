"""What the journal costs: `python -m tests.bench.audit [--decisions N] [--folder DIR] [--campaign]`.

Decisions per second on the disk of DIR, each one synced before it returns: by one thread, by several that
share syncs, and with the sync left out of the measurement's other parts. A bare write and fdatasync of as
many bytes stands beside them as the yardstick. Then how fast all of it is verified, and what redaction takes.

With --campaign, instead, what it withstands: 1,000 tamperings of each kind and 1,000 SIGKILLs of writers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmos.guard import audit_verify, redaction
from llmos.guard.audit import Audit
from llmos.messages import Caller, Decision, Effects, Plan, ToolCall, Verdict
from tests.bench.report import report
from tests.guard import test_audit_crashes as crashes
from tests.guard import test_audit_tampering as tampering

THREADS = (1, 4, 16)
CALLER = Caller(uid=1000, gid=1000)
VERDICT = Verdict(decision=Decision.ALLOW, rule="looking", reason="It only looks.")
COMMAND = "find /var/log -name '*.log' -size +10M -mtime +7 | sort | head -20"


def decide(journal: Audit, number: int) -> float:
    """Milliseconds until the decision is on disk. Commands differ, as in life."""
    command = f"{COMMAND} # {number}"
    effects = Effects(reads=("/var/log", f"/srv/data/{number}"), programs=("/usr/bin/find", "/usr/bin/sort"))
    call = ToolCall(tool="shell.run", args={"command": command})
    plan = Plan(call=call, command=command, effects=effects, steps=(), read_only=True)
    began = time.perf_counter()
    journal.decided(plan, VERDICT, CALLER, request_id=f"r{number}", cwd="/srv", approved=False, runs=True)
    return (time.perf_counter() - began) * 1000


def bare(fd: int) -> float:
    began = time.perf_counter()
    os.write(fd, b"x" * 800)
    os.fdatasync(fd)
    return (time.perf_counter() - began) * 1000


def row(what: str, threads: int, count: int, work: Callable[[int], float]) -> dict[str, str | float]:
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        taken = list(pool.map(work, range(count)))
        whole = time.perf_counter() - began
    return {
        "what": what,
        "threads": threads,
        "per_s": count / whole,
        "median_ms": statistics.median(taken),
        "p95_ms": statistics.quantiles(taken, n=20)[-1],
    }


def campaign(per_kind: int, kills: int) -> bool:
    """Whether every tampering was found and no acknowledged decision lost."""
    rows: list[dict[str, str | float]] = []
    for tamper, names in tampering.CASES:
        missed = tampering.unseen(tamper, names, per_kind, seed=f"campaign {tamper.__name__}")
        rows.append({"what": tamper.__name__, "tries": per_kind, "missed": len(missed)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "audit.jsonl")
        acknowledged, written = crashes.kill_writers(path, kills, seed=kills)
        lost = len(acknowledged - written)
        crashes.decide(Audit(path, crashes.SETTINGS), "after")  # mends what the last kill left
        problem = audit_verify.examine(path).problem
    rows.append({"what": "SIGKILL of a writer", "tries": kills, "missed": lost})
    summary = {
        "tamperings": per_kind * len(tampering.CASES),
        "tamperings_missed": sum(int(row["missed"]) for row in rows[:-1]),
        "kills": kills,
        "decisions_acknowledged": len(acknowledged),
        "decisions_lost": lost,
        "problem_after_kills": problem,
    }
    report("audit campaign", rows, summary)
    return not problem and not any(row["missed"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--campaign", action="store_true", help="tamper and kill instead of measuring")
    parser.add_argument("--per-kind", type=int, default=1000, help="tamperings of each kind")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--decisions", type=int, default=2000)
    parser.add_argument("--folder", help="on the disk to be measured (default: the temporary folder)")
    options = parser.parse_args()
    if options.campaign:
        raise SystemExit(0 if campaign(options.per_kind, options.kills) else 1)
    count = options.decisions
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        with Path(folder, "bare").open("ab", buffering=0) as file:
            rows = [row("bare write and fdatasync", 1, count, lambda _: bare(file.fileno()))]
        journal = Audit(Path(folder, "audit.jsonl"))
        decide(journal, -1)  # the table of secrets is read, the key made
        rows += [row("decision on disk", threads, count, lambda n: decide(journal, n)) for threads in THREADS]
        began = time.perf_counter()
        found = audit_verify.examine(journal.path)
        verify_s = time.perf_counter() - began
        assert not found.problem and found.sealed > count * len(THREADS)
        line_bytes = journal.path.stat().st_size / found.lines
    redacted = [timed_redaction(number) for number in range(500)]
    summary = {
        "decisions_per_s": max(float(row["per_s"]) for row in rows[1:]),
        "goal_per_s": 200,
        "over_bare_median_ms": float(rows[1]["median_ms"]) - float(rows[0]["median_ms"]),
        "verified_lines_per_s": found.lines / verify_s,
        "bytes_per_line": line_bytes,
        "redaction_median_ms": statistics.median(redacted),
        "kinds_of_secrets": len(redaction.kinds()),
    }
    report("audit", rows, summary)


def timed_redaction(number: int) -> float:
    entry = {
        "command": f"{COMMAND} -x {number}",
        "args": {"command": f"{COMMAND} -x {number}"},
        "cwd": "/srv",
    }
    began = time.perf_counter()
    redaction.redact(entry)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
