"""Ask every sentence of the case files through a real daemon and judge the outcomes.

    python -m tests.bench.understand [--model NAME] [--untuned] [--level N] [--limit N] [--every N]
                                     [--set NAME] [--failures] [--match TEXT]

Each sentence gets a fresh workspace and the consent `yes`, as a script with --yes would give.
Prints the accuracy per level and language and the rate of wrong actions, then one JSON line. Not two at a
time on one machine: each starts a process that sentences name, and would find the other's.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import hashlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmos.wire import FrameSocket
from tests.bench.report import report
from tests.bench.understand.judge import Seen, fill, judge
from tests.bench.understand.workspace import build, snapshot

CASES_FILES = tuple(
    Path(__file__).with_name(f"{name}.toml")
    for name in (
        "cases",
        "everyday",
        "later",
        "fresh",
        "independent",
        "frequent",
        "strangers",
        "newcomers",
        "visitors",
    )
)
START_DEADLINE_S = 30.0
ASK_DEADLINE_S = 300.0


@contextmanager
def daemon(
    model: str, folder: Path, *, adapter: Path | bool = True, threads: int = 0, more: str = ""
) -> Iterator[Path]:
    """A daemon of this checkout with its own state folder and socket; `more` of its configuration."""
    chosen = str(adapter).lower() if isinstance(adapter, bool) else json.dumps(str(adapter.resolve()))
    sock = folder / "llmos.sock"
    env = os.environ | {
        "LLMOS_SOCKET": str(sock),
        "LLMOS_MODEL": model,
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    config = folder / "config" / "llmos" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f"[model]\nadapter = {chosen}\nthreads = {threads}\n{more}")
    with (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "llmos", "daemon"], env=env, stderr=log, stdout=log)
        try:
            deadline = time.monotonic() + START_DEADLINE_S
            while not sock.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit((folder / "daemon.log").read_text() or "the daemon did not start")
                time.sleep(0.05)
            yield sock
        finally:
            process.terminate()
            process.wait(20)


def request(sock: Path, params: dict[str, Any], method: str = "ask") -> dict[str, Any]:
    """One request over a connection of its own; an error becomes a failed result."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(ASK_DEADLINE_S)
        raw.connect(str(sock))
        wire = FrameSocket(raw)
        wire.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        while (frame := wire.receive()) is not None:
            if frame.get("id") == 1:
                return frame.get("result") or {
                    "status": "failed",
                    "answer": frame["error"]["message"],
                    "calls": [],
                }
    return {"status": "failed", "answer": "connection closed", "calls": []}


@contextmanager
def victim(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process named `napper` that requests may look for or stop."""
    program = folder / "napper"
    if not program.exists():
        shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([str(program), "3000"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def facts(process: subprocess.Popen[bytes], root: Path, port: int) -> dict[str, str]:
    return {
        "pid": str(process.pid),
        "port": str(port),
        "kernel": platform.release(),
        "hostname": socket.gethostname(),
        "cores": str(os.cpu_count()),
        "user": getpass.getuser(),
        "year": str(time.localtime().tm_year),
        "cwd": str(root),
        "notes_sha256": hashlib.sha256((root / "notes.txt").read_bytes()).hexdigest(),
        "dump_md5": hashlib.md5((root / "dump.sql").read_bytes(), usedforsecurity=False).hexdigest(),
    }


def load_cases() -> list[dict[str, Any]]:
    """Every case, each with the file it stands in, without its ending, as `set`."""
    return [
        case | {"set": file.stem}
        for file in CASES_FILES
        for case in tomllib.loads(file.read_text(encoding="utf-8"))["cases"]
    ]


def run_case(
    case: dict[str, Any],
    sock: Path,
    folder: Path,
    port: int,
    *,
    confidences: bool = False,
    route: str = "auto",
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="case-", dir=folder) as name, victim(folder) as process:
        root = Path(name)
        build(root, case.get("files", {}), case.get("days", {}))
        before = snapshot(root)
        known = facts(process, root, port)
        params = {"text": fill(case["say"], known), "cwd": str(root), "consent": "yes", "route": route}
        if data := case.get("data"):
            params["data_b64"] = base64.b64encode(data.encode()).decode()
        told = request(sock, params, "route").get("facts", {}).get("local") if confidences else None
        started = time.monotonic()
        result = request(sock, params)
        elapsed_s = time.monotonic() - started
        time.sleep(0.05)
        seen = Seen(result, before, snapshot(root), root, process.poll() is None, known)
        faults, wrong_action = judge(case, seen)
        calls = [f"{call['tool']} {call['args']}" for call in result.get("calls", [])]
        return {
            "say": case["say"],
            "level": case["level"],
            "lang": case.get("lang", "en"),
            "set": case["set"],
            "ok": not faults,
            "wrong_action": wrong_action,
            "faults": faults,
            "calls": calls,
            "answer": result.get("answer"),
            "status": result.get("status"),
            "seconds": elapsed_s,
            "confidence": told[0]["confidence"] if told and not told[0]["problem"] else None,
        }


def share(rows: list[dict[str, Any]], key: str = "ok") -> float:
    return round(sum(bool(row[key]) for row in rows) / len(rows), 3) if rows else 0.0


def summarise(rows: list[dict[str, Any]], model: str) -> None:
    groups = {f"level {level}": [r for r in rows if r["level"] == level] for level in (1, 2, 3)}
    groups |= {lang: [r for r in rows if r["lang"] == lang] for lang in ("en", "zh")}
    groups |= {file.stem: [r for r in rows if r["set"] == file.stem] for file in CASES_FILES}
    groups["all"] = rows
    table = [
        {
            "group": name,
            "sentences": len(group),
            "understood": share(group),
            "wrong action": share(group, "wrong_action"),
            "median s": round(statistics.median(r["seconds"] for r in group), 2),
        }
        for name, group in groups.items()
        if group
    ]
    summary = {"model": model} | {row["group"]: row["understood"] for row in table}
    report(
        "understand", table, summary | {"wrong_action": share(rows, "wrong_action"), "sentences": len(rows)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--untuned", action="store_true", help="the model without its adapter")
    which.add_argument("--adapter", type=Path, metavar="DIR", help="another adapter in place of its own")
    parser.add_argument("--threads", type=int, default=0, help="one where others keep the machine busy")
    parser.add_argument("--level", type=int)
    parser.add_argument("--set", choices=[file.stem for file in CASES_FILES], help="only one file's")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--every", type=int, default=1, help="a sample: every Nth sentence")
    parser.add_argument("--match", default="", help="only sentences that contain this text")
    parser.add_argument(
        "--confidences", type=Path, help="append how sure it was of each, for bench.calibration"
    )
    parser.add_argument("--failures", action="store_true", help="print each failed sentence and why")
    options = parser.parse_args()
    cases = [
        c
        for c in load_cases()
        if options.set in (None, c["set"])
        if options.level in (None, c["level"]) and options.match in c["say"]
    ]
    rows = []
    # Not below the host's /tmp: there the sandbox may show a folder of its own.
    with (
        tempfile.TemporaryDirectory(prefix="understand-", dir=Path.home()) as name,
        socket.socket() as listener,
        daemon(
            options.model, Path(name), adapter=options.adapter or not options.untuned, threads=options.threads
        ) as sock,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for case in cases[: options.limit : options.every]:
            port = listener.getsockname()[1]
            row = run_case(case, sock, Path(name), port, confidences=options.confidences is not None)
            rows.append(row)
            if options.confidences is not None:
                with options.confidences.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"ok": row["ok"], "confidence": row["confidence"]}) + "\n")
            if options.failures and not row["ok"]:
                held = f" ({row['answer']})" if row["calls"] and row["status"] != "done" else ""
                print(
                    f"- {row['say']!r} -> {row['calls'] or row['answer']}{held} : {'; '.join(row['faults'])}",
                    flush=True,
                )
    summarise(rows, options.model)


if __name__ == "__main__":
    main()
