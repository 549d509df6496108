"""`llmos serve --ray` on a cluster of two nodes on loopback, and replicas killed under load.

    pip install 'llmos[serve,ray]'
    python -m tests.bench.ray_serve [--seconds N] [--kills N] [--clients N]

The cluster is started and stopped here; the server joins it by address. Clients that never try again ask
without a pause, every other one streamed, while replicas are killed. No reply may be lost or differ by a
letter from what the same request got before. Then MIN:MAX is tried: load must bring a second replica up.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import openai
import psutil

from llmos.engine import store
from tests.bench import ray_train
from tests.bench.report import report
from tests.serve import on_ray

TOKENS = 40
KINDS: tuple[dict[str, Any], ...] = tuple(
    {"streamed": streamed, "temperature": heat, "seed": 7} for streamed in (True, False) for heat in (0, 1)
)


class Load:
    """Clients that ask one after the other until they are stopped; what came of it."""

    def __init__(self, address: str, clients: int) -> None:
        self._client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120)
        self._wanted = [self._ask(kind) for kind in KINDS]
        self.seconds: list[float] = []
        self.lost: list[str] = []
        self.differ = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def _ask(self, kind: dict[str, Any]) -> str:
        return on_ray.ask(self._client, tokens=TOKENS, **kind)

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            number = (number + 1) % len(KINDS)
            started = time.monotonic()
            try:
                self.differ += self._ask(KINDS[number]) != self._wanted[number]
            except openai.OpenAIError as error:
                self.lost.append(f"{type(error).__name__}: {error}")
            self.seconds.append(time.monotonic() - started)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """HOST:PORT of its head, and the processes of the two nodes."""
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        ray_train.cluster(folder, nodes)
        words = nodes[0].args
        port = next(word for word in words if str(word).startswith("--port=")).removeprefix("--port=")  # type: ignore[union-attr]
        yield f"127.0.0.1:{port}", [psutil.Process(node.pid) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(60)


def replicas(nodes: list[psutil.Process]) -> set[int]:
    return set().union(*(on_ray.replicas_below(node) for node in nodes))


def two_but(killed: int, nodes: list[psutil.Process]) -> bool:
    return len(replicas(nodes) - {killed}) == 2


def killed_under_load(
    server: on_ray.Served, nodes: list[psutil.Process], given: argparse.Namespace
) -> dict[str, Any]:
    back_s = []
    pause_s = given.seconds / (given.kills + 1)
    with Load(server.address, given.clients) as load:
        for _ in range(given.kills):
            time.sleep(pause_s)
            killed = random.choice(sorted(replicas(nodes)))
            os.kill(killed, signal.SIGKILL)
            back_s.append(on_ray.wait_for(partial(two_but, killed, nodes), 90, "a new replica"))
        time.sleep(pause_s)
    return {
        "requests": len(load.seconds),
        "lost": len(load.lost),
        "other words than before": load.differ,
        "attempts lost with a replica": server.replayed(),
        "replicas killed": given.kills,
        "seconds until its process was replaced": [round(seconds, 1) for seconds in back_s],
        "median seconds": round(statistics.median(load.seconds), 2),
        "longest seconds": round(max(load.seconds), 2),
        "errors": load.lost[:3],
    }


def grown_by_load(server: on_ray.Served, nodes: list[psutil.Process]) -> dict[str, Any]:
    before = len(replicas(nodes))
    with Load(server.address, 4) as load:
        grown_s = on_ray.wait_for(partial(two_but, 0, nodes), 120, "the second replica")
    return {
        "replicas at first": before,
        "seconds of load until two": round(grown_s),
        "lost then": len(load.lost),
    }


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    (folder / "ray").mkdir()
    common = ["--model", str(store.resolve("tiny")), "--name", "tiny", "--context", "1024"]
    with cluster(folder / "ray") as (address, nodes):
        joined = [*common, "--ray", address]
        with on_ray.serving(folder / "fixed.log", *joined, "--replicas", "2") as server:
            found = killed_under_load(server, nodes, given)
        found["replicas after the server's end"] = len(replicas(nodes))
        with on_ray.serving(folder / "grown.log", *joined, "--replicas", "1:2") as server:
            found |= grown_by_load(server, nodes)
    return found


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seconds", type=float, default=60, help="of load, besides the waits for new replicas")
    made.add_argument("--kills", type=int, default=3)
    made.add_argument("--clients", type=int, default=6)
    given = made.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is stopped then, too
    with tempfile.TemporaryDirectory(prefix="ray-serve-") as folder:
        found = measure(given, Path(folder))
    report("ray_serve", [{"what": name, "found": str(value)} for name, value in found.items()], found)
    sys.exit(1 if found["lost"] or found["other words than before"] or found["lost then"] else 0)


if __name__ == "__main__":
    main()
