"""How long a person waits for the client itself, next to Python starting to do nothing.

    python -m tests.bench.client [--runs N]

The daemon is a scripted one that answers at once, so what is measured is the client's: a request that is
sent and shown, and the shell up to its prompt, which is read off a terminal. `own_ms` is what stands above
the bare start of Python, the medians' difference; the runs take turns: a busy machine is busy for all.
`times_bare` compares processor time, which what else the machine does hardly moves.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.bench.report import report
from tests.console.server import JsonObject, Peer, methods, result, serving

GOAL_MS = 80.0
PROMPT = "»".encode()
CLIENT = [sys.executable, "-m", "llmos"]


class Took(NamedTuple):
    wall_ms: float
    cpu_ms: float


def finished(argv: list[str], env: Mapping[str, str]) -> Took:
    """Until the program has ended."""
    began = time.perf_counter()
    with open(os.devnull, "r+b") as null:
        streams = [(os.POSIX_SPAWN_DUP2, null.fileno(), number) for number in range(3)]
        pid = os.posix_spawn(argv[0], argv, dict(env), file_actions=streams)
    _, status, used = os.wait4(pid, 0)
    assert status == 0, argv
    return Took((time.perf_counter() - began) * 1000, (used.ru_utime + used.ru_stime) * 1000)


def prompted(argv: list[str], env: Mapping[str, str]) -> Took:
    """Until a prompt stands on its terminal."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, dict(env))
    try:
        seen = b""
        while PROMPT not in seen:
            seen += os.read(terminal, 4096)
        # The clock of another process: clock_getcpuclockid(3).
        cpu_s = time.clock_gettime((~pid << 3) | 2)
        return Took((time.perf_counter() - began) * 1000, cpu_s * 1000)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


CASES: dict[str, tuple[Callable[[list[str], Mapping[str, str]], Took], list[str]]] = {
    "python -c pass": (finished, [sys.executable, "-c", "pass"]),
    "llmos --version": (finished, [*CLIENT, "--version"]),
    "llmos call, answered at once": (finished, [*CLIENT, "call", "file.list"]),
    "llmos, to the prompt": (prompted, CLIENT),
}


def answer(peer: Peer, frame: JsonObject) -> None:
    peer.reply(frame, result(frame))


def measure(folder: Path, runs: int) -> dict[str, list[Took]]:
    """What each case took, run by run."""
    env = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "TERM": "xterm"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its bytecode
    env |= {"LLMOS_SOCKET": str(folder / "s"), "LC_ALL": "C.UTF-8"}
    times: dict[str, list[Took]] = {name: [] for name in CASES}
    with serving(folder / "s", methods(call=answer, status=answer, tools=answer)):
        for number in range(runs + 1):
            for name, (timed, argv) in CASES.items():
                took = timed(argv, env)
                times[name] += [took] if number else []  # the first makes the bytecode
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmos-", dir="/tmp") as name:
        times = measure(Path(name), options.runs)
    wall = {name: statistics.median(took.wall_ms for took in found) for name, found in times.items()}
    cpu = {name: statistics.median(took.cpu_ms for took in found) for name, found in times.items()}
    bare = next(iter(times))
    rows = [
        {
            "what": name,
            "p50_ms": round(wall[name], 1),
            "own_ms": round(wall[name] - wall[bare], 1),
            "cpu_ms": round(cpu[name], 1),
            "times_bare": round(cpu[name] / cpu[bare], 1),
        }
        for name in times
    ]
    report("client", rows, {"own_ms": {row["what"]: row["own_ms"] for row in rows}, "goal_ms": GOAL_MS})


if __name__ == "__main__":
    main()
