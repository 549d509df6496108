"""What seeing the effect first costs: `python -m tests.bench.effects [--rounds N] [--files N]`.

A command that changes some files among many, run straight (the sandbox alone) and with everything around it:
the stage, the run on it, finding the changes, telling them, the commit, and the undo. Straight and staged
runs are interleaved, so that both see the same machine. Wall time; nothing is judged here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from llmos.guard import changes, commit, staging, summary, turning
from llmos.guard.commit import Rehearsed
from llmos.messages import Caller, new_id
from tests.bench.report import report
from tests.guard.boxes import Bench
from tests.guard.rehearsing import entry, permit

COMMANDS = {
    "one line of one file": "sed -i s/1/one/ d0/f0",
    "100 files made": "mkdir new; for n in $(seq 100); do echo $n > new/$n; done; rm -r d1; mkdir d1",
    "a tree deleted": "rm -r d2",
}
_T = TypeVar("_T")


class Watch:
    """Milliseconds by phase."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)

    def time(self, phase: str, work: Callable[[], _T]) -> _T:
        began = time.perf_counter()
        result = work()
        self.taken[phase].append((time.perf_counter() - began) * 1000)
        return result


def furnish(folder: Path, files: int) -> None:
    for number in range(files):
        place = folder / f"d{number % 10}" / f"f{number}"
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"{number}\n" * 20)


def straight(bench: Bench, command: str, watch: Watch) -> None:
    """Run it on the files themselves, then put them back by hand, outside the clock."""
    watch.time("straight", lambda: asyncio.run(bench.spawner.run(permit(bench, None, command))))


def staged(bench: Bench, command: str, watch: Watch) -> None:
    stage = watch.time("stage", lambda: staging.create(new_id(), [str(bench.folder)]))
    granted, started_ns = permit(bench, stage, command), commit.now_ns()
    watch.time("run", lambda: asyncio.run(bench.spawner.run(granted)))
    found = watch.time("find", lambda: changes.find(stage))
    watch.time("tell", lambda: summary.of_stage(stage, found))
    rehearsed = Rehearsed(stage, found, started_ns, {})
    undo_id = watch.time("commit", lambda: commit.commit(granted, rehearsed))
    stage.discard()
    watch.time("undo", lambda: turning.turn(permit(bench, None), turning.reversal(entry(undo_id))))


def measure(command: str, rounds: int, files: int) -> dict[str, float]:
    watch = Watch()
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        os.environ["XDG_STATE_HOME"] = str(Path(top, "state"))
        folder = Path(top, "work")
        for number in range(rounds + 1):
            for way in (straight, staged):
                place = folder / f"{way.__name__}{number}"
                place.mkdir(parents=True)
                furnish(place, files)
                bench = Bench(place, Caller(uid=os.geteuid(), gid=os.getegid()))
                bench.shell("true")  # the launcher is up
                time.sleep(0.02)
                way(bench, command, watch if number else Watch())
                bench.spawner.close()
    return {phase: statistics.median(times) for phase, times in watch.taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--files", type=int, default=1000)
    options = parser.parse_args()
    rows = []
    for name, command in COMMANDS.items():
        found = measure(command, options.rounds, options.files)
        seen = sum(found[phase] for phase in ("stage", "run", "find", "tell"))
        row: dict[str, str | float] = {"change": name}
        row |= {f"{phase}_ms": value for phase, value in found.items()}
        rows.append(row | {"seen_first_over_straight_ms": seen - found["straight"]})
    summary_line = {"files": options.files, "rounds": options.rounds, "root": os.geteuid() == 0}
    report("effects", rows, summary_line)


if __name__ == "__main__":
    main()
