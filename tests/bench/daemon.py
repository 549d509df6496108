"""How long the daemon takes to answer, what it weighs, and what a round trip over its socket costs.

    python -m tests.bench.daemon [--runs N]

Start-up is from the start of the process to the first byte of its greeting, next to Python starting to
do nothing on the same machine in the same run. Memory is resident, after the parts are loaded. The
planner is not started: its weight and speed are other benchmarks' business.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmos.daemon import supervisor
from tests.bench.report import report

YARDSTICKS = {
    "python -c pass": "pass",
    "python -c 'import asyncio'": "import asyncio",
    "python -c 'import pydantic'": "import pydantic; pydantic.BaseModel",
}
MAIN = "import sys; from pathlib import Path; from llmos.daemon import server; server.run(Path(sys.argv[1]))"


def timed_ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def spread(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    return {
        "min_ms": round(values[0], 3),
        "p50_ms": round(statistics.median(values), 3),
        "p99_ms": round(values[min(len(values) - 1, int(len(values) * 0.99))], 3),
    }


def yardstick(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A daemon with a home of its own, and a connection it has greeted."""
    path = folder / "s.sock"
    env = {
        **os.environ,
        **supervisor.EXTRA_VARIABLES,
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    with (folder / "log").open("ab") as log:
        daemon = subprocess.Popen([sys.executable, "-c", MAIN, str(path)], stderr=log, env=env, cwd="/")
    try:
        yield daemon, greeted(path, daemon)
    finally:
        daemon.terminate()
        daemon.wait(30)


def greeted(path: Path, daemon: subprocess.Popen[bytes]) -> socket.socket:
    while daemon.poll() is None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            if sock.recv(4096):
                return sock
        except OSError:
            sock.close()
            time.sleep(0.001)
    raise SystemExit(f"the daemon did not start: {(path.parent / 'log').read_text()}")


def ask(sock: socket.socket, method: str, **params: Any) -> dict[str, Any]:
    frame = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    sock.sendall(json.dumps(frame).encode() + b"\n")
    buffer = b""
    while True:
        buffer += sock.recv(1 << 16)
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            reply = json.loads(line)
            if reply.get("id") == 1:
                if "error" in reply:
                    raise SystemExit(f"{method}: {reply['error']}")
                return dict(reply["result"])


def start_once() -> float:
    with tempfile.TemporaryDirectory(prefix="llmos-") as folder:
        began = time.perf_counter()
        with running(Path(folder)):
            return (time.perf_counter() - began) * 1000


def wait_for_parts(sock: socket.socket) -> dict[str, Any]:
    """The status once tools and policy are in force."""
    while (status := ask(sock, "status"))["state"] == "loading":
        time.sleep(0.005)
    return status


def warm(round_trips: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One daemon: time until its parts are loaded, its memory, and round trips of several kinds."""
    with tempfile.TemporaryDirectory(prefix="llmos-") as folder:
        began = time.perf_counter()
        with running(Path(folder)) as (_, sock):
            loaded = wait_for_parts(sock)
            loaded_ms = (time.perf_counter() - began) * 1000
            check = {"command": "ls -la | head -3", "cwd": folder}
            kinds: dict[str, Callable[[], object]] = {
                "status": lambda: ask(sock, "status"),
                "policy.check": lambda: ask(sock, "policy.check", **check),
                "call system.memory": lambda: ask(sock, "call", tool="system.memory", args={}, cwd=folder),
            }
            trips = {
                name: spread([timed_ms(work) for _ in range(round_trips if name == "status" else 50)])
                for name, work in kinds.items()
            }
            after = ask(sock, "status")
    rows = [{"what": f"round trip: {name}", **figures} for name, figures in trips.items()]
    facts = {
        "parts_loaded_ms": round(loaded_ms, 1),
        "resident_mb": round(loaded["resident_bytes"] / 1e6, 1),
        "resident_after_use_mb": round(after["resident_bytes"] / 1e6, 1),
    }
    return rows, facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--round-trips", type=int, default=2000)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = [
        {"what": name, **spread([timed_ms(lambda code=code: yardstick(code)) for _ in range(options.runs)])}
        for name, code in YARDSTICKS.items()
    ]
    start = spread([start_once() for _ in range(options.runs)])
    rows.append({"what": "daemon: start to greeting", **start})
    trips, facts = warm(options.round_trips)
    summary = {"start_p50_ms": start["p50_ms"], **facts, "goal_start_ms": 300, "goal_resident_mb": 60}
    report("daemon", rows + trips, summary)


if __name__ == "__main__":
    main()
