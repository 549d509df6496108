"""What a sandboxed command costs over a plain one: `python -m tests.bench.sandbox [--calls N]`.

Ways to run /bin/true, interleaved so that all see the same machine: a plain spawn, and a permit through
llmos (every layer). Where bubblewrap is installed it is measured too, with the namespaces we use.
Then calls per second with a few at once. Wall time as the broker sees it; no threshold is judged here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from llmos.config import SandboxSettings
from llmos.guard.spawn import Spawner
from llmos.messages import Run
from tests.bench.report import report
from tests.guard.boxes import permit

TRUE = "/bin/true"
WARM_UP = 5
CONCURRENT = 4


async def _plain(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await process.communicate()
    assert process.returncode == 0


def _ways(spawner: Spawner, folder: Path) -> dict[str, Callable[[], Awaitable[object]]]:
    bwrap = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", TRUE)
    peers = {"bwrap alone": lambda: _plain(*bwrap)} if shutil.which("bwrap") else {}
    step = Run(argv=(TRUE,))
    return {
        "plain spawn": lambda: _plain(TRUE),
        **peers,
        "llmos, read-only": lambda: spawner.run(permit(step, cwd=folder)),
        "llmos, one write root": lambda: spawner.run(permit(step, cwd=folder, write=(folder,))),
    }


async def _measure(calls: int, folder: Path) -> tuple[dict[str, list[float]], float]:
    spawner = Spawner(SandboxSettings())
    try:
        ways = _ways(spawner, folder)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(calls + WARM_UP):
            for name, way in ways.items():
                began = time.perf_counter()
                await way()
                if number >= WARM_UP:
                    taken[name].append((time.perf_counter() - began) * 1000)
        return taken, await _rate(ways["llmos, one write root"], calls)
    finally:
        spawner.close()


async def _rate(way: Callable[[], Awaitable[object]], calls: int) -> float:
    async def some() -> None:
        for _ in range(calls // CONCURRENT):
            await way()

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(CONCURRENT)))
    return calls // CONCURRENT * CONCURRENT / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        taken, per_second = asyncio.run(_measure(calls, Path(folder)))
    base = statistics.median(taken["plain spawn"])
    rows = []
    for name, times in taken.items():
        median, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        row = {"way": name, "median_ms": median, "p95_ms": p95, "over_plain_ms": median - base}
        rows.append(row | {"ratio": median / base})
    summary = {
        "over_plain_median_ms": rows[-1]["over_plain_ms"],
        "over_plain_p95_ms": rows[-1]["p95_ms"] - base,
        "calls_per_s": per_second,
        "concurrent": CONCURRENT,
        "root": os.geteuid() == 0,
    }
    report("sandbox", rows, summary)


if __name__ == "__main__":
    main()
