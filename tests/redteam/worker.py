"""Runs probes for one kind of caller, one after the other, and prints a line of JSON for each.

    python -m tests.redteam.worker --who plain --runner llmos,none --part 0/2

Started by apart.py, in namespaces of its own where root could make them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.redteam import runners
from tests.redteam.probe import Probe, load
from tests.redteam.world import Peak, World

# What every sandbox must let through; one that cannot start has blocked nothing.
ALIVE = Probe("alive", "", "read and write in the folder", sh="echo x > made && cat notes")


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one probe under one runner."""

    id: str
    group: str
    who: str
    runner: str
    harms: tuple[str, ...]
    said: str  # the end of its output, for people
    ms: float


class Worker:
    def __init__(self, who: str, top: Path, uid: int) -> None:
        self._who, self._top, self._uid = who, top, uid
        self._world = self._build()

    def _build(self) -> World:
        broker_home = self._top / "broker" if self._who == "service" else None
        return World(self._top, self._uid, broker_home)

    def tried(self, probe: Probe, name: str, runner: runners.Runner) -> Tried:
        world = self._world
        world.fresh()
        began = time.monotonic()
        with Peak(world.token, probe) as peak:
            said = runner.run(probe, world)
        ms = (time.monotonic() - began) * 1000
        harms = world.harms(said, probe, peak)
        if harms:  # whatever was bitten, the next probe meets a whole world
            world.close()
            self._world = self._build()
        return Tried(probe.id, probe.group, self._who, name, tuple(harms), said[-600:], round(ms, 1))

    def all(self, probes: list[Probe], names: list[str]) -> None:
        for name in names:
            runner = runners.make(name, self._world)
            try:
                for probe in (ALIVE, *probes):
                    if self._who in probe.who and (probe.control or name != "none"):
                        print(json.dumps(asdict(self.tried(probe, name, runner))), flush=True)
            finally:
                runner.close()

    def close(self) -> None:
        self._world.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--who", default="root" if os.geteuid() == 0 else "plain")
    parser.add_argument("--uid", type=int, default=os.geteuid(), help="the caller's")
    parser.add_argument("--top", type=Path, required=True)
    parser.add_argument("--runner", default="llmos", help="several with commas")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--only", default="*")
    parser.add_argument("--every", type=int, default=1, help="every n-th probe only")
    given = parser.parse_args()
    number, of = map(int, given.part.split("/"))
    probes = [probe for probe in load() if fnmatch(probe.id, given.only)][:: given.every]
    probes = probes[number::of]
    worker = Worker(given.who, given.top, given.uid)
    try:
        worker.all(probes, given.runner.split(","))
    finally:
        worker.close()


if __name__ == "__main__":
    main()
