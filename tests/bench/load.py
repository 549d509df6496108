"""A thousand clients at once: how many cheap calls a second, how fairly, in how much memory, nothing lost.

    python -m tests.bench.load [--clients N] [--seconds S] [--calls N [--cheap N]]

All clients stay connected. Each sends its next call when the last one is answered; a tenth of them asks for
verdicts (`policy.check`), the others for `status`. Lost is one without an answer, refused one with an error.
Fair is the slowest client's number of answers beside the median's. With `--calls` a soak follows: so many
sandboxed calls and, with `--cheap`, so many more that the broker answers itself (judged and written down like
all others), after which the daemon's files, threads and processes, and the machine's control groups and
mounts, are counted again; memory is printed for each tenth of it, so that a leak can be told from a plateau.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from llmos.guard import cgroups
from tests.bench.daemon import ask, running, wait_for_parts
from tests.bench.report import report

CHECKS_EACH = 10  # every tenth client asks for verdicts
SOAK_AT_ONCE = 4
MAX_LINE = 1 << 20


@dataclass
class Told:
    """What one client saw."""

    method: str
    waits_ms: list[float] = field(default_factory=list)
    refused: int = 0
    lost: int = 0


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def request(number: int, method: str, params: dict[str, Any]) -> bytes:
    frame = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(frame).encode() + b"\n"


async def client(
    path: str, method: str, params: dict[str, Any], start: asyncio.Barrier, ends: list[float]
) -> Told:
    told = Told(method)
    reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
    hello = json.loads(await reader.readline())
    assert "params" in hello, hello
    await start.wait()
    number = 0
    while time.perf_counter() < ends[0]:
        number += 1
        began = time.perf_counter()
        writer.write(request(number, method, params))
        reply = json.loads(await reader.readline() or b"{}")
        if reply.get("id") != number:
            told.lost += 1
        elif "error" in reply:
            told.refused += 1
        else:
            told.waits_ms.append((time.perf_counter() - began) * 1000)
    writer.close()
    return told


async def load(path: str, folder: str, clients: int, seconds: float) -> list[Told]:
    """All of them, once all are connected."""
    start, ends = asyncio.Barrier(clients + 1), [0.0]
    check = {"command": "ls -la | head -3", "cwd": folder}
    kinds = [("policy.check", check) if n % CHECKS_EACH == 0 else ("status", {}) for n in range(clients)]
    tasks = [asyncio.create_task(client(path, method, params, start, ends)) for method, params in kinds]
    ends[0] = float("inf")
    await start.wait()
    ends[0] = time.perf_counter() + seconds
    return await asyncio.gather(*tasks)


def row(method: str, told: list[Told], seconds: float) -> dict[str, Any]:
    mine = [one for one in told if one.method == method]
    waits = sorted(wait for one in mine for wait in one.waits_ms)
    counts = [len(one.waits_ms) for one in mine]
    return {
        "what": method,
        "clients": len(mine),
        "calls_per_s": round(len(waits) / seconds, 1),
        "p50_ms": round(statistics.median(waits), 1),
        "p99_ms": round(waits[int(len(waits) * 0.99)], 1),
        "least_to_median": round(min(counts) / max(1, statistics.median(counts)), 2),
        "refused": sum(one.refused for one in mine),
        "lost": sum(one.lost for one in mine),
    }


# --- soak ----------------------------------------------------------------------------------------


def _is_left(group: str, own: set[int]) -> bool:
    """Whether a control group is of a launcher of this daemon, or of one that is gone: others' are theirs."""
    made_by = re.fullmatch(r"llmos-(\d+)\.\d+\.\d+", group)
    return made_by is not None and (int(made_by[1]) in own or not psutil.pid_exists(int(made_by[1])))


def held(pid: int) -> dict[str, int]:
    """What a daemon could leak: of its own, and of the machine."""
    process = Path(f"/proc/{pid}")
    kinds = Counter(os.path.basename(os.path.dirname(str(place))) for place in process.glob("task/*/comm"))
    folders = set(cgroups.find(prepare=False).folders.values())
    processes = psutil.Process(pid).children(recursive=True)
    names = [name for folder in folders for name in os.listdir(folder)]
    return {
        "files": len(list((process / "fd").iterdir())),
        "threads": sum(kinds.values()),
        "processes": len(processes),
        "groups": sum(_is_left(name, {process.pid for process in processes}) for name in names),
        "mounts": len((process / "mountinfo").read_text().splitlines()),
    }


SANDBOXED = ("shell.run", {"command": "echo soaked"})
CHEAP = ("system.memory", {})


def _evenly(number: int, chosen: int, of: int) -> bool:
    """Whether this one is among the `chosen`, which are spread over all."""
    return (number + 1) * chosen // of != number * chosen // of


async def soak(path: str, folder: str, calls: int, cheap: int, pid: int) -> tuple[list[float], int]:
    """So many calls, the cheap ones evenly among them; the memory after each tenth, and how many failed."""
    left, failed, sizes = calls + cheap, 0, []

    async def worker() -> None:
        nonlocal left, failed
        reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
        await reader.readline()
        while left > 0:
            left -= 1
            if left % max(1, (calls + cheap) // 10) == 0:
                sizes.append(round(resident_mb(pid), 1))
            tool, args = SANDBOXED if _evenly(left, calls, calls + cheap) else CHEAP
            writer.write(request(1, "call", {"tool": tool, "args": args, "cwd": folder}))
            reply: dict[str, Any] = {}
            while reply.get("id") != 1:
                reply = json.loads(await reader.readline())
            failed += reply.get("result", {}).get("status") != "done"
        writer.close()

    await asyncio.gather(*(worker() for _ in range(SOAK_AT_ONCE)))
    return sizes, failed


def soaked(path: str, folder: str, calls: int, cheap: int, pid: int) -> dict[str, Any]:
    asyncio.run(soak(path, folder, 20, 20, pid))  # what is made once is made now
    before, began = settled(pid), time.perf_counter()
    sizes, failed = asyncio.run(soak(path, folder, calls, cheap, pid))
    seconds = time.perf_counter() - began
    more = left_over(pid, before)
    return {
        "soak_calls": calls,
        "soak_cheap": cheap,
        "soak_failed": failed,
        "soak_calls_per_s": round((calls + cheap) / seconds, 1),
        "soak_resident_mb": sizes,
        "soak_more": more,
    }


def settled(pid: int) -> dict[str, int]:
    """Once what the last call left has been cleared away."""
    time.sleep(1.0)
    return held(pid)


def left_over(pid: int, before: dict[str, int]) -> dict[str, int]:
    """What there is more than before, once that which is only late has gone."""
    for _ in range(20):
        more = {name: count - before[name] for name, count in settled(pid).items()}
        if max(more.values()) <= 0:
            break
    return more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--cheap", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="of the load, to tell a leak from a plateau")
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files[0], options.clients + 100), files[1]))
    with tempfile.TemporaryDirectory(prefix="llmos-") as folder, running(Path(folder)) as (daemon, sock):
        wait_for_parts(sock)
        ask(sock, "policy.check", command="ls", cwd=folder)
        path, sizes, told = f"{folder}/s.sock", [round(resident_mb(daemon.pid), 1)], []
        for _ in range(options.rounds):
            told = asyncio.run(load(path, folder, options.clients, options.seconds))
            sizes.append(round(resident_mb(daemon.pid), 1))
        rows = [row(method, told, options.seconds) for method in ("status", "policy.check")]
        summary: dict[str, Any] = {
            "clients": options.clients,
            "calls_per_s": round(sum(found["calls_per_s"] for found in rows), 1),
            "lost": sum(found["lost"] for found in rows),
            "resident_mb_after_each_round": sizes,
        }
        if options.calls:
            summary |= soaked(path, folder, options.calls, options.cheap, daemon.pid)
    report("load", rows, summary)


if __name__ == "__main__":
    main()
