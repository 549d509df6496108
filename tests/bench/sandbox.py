"""What a sandboxed command costs over a plain one: `python -m tests.bench.sandbox [--calls N]`.

Ways to run /bin/true, interleaved so that all see the same machine: a plain spawn; llmos with every layer,
its control group included, read-only, with a write root, and with a copy-on-write stage made and discarded
for each call; and of the peers what starts here: bubblewrap alone with the namespaces we use, codex sandbox,
srt, and docker run of an image called llmos-bench, which a static busybox as FOLDER/bin/true makes:
`tar -C FOLDER -c . | docker import - llmos-bench`. Then calls per second, four at once. Wall time as the
broker sees it; no threshold is judged here. LLMOS_FORKS_DIR=/an/empty/folder measures forks in Python.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from llmos.config import SandboxSettings
from llmos.guard import cgroups, staging
from llmos.guard.spawn import Spawner
from llmos.messages import Run, new_id
from tests import builds
from tests.bench.report import Value, report
from tests.guard.boxes import permit

TRUE = "/bin/true"
WARM_UP = 5
CONCURRENT = 4
PEER_EVERY = 10  # a peer takes up to a second, so it runs in one round of so many
LLMOS = ("llmos, read-only", "llmos, one write root", "llmos, staged")
_BWRAP = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", TRUE)
_CODEX = ("codex", "sandbox", "-c", 'sandbox_mode="workspace-write"', "--", TRUE)
_DOCKER = ("docker", "run", "--rm", "--network", "none", "llmos-bench", TRUE)
_SRT_SETTINGS = {
    "network": {"allowedDomains": [], "deniedDomains": []},
    "filesystem": {"denyRead": [], "allowWrite": ["."], "denyWrite": []},
}
Way = Callable[[], Awaitable[object]]


async def _plain(*argv: str, cwd: Path | None = None) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode(errors="replace")


def _peers(folder: Path) -> dict[str, tuple[str, ...]]:
    settings = folder / "srt.json"
    settings.write_text(json.dumps(_SRT_SETTINGS))
    known = {
        "bwrap alone": _BWRAP,
        "codex sandbox": _CODEX,
        "srt": ("srt", "-s", str(settings), "-c", TRUE),
        "docker run": _DOCKER,
    }
    return {name: argv for name, argv in known.items() if shutil.which(argv[0]) and _works(argv, folder)}


def _works(argv: tuple[str, ...], folder: Path) -> bool:
    """Left out where it does not start here; the table then has no line of it."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=30, check=False)
        return done.returncode == 0
    return False


def _ways(spawner: Spawner, folder: Path) -> dict[str, Way]:
    step = Run(argv=(TRUE,))

    async def staged() -> None:
        stage = staging.create(new_id(), (str(folder),))
        try:
            await spawner.run(permit(step, cwd=folder, write=(folder,), stage=str(stage.folder)))
        finally:
            stage.discard()

    return {
        "plain spawn": lambda: _plain(TRUE),
        "llmos, read-only": lambda: spawner.run(permit(step, cwd=folder)),
        "llmos, one write root": lambda: spawner.run(permit(step, cwd=folder, write=(folder,))),
        "llmos, staged": staged,
    }


def _peer_way(argv: tuple[str, ...], folder: Path) -> Way:
    return lambda: _plain(*argv, cwd=folder)


async def _timed(way: Way) -> float:
    began = time.perf_counter()
    await way()
    return (time.perf_counter() - began) * 1000


async def _measure(calls: int, folder: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    spawner = Spawner(SandboxSettings())
    try:
        ways = _ways(spawner, folder)
        peers = {name: _peer_way(argv, folder) for name, argv in _peers(folder).items()}
        taken: dict[str, list[float]] = {name: [] for name in (*ways, *peers)}
        for number in range(calls + WARM_UP):
            for name, way in (ways | peers if number % PEER_EVERY == 0 else ways).items():
                took = await _timed(way)
                if number >= WARM_UP:
                    taken[name].append(took)
        return taken, {name: await _rate(ways[name], calls) for name in ("plain spawn", *LLMOS)}
    finally:
        spawner.close()


async def _rate(way: Way, calls: int) -> float:
    async def some() -> None:
        for _ in range(calls // CONCURRENT):
            await way()

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(CONCURRENT)))
    return calls // CONCURRENT * CONCURRENT / (time.perf_counter() - began)


def _rows(taken: Mapping[str, list[float]], rates: Mapping[str, float]) -> list[dict[str, Value]]:
    base = statistics.median(taken["plain spawn"])
    rows = []
    for name, times in taken.items():
        median, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        row: dict[str, Value] = {"way": name, "calls": len(times), "median_ms": median, "p95_ms": p95}
        row |= {"over_plain_ms": median - base, "p95_over_plain_ms": p95 - base, "ratio": median / base}
        rows.append(row | {"calls_per_s": rates.get(name)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    written_in = builds.use_program()
    with tempfile.TemporaryDirectory() as folder:
        taken, rates = asyncio.run(_measure(calls, Path(folder)))
    rows = _rows(taken, rates)
    ours = {str(row["way"]): row for row in rows if row["way"] in LLMOS}
    columns = ("over_plain_ms", "p95_over_plain_ms", "calls_per_s")
    groups = cgroups.find(prepare=False)
    summary = {
        **{name: {column: row[column] for column in columns} for name, row in ours.items()},
        "concurrent": CONCURRENT,
        "forks": written_in,
        "cgroup_version": groups.version if groups else 0,
        "root": os.geteuid() == 0,
        "load_1min": os.getloadavg()[0],
    }
    report("sandbox", rows, summary)


if __name__ == "__main__":
    main()
