"""One goal's loop: look at both sides, let the controller decide, set what it says.

The weight is one of CPU, and of disks where their scheduler knows weights; the quota is of CPU alone.
How long the protected waits is the kernel's own count of the time its threads were ready to run and did not
(schedstat(5): run delay). That is waiting for a CPU; waiting for memory and disks is not in it. Limits are
set through resource.limit, so by systemd, cgroup v2 or v1, whichever is there, verified by reading back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import LlmosError
from llmos.messages import Caller, JsonObject
from llmos.toolbox import control, goals, limits, processes, resources, targets
from llmos.toolbox.context import Context, ProcessInfo
from llmos.toolbox.control import Reading, State
from llmos.toolbox.goals import Goal, Standing

LOOK_UP_S = 5.0  # names are looked up again so often: new processes are found, at little cost
_ACTIVE = 0.02  # of a CPU, wanted or used: below that a program sleeps and wakes now and then
_MUCH = 0.2  # of a CPU: who uses that is in the way, where nobody is named
Note = Callable[[str, JsonObject], object]


class GoalLoop:
    """Keeps one goal. Not for two threads at once."""

    def __init__(self, goal: Goal, note: Note) -> None:
        self.goal, self._note = goal, note
        self._caller = Caller(uid=goal.uid, gid=goal.gid)
        self._context = Context(cwd="/", home="/", uid=goal.uid)
        self._state = State()
        self._set: dict[int, tuple[ProcessInfo, State]] = {}  # whom we restrain, and how
        self._protected: tuple[ProcessInfo, ...] = ()
        self._others: tuple[ProcessInfo, ...] = ()
        self._looked_up = self._at = 0.0
        self._delays: dict[str, tuple[int, int]] = {}
        self._used: dict[int, float] = {}
        self._trouble: dict[int, str] = {}

    @property
    def told(self) -> str:
        return goals.standing(self.goal).told

    def tick(self) -> None:
        """One look, and what follows from it. Trouble is told in the goal's standing, not raised."""
        now = time.monotonic()
        if now - self._looked_up >= LOOK_UP_S:
            self._look_up(now)
        reading = self._read(now - self._at if self._at else 0.0)
        self._at = now
        self._state = control.step(self._state, reading)
        goals.STANDING[self.goal.id] = Standing(
            tuple(one.pid for one in self._protected), tuple(one.pid for one in self._others),
            reading.waited * 100, self._state.share * 100, self._state.behind, self._act(),
        )  # fmt: skip

    def give_back(self) -> None:
        """Take off all that this goal has set."""
        self._state = State()
        self._act()
        goals.STANDING.pop(self.goal.id, None)

    # --- looking ---

    def _look_up(self, now: float) -> None:
        self._protected = goals.named(self.goal.protect, self._context)
        against = self.goal.against
        self._others = goals.named(against, self._context) if against else tuple(self._in_the_way(now))
        self._looked_up = now

    def _in_the_way(self, now: float) -> Iterable[ProcessInfo]:
        """The owner's other processes that used much CPU since the last time, and those held back already."""
        family = set(self._family(self._protected))
        before, self._used = self._used, {}
        over_s = now - self._looked_up
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.uids().real != self.goal.uid or process.pid in family:
                    continue
                times = process.cpu_times()
                self._used[process.pid] = times.user + times.system
                used = self._used[process.pid] - before.get(process.pid, self._used[process.pid])
                busy = process.pid in self._set or used > _MUCH * over_s
                if busy and not processes.is_protected(process) and not _above(process.pid, family):
                    yield self._context.find_processes(str(process.pid))[0]

    def _family(self, roots: Iterable[ProcessInfo]) -> list[int]:
        return targets.family([one.pid for one in roots], self._caller)

    def _read(self, over_s: float) -> Reading:
        ran, waited = self._moved(self._family(self._protected))
        used, wanted = self._moved(self._family(self._others))
        if over_s <= 0:
            return Reading(0.0, protected_active=False, others_active=False)
        all_s = over_s * (psutil.cpu_count() or 1)
        return Reading(
            waited / (ran + waited) if ran + waited else 0.0,
            protected_active=(ran + waited) / over_s > _ACTIVE,
            others_active=(used + wanted) / over_s > _ACTIVE,
            protected_use=ran / all_s,
            others_use=used / all_s,
        )

    def _moved(self, pids: Iterable[int]) -> tuple[float, float]:
        """Seconds run and waited since the last look, of all threads."""
        ran = waited = 0
        for pid in pids:
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError, ValueError):
                    a, b = (int(word) for word in file.read_text().split()[:2])
                    old = self._delays.get(str(file), (a, b))
                    ran, waited = ran + a - old[0], waited + b - old[1]
                    self._delays[str(file)] = (a, b)
        if len(self._delays) > 10_000:  # threads that have gone
            self._delays = {path: row for path, row in self._delays.items() if Path(path).exists()}
        return max(0, ran) / 1e9, max(0, waited) / 1e9

    # --- acting ---

    def _act(self) -> str:
        """Bring everybody to what holds now; returns what went wrong, as long as it is so."""
        there = {one.pid: one for one in self._others} if self._state.restrains else {}
        for pid, (info, _) in tuple(self._set.items()):
            if pid not in there:
                del self._set[pid]
                self._trouble[pid] = self._do("release", info)
        for pid, info in there.items():
            known = self._set.get(pid)
            if known is None or _setting(known[1]) != _setting(self._state):
                self._set[pid] = (info, self._state)
                self._trouble[pid] = self._do("limit", info)
        self._trouble = {pid: text for pid, text in self._trouble.items() if text and pid in self._set}
        return next(iter(self._trouble.values()), "")

    def _do(self, what: str, info: ProcessInfo) -> str:
        args: JsonObject = {
            "label": f"{info.name} ({info.pid})", "known": [{"pid": info.pid, "started": info.started}],
        }  # fmt: skip
        facts: JsonObject = {"uid": self.goal.uid, "goal": self.goal.told, "pid": info.pid, "action": what}
        try:
            if what == "limit":
                args["limits"] = facts["limits"] = self._limits()
                text = resources.change_limits(args, self._caller).text
            else:
                text = resources.release(args, self._caller).text
        except (LlmosError, OSError) as error:
            if not psutil.pid_exists(info.pid):
                return ""
            self._note(self.goal.id, {**facts, "error": str(error)})
            return f"{what} of {info.pid}: {error}"
        self._note(self.goal.id, {**facts, "result": text})
        return ""

    def _limits(self) -> JsonObject:
        """The share is of all CPUs, for all who yield together."""
        percent, weight = _setting(self._state)
        cpus = psutil.cpu_count() or 1
        most = max(1, percent * cpus // max(1, len(self._others)))
        found = {"cpu": 100 * cpus if percent == 100 else most, "cpu_weight": weight}
        # Disks by the same weight: whoever comes last does so there too, and has all that is left.
        return found | ({"io_weight": weight} if limits.weighs_io() else {})


def _setting(state: State) -> tuple[int, int]:
    return round(state.share * 100), state.weight


def _above(pid: int, family: set[int]) -> bool:
    """Whether it is a parent of somebody there: who holds it back holds them back."""
    return any(pid in {parent.pid for parent in psutil.Process(one).parents()} for one in family)
