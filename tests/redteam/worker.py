"""Runs probes for one kind of caller, one after the other, and prints a line of JSON for each.

    python -m tests.redteam.worker --who plain --runner llmos,none --part 0/2

Started by apart.py, in namespaces of its own where root could make them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from tests.redteam import batch, runners
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
        return Tried(probe.id, probe.group, self._who, name, tuple(harms), said, round(ms, 1))

    def together(self, probes: list[Probe], name: str, runner: runners.Runner) -> Iterator[Tried]:
        """Of a batch in which anything happened, or which came to no end, each is tried alone."""
        if len(probes) > 1:
            whole = self.tried(batch.of(probes, self._world), name, runner)
            said = batch.said_by_each(whole.said, len(probes))
            if said is not None and not whole.harms:
                for probe, words in zip(probes, said, strict=True):
                    ms = round(whole.ms / len(probes), 1)
                    yield Tried(probe.id, probe.group, self._who, name, (), words, ms)
                return
        for probe in probes:
            yield self.tried(probe, name, runner)

    def all(self, probes: list[Probe], names: list[str], *, batched: bool) -> None:
        for name in names:
            wanted = [
                probe
                for probe in (ALIVE, *probes)
                if self._who in probe.who and (probe.control or name != "none")
            ]
            runner = runners.make(name, self._world)
            try:
                for some in batch.batches(wanted) if batched else ([probe] for probe in wanted):
                    for tried in self.together(some, name, runner):
                        print(json.dumps(asdict(replace(tried, said=tried.said[-600:]))), flush=True)
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
    parser.add_argument("--batched", action="store_true", help="many in one sandbox where that does no harm")
    given = parser.parse_args()
    number, of = map(int, given.part.split("/"))
    probes = [probe for probe in load() if fnmatch(probe.id, given.only)][:: given.every]
    probes = probes[number::of]
    worker = Worker(given.who, given.top, given.uid)
    try:
        worker.all(probes, given.runner.split(","), batched=given.batched)
    finally:
        worker.close()


if __name__ == "__main__":
    main()
