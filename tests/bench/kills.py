"""kill -9 of the daemon at random moments of its work: what became of every request that it had accepted?

    python -m tests.bench.kills [--kills N] [--seed N]

Clients make requests of several kinds (questions, commands, changes, requests to a scripted planner, some of
them queued). The daemon is killed, started again on the same state, and asked for its history: a request of
which an event or an answer had come must stand there with an outcome, an answer that had come must be told as
it was, and nothing may be left running or half changed. Printed is how long the new one took to greet, and to
answer what needs policy, tools and journal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmos.guard import cgroups
from tests.bench.report import report
from tests.daemon import support
from tests.daemon.support import Client

MAX_DELAY_S = 1.5
CONNECTIONS = 3
SCRIPT = {"*": {"command": "true", "delay_s": 0.05}}
JsonObject = dict[str, Any]


@dataclass
class Asked:
    """One request, and what its client heard before the daemon was gone."""

    id: str
    number: int = 0  # of its frame, on its connection
    connection: int = 0
    marker: Path | None = None  # the file it was to make
    heard: bool = False
    answered: bool = False
    answer: JsonObject | None = None


@dataclass
class Round:
    asked: list[Asked] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    restart_ms: float = 0.0
    served_ms: float = 0.0
    served_cpu_ms: float = 0.0  # of the daemon, whatever else the machine does
    interrupted: int = 0


def kinds(folder: Path) -> list[Callable[[Client, str], tuple[int, Path | None]]]:
    cwd = str(folder)

    def command(client: Client, name: str) -> tuple[int, None]:
        return client.send("call", tool="shell.run", args={"command": "echo ran"}, cwd=cwd, id=name), None

    def change(client: Client, name: str) -> tuple[int, Path]:
        args = {"command": f"echo {name} > {name}.txt"}
        number = client.send("call", tool="shell.run", args=args, cwd=cwd, id=name, consent="yes")
        return number, folder / f"{name}.txt"

    def question(client: Client, name: str) -> tuple[int, None]:
        return client.send("call", tool="system.memory", args={}, cwd=cwd, id=name), None

    def words(client: Client, name: str) -> tuple[int, None]:
        return client.send("ask", text="do something", cwd=cwd, id=name), None

    return [command, change, question, words]


def make_requests(
    daemon: support.Daemon, folder: Path, chance: random.Random, number: int
) -> tuple[list[Client], Round]:
    found, clients = Round(), [daemon.connect() for _ in range(CONNECTIONS)]
    for index in range(chance.randint(4, 12)):
        name, connection = f"k{number}-{index}", index % CONNECTIONS
        sent, marker = chance.choice(kinds(folder))(clients[connection], name)
        found.asked.append(Asked(name, sent, connection, marker))
    return clients, found


def hear(clients: list[Client], found: Round) -> None:
    """Read what had come before the end."""
    by_id = {one.id: one for one in found.asked}
    by_number = {(one.connection, one.number): one for one in found.asked}
    for connection, client in enumerate(clients):
        client.sock.settimeout(2)
        with contextlib.suppress(OSError):
            while (frame := client.receive()) is not None:
                if one := by_id.get(frame.get("params", {}).get("id", "")):
                    one.heard = True
                elif one := by_number.get((connection, frame.get("id", 0))):
                    one.answered, one.answer = True, frame.get("result")
        client.close()


def kill(daemon: support.Daemon) -> None:
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait()


def check(found: Round, client: Client) -> None:
    entries: dict[str, list[JsonObject]] = {}
    for entry in client.result("history", limit=1000)["entries"]:
        entries.setdefault(entry["id"], []).append(entry)
    for one in found.asked:
        told = entries.get(one.id, [])
        statuses = {entry["status"] for entry in told}
        if one.heard and not told and not one.answered:
            found.problems.append(f"{one.id} was accepted, and nothing is said of it")
        # Of an answer in words alone there is nothing to be judged, so it is not in the history.
        if one.answer and one.answer["calls"] and one.answer["status"] == "done" and "done" not in statuses:
            found.problems.append(f"{one.id} was answered, and the history says {statuses}")
        found.interrupted += "interrupted" in statuses
        if one.marker and "done" in statuses and one.marker.read_text() != f"{one.id}\n":
            found.problems.append(f"{one.id} is told as done, and is not")


def campaign(folder: Path, env: dict[str, str], chance: random.Random, kills: int) -> list[Round]:
    """Work, kill, start, look, and again; each start after a kill is timed."""
    daemon, rounds = support.start(folder, SCRIPT, env=env), []
    try:
        for number in range(kills):
            with daemon.connect() as client:
                client.result("tools")  # waits until all is loaded
            clients, found = make_requests(daemon, folder / "work", chance, number)
            time.sleep(chance.random() * MAX_DELAY_S)
            kill(daemon)
            hear(clients, found)
            began = time.perf_counter()
            daemon = support.start(folder, SCRIPT, env=env)
            found.restart_ms = (time.perf_counter() - began) * 1000
            with daemon.connect() as client:
                client.result("history", limit=1)
                found.served_ms = (time.perf_counter() - began) * 1000
                # The clock of another process: clock_getcpuclockid(3).
                found.served_cpu_ms = time.clock_gettime((~daemon.process.pid << 3) | 2) * 1000
                check(found, client)
                if running := client.result("status")["requests"]:
                    found.problems.append(f"still running: {running}")
            rounds.append(found)
    finally:
        daemon.stop(signal.SIGTERM)
    return rounds


def environment(folder: Path) -> dict[str, str]:
    for name in ("home", "work", "run"):
        (folder / name).mkdir(mode=0o700)
    home = {"HOME": str(folder / "home"), "XDG_STATE_HOME": str(folder / "home/state")}
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **own,  # an installation has its bytecode
        **home,
        "XDG_CONFIG_HOME": str(folder / "home/config"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
    }


def leftovers(folder: Path) -> list[str]:
    """Processes and control groups of daemons that are gone."""
    places = set(cgroups.find(prepare=False).folders.values())
    names = {name for place in places for name in os.listdir(place)}
    of_calls = [match for name in names if (match := re.fullmatch(r"llmos-(\d+)\.\d+\.\d+", name))]
    groups = [match[0] for match in of_calls if not cgroups.started(int(match[1]))]
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()
    return [*groups, *(f"process {pid}" for pid in found if int(pid) != os.getpid())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="llmos-", dir="/tmp") as name:
        folder = Path(name)
        env = environment(folder)
        rounds = campaign(folder, env, chance, options.kills)
        left = leftovers(folder)
    restarts, served = (
        sorted(times) for times in zip(*((r.restart_ms, r.served_ms) for r in rounds), strict=True)
    )
    problems = [problem for found in rounds for problem in found.problems]
    summary = {
        "kills": options.kills,
        "requests": sum(len(found.asked) for found in rounds),
        "accepted": sum(one.heard for found in rounds for one in found.asked),
        "interrupted": sum(found.interrupted for found in rounds),
        "problems": problems,
        "left": left,
        "restart_p50_ms": round(statistics.median(restarts), 1),
        "restart_max_ms": round(restarts[-1], 1),
        "served_p50_ms": round(statistics.median(served), 1),
        "served_max_ms": round(served[-1], 1),
        "served_cpu_p50_ms": round(statistics.median(found.served_cpu_ms for found in rounds), 1),
    }
    report(
        "kills",
        [{"what": "kill -9", **{k: v for k, v in summary.items() if isinstance(v, int | float)}}],
        summary,
    )
    if problems:
        sys.exit(json.dumps(problems[:5]))


if __name__ == "__main__":
    main()
