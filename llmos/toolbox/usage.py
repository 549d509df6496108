"""resource.status: what the machine, a process with its children or a user takes of it, and what bounds them.

Rates are measured over half a second. Pressure (PSI) is the share of time in which something waited for a
resource (kernel: accounting/psi); a control group has its own where the kernel counts it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import CallFailed, UsageError
from llmos.messages import Caller, JsonObject, Observe
from llmos.toolbox import groups, system, targets
from llmos.toolbox.containers import meant
from llmos.toolbox.context import Args, Context, Draft, Pair
from llmos.toolbox.targets import Known
from llmos.toolbox.values import human_duration, human_size, shown, table

_SAMPLE_S = 0.5
_BUSIEST = 5
_COMMAND_CHARS = 60


def plan(args: Args, context: Context) -> Draft:
    if not (args["target"] or "").strip():
        return Draft((Observe(observer="resource.status", args={"uid": context.uid}),), command="resources")
    tool = "resource.status"
    target = targets.resolve(args["target"], context, kind=args["kind"] or "", every=True, tool=tool)
    if not target.roots:
        where = "docker.container.inspect" if target.container else "service.status"
        raise UsageError(f"{tool}: nothing of {target.label} runs", f"See: llmos call {where}")
    told = {"label": target.label, "known": [one.model_dump() for one in target.known], "uid": context.uid}
    return Draft((Observe(observer=tool, args=told),), command=f"resources of {target.label}")


def status(args: JsonObject) -> str:
    if "known" not in args:
        return _machine()
    # Looking hurts nobody: the processes are found as root would, and counted whosever they are.
    known = [Known.model_validate(one) for one in args["known"]]
    pids = targets.family(targets.still(known, Caller(uid=0, gid=0)), Caller(uid=0, gid=0))
    return _of_processes(str(args["label"]), pids)


# --- the machine ---------------------------------------------------------------------------------------


def _machine() -> str:
    before, began = psutil.disk_io_counters(), time.monotonic()
    busiest = sampled(psutil.pids())
    after, took_s = psutil.disk_io_counters(), time.monotonic() - began
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    rows = [
        ("CPU", f"{psutil.cpu_percent():.0f} % of {psutil.cpu_count()} CPUs in use, load {_load()}"),
        ("Memory", f"{human_size(memory.used)} of {human_size(memory.total)} used, "
                   f"{human_size(memory.available)} available"),
        ("Swap", f"{human_size(swap.used)} of {human_size(swap.total)} used" if swap.total else "none"),
        *((f"{name} pressure", text) for name, text in system.pressure()),
        *_disk_rate(before, after, took_s),
    ]  # fmt: skip
    return table(rows) + "\n" + system.disk({}) + "\n" + _table_of_busiest(busiest) + _limited()


def _load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _disk_rate(before: object, after: object, took_s: float) -> Iterator[tuple[str, str]]:
    if before is None or after is None:  # a container without /proc/diskstats
        return
    read, written = (
        max(0, getattr(after, name) - getattr(before, name)) / took_s
        for name in ("read_bytes", "write_bytes")
    )
    yield "Disk I/O", f"{human_size(read)} read and {human_size(written)} written a second"


def _table_of_busiest(found: Sequence[Sample]) -> str:
    by_cpu = sorted(found, key=lambda one: -one.cpu_percent)[:_BUSIEST]
    by_memory = sorted(found, key=lambda one: -one.resident_bytes)[:_BUSIEST]
    rows: list[tuple[str, ...]] = [("PID", "USER", "CPU%", "MEMORY", "COMMAND")]
    rows += [one.cells for one in dict.fromkeys((*by_cpu, *by_memory))]
    return table(rows, frozenset({0, 2, 3}))


def _limited() -> str:
    """What llmos limits now."""
    lines = []
    for folder in sorted(set(groups.ours()), key=str):
        if pids := groups.pids_in(folder):
            lines.append(f"  {', '.join(map(str, pids[:10]))}: {groups.limits_of([folder]).told}\n")
    return "\nLimited by llmos:\n" + "".join(dict.fromkeys(lines)) if lines else ""


# --- processes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process takes, measured over a moment."""

    pid: int
    user: str
    command: str
    cpu_percent: float
    cpu_s: float
    resident_bytes: int
    threads: int
    read_bytes_s: float | None  # None: it may not be seen
    written_bytes_s: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        size = human_size(self.resident_bytes)
        return str(self.pid), self.user, f"{self.cpu_percent:.1f}", size, self.command


def sampled(pids: Sequence[int]) -> list[Sample]:
    """Each process, less those that ended meanwhile."""
    before = {pid: found for pid in pids if (found := _counters(pid)) is not None}
    began = time.monotonic()
    time.sleep(_SAMPLE_S)
    took_s = time.monotonic() - began
    samples = (_sample(pid, old, took_s) for pid, old in before.items())
    return [one for one in samples if one is not None]


_Counters = tuple[float, int | None, int | None]


def _counters(pid: int) -> _Counters | None:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
    except psutil.Error:
        return None
    try:
        io = process.io_counters()
        return times.user + times.system, io.read_bytes, io.write_bytes
    except (psutil.Error, OSError):
        return times.user + times.system, None, None


def _sample(pid: int, old: _Counters, took_s: float) -> Sample | None:
    new = _counters(pid)
    if new is None:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            command = shown(" ".join(process.cmdline()) or f"[{process.name()}]")[:_COMMAND_CHARS]
            rates = [(b - a) / took_s if a is not None and b is not None else None
                     for a, b in zip(old[1:], new[1:], strict=True)]  # fmt: skip
            return Sample(
                pid, process.username(), command, (new[0] - old[0]) * 100 / took_s, new[0],
                process.memory_info().rss, process.num_threads(), *rates,
            )  # fmt: skip
    except psutil.Error:
        return None


def _of_processes(label: str, pids: Sequence[int]) -> str:
    found = sampled(pids)
    if not found:
        raise CallFailed(f"{label} has ended", "List the processes again.")
    total = psutil.virtual_memory().total
    resident = sum(one.resident_bytes for one in found)
    rows = [
        ("Of", label),
        ("Processes", f"{len(found)}, with {sum(one.threads for one in found)} threads"),
        ("CPU", f"{sum(one.cpu_percent for one in found):.1f} % of a CPU now, "
                f"{human_duration(sum(one.cpu_s for one in found))} in all"),
        ("Memory", f"{human_size(resident)} resident ({resident * 100 / total:.1f} % of the machine's)"
                   + _own_memory(found)),
        ("Disk I/O", _io(found)),
        *_bounds(pids[0]),
    ]  # fmt: skip
    most = table([("PID", "USER", "CPU%", "MEMORY", "COMMAND"), *(one.cells for one in _largest(found))],
                 frozenset({0, 2, 3}))  # fmt: skip
    return table(rows) + ("\n" + most if len(found) > 1 else "")


def _largest(found: Sequence[Sample]) -> list[Sample]:
    return sorted(found, key=lambda one: (-one.cpu_percent, -one.resident_bytes))[:10]


def _own_memory(found: Sequence[Sample]) -> str:
    """Shared pages divided by who shares them, where that may be seen."""
    total = 0
    for one in found[:50]:
        try:
            total += psutil.Process(one.pid).memory_full_info().pss
        except (psutil.Error, OSError):
            return ""
    return f", {human_size(total)} with shared pages shared out" if len(found) <= 50 else ""


def _io(found: Sequence[Sample]) -> str:
    read = [one.read_bytes_s for one in found if one.read_bytes_s is not None]
    written = [one.written_bytes_s for one in found if one.written_bytes_s is not None]
    if not read:
        return "not to be seen (other users' processes)"
    return f"{human_size(sum(read))} read and {human_size(sum(written))} written a second"


# --- control groups ------------------------------------------------------------------------------------


def _bounds(pid: int) -> Iterator[tuple[str, str]]:
    """The control groups of a process: what they hold and bound, and how much is waited in them."""
    seen = set()
    for controller, tree in sorted(groups.trees().items()):
        if controller not in _FACTS:
            continue
        with contextlib.suppress(CallFailed):
            folder = tree.folder(pid, controller)
            for name, text in _FACTS[controller](folder):
                yield name, text
            seen.add(folder)
    for folder in sorted(seen):
        for name in ("cpu", "memory", "io"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                yield f"{name.capitalize()} pressure", _psi((folder / f"{name}.pressure").read_text())
    if limits := groups.limits_of(sorted(groups.ours_of(pid))).told:
        yield "Limited by llmos", limits
    if seen:
        yield "Control groups", ", ".join(sorted(map(str, seen)))


def _psi(text: str) -> str:
    shares = dict(word.split("=") for word in text.splitlines()[0].split()[1:])
    return f"{shares['avg10']}% (10 s)  {shares['avg60']}% (60 s)"


def _memory_facts(folder: Path) -> Iterator[tuple[str, str]]:
    first = (folder / "memory.usage_in_bytes").exists()
    used, most = (
        ("memory.usage_in_bytes", "memory.limit_in_bytes") if first else ("memory.current", "memory.max")
    )
    with contextlib.suppress(OSError, ValueError):
        now = int((folder / used).read_text())
        bound = (folder / most).read_text().strip()
        none = bound == "max" or int(bound) >= 1 << 62
        yield "Group's memory", f"{human_size(now)}, {'no limit' if none else 'of ' + human_size(int(bound))}"


def _cpu_facts(folder: Path) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        stat = {name: int(value) for name, value in lines}
        if stat.get("nr_throttled"):
            yield "Group throttled", f"in {stat['nr_throttled']} of {stat['nr_periods']} periods"


def _pids_facts(folder: Path) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError):
        most = (folder / "pids.max").read_text().strip()
        yield "Group's tasks", f"{(folder / 'pids.current').read_text().strip()} of {most}"


_FACTS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "cpu": _cpu_facts,
    "memory": _memory_facts,
    "pids": _pids_facts,
}

PAIRS = {"resource.status": Pair(plan, prepare=meant.ready)}
OBSERVERS: dict[str, Callable[[JsonObject], str]] = {"resource.status": status}
