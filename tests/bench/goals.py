"""What a standing goal is worth: a latency-sensitive program beside hogs, and what the hogs keep.

    python -m tests.bench.goals [--seconds 8] [--hogs cpu,memory,io]

The victim works for some 2 ms, sleeps for 5 ms and measures how long each piece took. Beside it a hog:
twice as many busy processes as CPUs, as many that write through 96 MB each, or that write and sync files.
Each with no goal, with nice 19 on the hog, and with the goal, kept by the very loop of the daemon. Ratios are
of the victim's p95 to that without a hog, measured right before; `kept` is the hog's share of the CPU time
that the victim left over. Needs root, or delegated control groups, and a machine that is otherwise idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from llmos.toolbox.goalloop import GoalLoop
from llmos.toolbox.goals import Goal
from tests.bench import report

CPUS = os.cpu_count() or 1
WARM_S = 4.0  # the loop's first looks, for every mode alike
TICK_S = 1.0
VICTIM = """
import sys, time
def work():
    x = 0
    for i in range(40000): x += i * i
    return x
end = time.monotonic() + float(sys.argv[1])
warm = time.monotonic() + float(sys.argv[2])
took = []
while (now := time.monotonic()) < end:
    work()
    if now > warm: took.append(time.monotonic() - now)
    time.sleep(0.005)
print(' '.join(f'{one:.6f}' for one in took))
"""
HOGS = {
    "cpu": "while True: pass",
    "memory": "held = bytearray(96 << 20)\nwhile True: held[::64] = b'x' * len(held[::64])",
    "io": "import os, tempfile\nfile = tempfile.TemporaryFile(dir='.')\n"
    "while True: file.seek(0); file.write(b'x' * (4 << 20)); file.flush(); os.fsync(file.fileno())",
}
FORK = "import os, sys\nfor _ in range(int(sys.argv[1]) - 1):\n if os.fork() == 0: break\n"


@dataclass(frozen=True)
class Measured:
    p95_ms: float
    hog_cpu_s: float
    victim_cpu_s: float
    over_s: float

    @property
    def kept(self) -> float:
        return self.hog_cpu_s / max(0.01, CPUS * self.over_s - self.victim_cpu_s)


@contextmanager
def started(code: str, *args: str, nice: int = 0) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A program below a shell of its own, as children of llmos itself are never touched."""
    with tempfile.TemporaryDirectory() as folder:
        shell = subprocess.Popen(
            ["nice", "-n", str(nice), "sh", "-c", '"$@" & echo $!; wait', "sh", sys.executable, "-c", code,
             *args],
            stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=folder,
        )  # fmt: skip
        assert shell.stdout
        try:
            yield int(shell.stdout.readline()), shell
        finally:
            os.killpg(shell.pid, 9)
            shell.communicate()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children."""
    root = psutil.Process(pid)
    total = 0.0
    for one in (root, *root.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def measure(hog: str, mode: str, seconds: float) -> Measured:
    """One run; an empty hog is the victim alone."""
    with started(FORK + HOGS.get(hog, "import time\ntime.sleep(600)"), str(2 * CPUS if hog else 1),
                 nice=19 if mode == "nice" else 0) as (hog_pid, _):  # fmt: skip
        time.sleep(0.3)
        with started(VICTIM, str(WARM_S + seconds), str(WARM_S)) as (victim, shell):
            return _watched(hog_pid, victim, shell, mode, seconds)


def _watched(hog_pid: int, victim: int, shell: subprocess.Popen[str], mode: str, seconds: float) -> Measured:
    goal = Goal(id="bench", uid=os.geteuid(), gid=os.getegid(), protect=str(victim), against=str(hog_pid),
                created=0.0)  # fmt: skip
    loop = GoalLoop(goal, lambda goal_id, facts: None) if mode == "goal" else None
    began = time.monotonic()
    _keep(loop, began + WARM_S)
    before = cpu_s(hog_pid), cpu_s(victim), time.monotonic()
    _keep(loop, began + WARM_S + seconds - 0.3)
    after = cpu_s(hog_pid), cpu_s(victim), time.monotonic()
    assert shell.stdout
    took = [float(word) for word in shell.stdout.readline().split()]
    if loop:
        loop.give_back()
    p95_ms = statistics.quantiles(took, n=20)[18] * 1000
    return Measured(p95_ms, after[0] - before[0], after[1] - before[1], after[2] - before[2])


def _keep(loop: GoalLoop | None, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        if loop:
            loop.tick()
        time.sleep(min(TICK_S, left))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--hogs", default="cpu,memory,io")
    options = parser.parse_args()
    rows = []
    for hog in options.hogs.split(","):
        alone = measure("", "none", options.seconds / 2)
        for mode in ("none", "nice", "goal"):
            found = measure(hog, mode, options.seconds)
            rows.append({"hog": hog, "mode": mode, "p95_ms": round(found.p95_ms, 2),
                         "of_unloaded": round(found.p95_ms / alone.p95_ms, 2),
                         "kept": round(found.kept, 2)})  # fmt: skip
            print(rows[-1], flush=True)
    report.report("goals", rows, {"seconds": options.seconds})


if __name__ == "__main__":
    main()
