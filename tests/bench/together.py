"""Several clients at once, beside one alone: `python -m tests.bench.together [--clients N] [--each N]`.

A real daemon with a real planner, its tools only planned and never run. All clients stay connected and send
their next sentence when the last one is answered; no sentence is asked twice. Meanwhile another client asks
for `status` again and again. `…_times_one` is calls a second, and processor time of the planner for a call,
beside those of one client; fair is that no client takes much longer than the others. The planner's code is
that of the interpreter's own llmos, not of PYTHONPATH.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.bench import calls
from tests.bench.daemon import ask, greeted, running, wait_for_parts
from tests.bench.report import Value, report

PAUSE_S = 0.05  # between two questions for `status`
REST_S = 3.0  # the planner gives back after one second what only thinking needed


def client(sock: socket.socket, folder: str, says: list[str]) -> float:
    """Seconds until all are answered."""
    began = time.perf_counter()
    for say in says:
        ask(sock, "plan", text=say, cwd=folder)
    return time.perf_counter() - began


def watch(sock: socket.socket, over: threading.Event) -> list[float]:
    """How long each `status` took, in ms."""
    waits = []
    while not over.wait(PAUSE_S):
        began = time.perf_counter()
        ask(sock, "status")
        waits.append(1e3 * (time.perf_counter() - began))
    return sorted(waits)


def together(
    socks: list[socket.socket], folder: str, says: list[str], each: int, pid: int
) -> dict[str, Value]:
    *clients, watcher = socks
    shares = [says[each * n : each * (n + 1)] for n in range(len(clients))]
    over = threading.Event()
    before, began = sum(psutil.Process(pid).cpu_times()[:2]), time.perf_counter()
    with ThreadPoolExecutor(len(socks)) as pool:
        waits = pool.submit(watch, watcher, over)
        taken = list(
            pool.map(
                lambda given: client(*given), ((s, folder, w) for s, w in zip(clients, shares, strict=True))
            )
        )
        over.set()
    seconds, cpu = time.perf_counter() - began, sum(psutil.Process(pid).cpu_times()[:2]) - before
    count = each * len(clients)
    return {
        "clients": len(clients),
        "calls": count,
        "calls_per_s": count / seconds,
        "cpu_ms_a_call": 1e3 * cpu / count,
        "slowest_to_median": max(taken) / statistics.median(taken),
        "status_p50_ms": statistics.median(waits.result()),
        "status_p99_ms": waits.result()[int(0.99 * (len(waits.result()) - 1))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--each", type=int, default=3, help="sentences of each client")
    options = parser.parse_args()
    alone, most = 2 * options.each, options.clients * options.each
    says = calls.requests(1 + alone + most)
    assert len(says) > alone + most, "there are not so many sentences"
    random.Random(1).shuffle(says)  # they stand by how hard they are
    with tempfile.TemporaryDirectory(prefix="llmos-") as folder, running(Path(folder)) as (daemon, sock):
        wait_for_parts(sock)
        socks = [greeted(Path(folder) / "s.sock", daemon) for _ in range(options.clients)]
        ask(sock, "plan", text=says[0], cwd=folder)  # loads the model
        pid = int(ask(sock, "status")["planner"]["pid"])
        one = together([socks[0], sock], folder, says[1:], alone, pid)
        many = together([*socks, sock], folder, says[1 + alone :], options.each, pid)
        memory = psutil.Process(pid).memory_info()
        time.sleep(REST_S)
        at_rest = psutil.Process(pid).memory_info().rss
    times = {
        f"{name}_times_one": float(many[name] or 0) / float(one[name] or 1)
        for name in ("calls_per_s", "cpu_ms_a_call")
    }
    resident = {
        "planner_resident_mb": memory.rss / 1e6,
        "planner_own_mb": (memory.rss - memory.shared) / 1e6,
        "planner_at_rest_mb": at_rest / 1e6,
    }
    report("together", [one, many], times | resident)


if __name__ == "__main__":
    main()
