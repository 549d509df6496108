"""What judging costs: `python -m tests.bench.policy [--rounds N]`.

Plans of several sizes in a real folder, judged by the shipped default set through the gate (paths are
followed, looked up and classified, Cedar asked). `alike` are names that no rule tells apart; `looked at`
has one rule more, which looks at each name. Also: reading a command, and reading all rules.
Wall and CPU time, since other work on the machine makes the first one wait. No threshold is judged here.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llmos import paths
from llmos.guard.policy import Policy
from llmos.messages import Effects, Plan, ToolCall
from tests.bench.report import report
from tests.guard import judging

SIZES = (1, 5, 50, 500, 2000)
LOOKS_AT_NAMES = """
[[rule]]
id = "bench.names"
decision = "ask"
why = "for this measurement"
when = 'context.path like "*/never/*"'
match = [{ reads = ["never/x"] }]
"""


def _measure(work: Callable[[], object], rounds: int) -> dict[str, float]:
    wall_ms, cpu_ms = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.thread_time()
        work()
        cpu_ms.append((time.thread_time() - cpu) * 1000)
        wall_ms.append((time.perf_counter() - wall) * 1000)
    return {
        "median_ms": statistics.median(wall_ms),
        "p95_ms": sorted(wall_ms)[int(len(wall_ms) * 0.95)],
        "cpu_median_ms": statistics.median(cpu_ms),
    }


def _plan(folder: Path, size: int) -> Plan:
    names = tuple(f"{folder}/file-{number}" for number in range(size))
    call = ToolCall(tool="shell.run")
    return Plan(call=call, command="x", effects=Effects(deletes=names), steps=(), read_only=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    rows: list[dict[str, str | int | float]] = []
    with tempfile.TemporaryDirectory() as top:
        (looking := Path(top, "looking")).mkdir()
        (looking / "x.toml").write_text(LOOKS_AT_NAMES)
        places = {
            "alike": judging.make(Path(top, "a")),
            "looked at": judging.make(Path(top, "b"), "default", looking),
        }
        for what, place in places.items():
            for size in SIZES:
                plan = place.gate.expand(_plan(place.folder, size), cwd=str(place.folder), home="/home/x")

                def judge(place: judging.Place = place, plan: Plan = plan) -> object:
                    return place.gate.judge(plan, judging.CALLER, cwd=str(place.folder))

                judge()
                found = _measure(judge, max(5, rounds // size))
                rows.append({"what": f"judge, names {what}", "effects": size, **found})
        place = places["alike"]
        for command in ("ls -la", "cat notes.txt | sort | uniq -c | sort -rn | head", "rm -r build"):
            work = lambda command=command: place.plan(command)  # noqa: E731 - one line, three uses
            rows.append({"what": f"expand {command}", "effects": 0, **_measure(work, rounds)})
        load = lambda: Policy.load("default", (paths.builtin_policy_dir(),))  # noqa: E731 - as above
        rows.append({"what": "load all rules, run their examples", "effects": 0, **_measure(load, 5)})
    few = next(row for row in rows if row["effects"] == 5)
    report("policy", rows, {"five_effects_ms": few["median_ms"], "five_effects_cpu_ms": few["cpu_median_ms"]})


if __name__ == "__main__":
    main()
