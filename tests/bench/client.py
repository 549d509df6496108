"""How long a person waits for the client itself, next to Python starting to do nothing.

    python -m tests.bench.client [--runs N]

The daemon is a scripted one that answers at once, so what is measured is the client's: a request that is
sent and shown, and the shell up to its prompt, which is read off a terminal. `own_ms` is what stands above
the bare start of Python, the medians' difference; the runs take turns: a busy machine is busy for all.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench.report import report
from tests.console.server import JsonObject, Peer, methods, result, serving

GOAL_MS = 80.0
PROMPT = "»".encode()
CLIENT = [sys.executable, "-m", "llmos"]


def finished(argv: list[str], env: Mapping[str, str]) -> float:
    """Milliseconds until the program has ended."""
    began = time.perf_counter()
    subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return (time.perf_counter() - began) * 1000


def prompted(argv: list[str], env: Mapping[str, str]) -> float:
    """Milliseconds until a prompt stands on its terminal."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, dict(env))
    try:
        seen = b""
        while PROMPT not in seen:
            seen += os.read(terminal, 4096)
        return (time.perf_counter() - began) * 1000
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


CASES: dict[str, tuple[Callable[[list[str], Mapping[str, str]], float], list[str]]] = {
    "python -c pass": (finished, [sys.executable, "-c", "pass"]),
    "llmos --version": (finished, [*CLIENT, "--version"]),
    "llmos call, answered at once": (finished, [*CLIENT, "call", "file.list"]),
    "llmos, to the prompt": (prompted, CLIENT),
}


def answer(peer: Peer, frame: JsonObject) -> None:
    peer.reply(frame, result(frame))


def measure(folder: Path, runs: int) -> dict[str, list[float]]:
    """The times of each case, in milliseconds."""
    env = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "TERM": "xterm"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its bytecode
    env |= {"LLMOS_SOCKET": str(folder / "s"), "LC_ALL": "C.UTF-8"}
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with serving(folder / "s", methods(call=answer, status=answer, tools=answer)):
        for number in range(runs + 1):
            for name, (timed, argv) in CASES.items():
                took = timed(argv, env)
                times[name] += [took] if number else []  # the first makes the bytecode
    return times


def own_ms(times: Mapping[str, list[float]]) -> dict[str, float]:
    bare, *_ = (statistics.median(found) for found in times.values())
    return {name: round(statistics.median(found) - bare, 1) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmos-", dir="/tmp") as name:
        times = measure(Path(name), options.runs)
    own = own_ms(times)
    bare = statistics.median(times["python -c pass"])
    rows = [
        {
            "what": name,
            "p50_ms": round(bare + own[name], 1),
            "own_ms": own[name],
            "times_bare": round(own[name] / bare + 1, 1),
        }
        for name in times
    ]
    report("client", rows, {"own_ms": own, "goal_ms": GOAL_MS})


if __name__ == "__main__":
    main()
