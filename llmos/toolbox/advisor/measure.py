"""The facts of this machine, looked at for some two seconds, with what was noted before.

Whose open files are told is asked of `processfacts.may_see`, as observers run in the broker: a plain user
learns of other users' processes what ps shows, and of logs only those that everybody may read. What cannot
be looked at (no systemd, no control groups) is named in the facts; nothing here changes anything.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.toolbox import processes, processfacts
from llmos.toolbox.advisor import bounds, containers, facts, kernel, units
from llmos.toolbox.advisor.facts import Facts, Series
from llmos.toolbox.values import shown

_TAKES = 6
_PAUSE_S = 0.4
_NOTE_S, _NOTED = 60.0, 120  # two hours
_NOTED_PROCESSES = 40  # the largest ones
_MOST_LOGS = 2000
_COMMAND_CHARS = 120
_WRITES = os.O_WRONLY | os.O_RDWR
# File systems that hold no data of anybody's.
_NOT_DISKS = {
    "proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "devpts", "mqueue", "debugfs", "tracefs", "securityfs",
    "pstore", "bpf", "configfs", "fusectl", "hugetlbfs", "autofs", "binfmt_misc", "nsfs", "squashfs",
    "efivarfs", "ramfs", "rpc_pipefs", "iso9660",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Seen:
    """One process at one moment."""

    started: float
    parent: int
    name: str
    state: str
    nice: int
    cpu_s: float
    resident: int
    io: int | None


@dataclass(frozen=True, slots=True)
class _Room:
    """A file system that can be written to, at one moment."""

    kind: str
    total: int
    used: int
    free: int
    percent: float


@dataclass(frozen=True, slots=True)
class _Take:
    """Everything that moves, at one moment."""

    at: float
    disks: Mapping[str, _Room]
    processes: Mapping[int, _Seen]
    logs: Mapping[str, int]
    stalls: Mapping[str, int]  # PSI's totals, µs
    busy: tuple[float, float]  # CPU seconds: in use, in all


@dataclass(frozen=True, slots=True)
class _Note:
    at: float
    disks: Mapping[str, int]
    resident: Mapping[tuple[int, float], int]


_notes: deque[_Note] = deque(maxlen=_NOTED)
_noting = threading.Event()


def note_on() -> None:
    """Note once a minute from now on: who has asked once asks again, and then two hours are known."""
    if _noting.is_set():
        return
    _noting.set()
    threading.Thread(target=_note_for_ever, name="advice", daemon=True).start()


def _note_for_ever() -> None:
    while True:
        with contextlib.suppress(OSError, psutil.Error):
            note()
        time.sleep(_NOTE_S)


def note() -> None:
    """Remember how full the disks and how large the largest processes are."""
    largest = sorted(_processes().items(), key=lambda row: -row[1].resident)[:_NOTED_PROCESSES]
    sizes = {(pid, one.started): one.resident for pid, one in largest}
    _notes.append(_Note(time.time(), {place: room.used for place, room in _disks()}, sizes))


def measure(uid: int) -> Facts:
    """What is the case now, as far as this user may see it. Takes two seconds."""
    writers = dict(_logs(uid))
    takes = []
    failures = bounds.limit_hits(before := bounds.groups())
    for number in range(_TAKES):
        if number:
            time.sleep(_PAUSE_S)
        takes.append(_take(writers))
    failed, unseen = units.failed(uid)
    complaints, no_journal = units.complaints(uid)
    ooms, no_log = kernel.oom_kills(uid)
    boxes, space, no_engine = containers.look(uid)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    seen = tuple(_all_processes(takes))
    return Facts(
        over_s=takes[-1].at - takes[0].at,
        cpus=psutil.cpu_count() or 1,
        busy_percent=_busy(takes[0], takes[-1]),
        pressure=_pressures(takes[0], takes[-1]),
        memory=facts.Memory(memory.total, memory.available, swap.total, swap.free),
        processes=seen,
        disks=tuple(_all_disks(takes)),
        logs=tuple(_all_logs(takes, writers, seen)),
        groups=tuple(bounds.measured(before, failures)),
        units=failed,
        ooms=ooms,
        complaints=complaints,
        containers=boxes,
        space=space,
        unseen=tuple(filter(None, (*unseen, no_journal, no_log, no_engine))),
    )


def _take(logs: Iterable[str]) -> _Take:
    now, rooms = time.time(), dict(_disks())
    return _Take(now, rooms, _processes(), dict(_sizes(logs)), dict(_stalls()), _cpu_seconds())


# --- processes -----------------------------------------------------------------------------------------


def _processes() -> dict[int, _Seen]:
    names = ["ppid", "name", "status", "nice", "cpu_times", "memory_info", "create_time", "io_counters"]
    found = {}
    for process in psutil.process_iter(names):
        info = process.info
        if info["ppid"] == 2 or process.pid == 2 or info["cpu_times"] is None:
            continue  # the kernel's own threads
        times, size, io = info["cpu_times"], info["memory_info"], info["io_counters"]
        found[process.pid] = _Seen(
            info["create_time"], info["ppid"], shown(info["name"] or "?"), str(info["status"]),
            info["nice"] or 0, times.user + times.system, size.rss if size else 0,
            io.read_bytes + io.write_bytes if io else None,
        )  # fmt: skip
    return found


def _all_processes(takes: list[_Take]) -> Iterator[facts.Process]:
    """Those that were there all the time; what comes and goes in two seconds is no finding."""
    first, last = takes[0], takes[-1]
    for pid, one in last.processes.items():
        before = first.processes.get(pid)
        if before is None or before.started != one.started:
            continue
        try:
            process = psutil.Process(pid)
            ended = one.state == psutil.STATUS_ZOMBIE  # which has no command line any more
            command, user = "" if ended else " ".join(process.cmdline()), process.username()
            protected = ended or processes.is_protected(process)
        except psutil.Error:
            continue
        states = {take.processes[pid].state for take in takes if pid in take.processes}
        yield facts.Process(
            pid, one.started, one.name, shown(command)[:_COMMAND_CHARS], user, one.parent,
            _state(pid, states), one.nice,
            (one.cpu_s - before.cpu_s) * 100 / (last.at - first.at), _resident(takes, pid, one), protected,
            io_bytes_s=((one.io or 0) - (before.io or 0)) / (last.at - first.at),
            waits_in=_waits_in(pid) if one.state == psutil.STATUS_DISK_SLEEP else "",
        )  # fmt: skip


def _state(pid: int, states: set[str]) -> str:
    """The state it was in all the time. What was frozen sleeps like what waits for a disk, in version 1."""
    state = next(iter(states)) if len(states) == 1 else ""
    return "frozen" if state == psutil.STATUS_DISK_SLEEP and bounds.is_frozen(pid) else state


def _waits_in(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/wchan").read_text().strip("0\n")
    return ""


def _resident(takes: list[_Take], pid: int, one: _Seen) -> tuple[Series, ...]:
    now = tuple((take.at, float(take.processes[pid].resident)) for take in takes if pid in take.processes)
    key = (pid, one.started)
    noted = [(note.at, float(note.resident[key])) for note in _notes if key in note.resident]
    return ((*noted, now[-1]), now) if noted else (now,)


# --- disks and logs ------------------------------------------------------------------------------------


def _disks() -> Iterator[tuple[str, _Room]]:
    """Every file system that is written to, by one of its places."""
    seen = set()
    for part in psutil.disk_partitions(all=True):
        if part.fstype in _NOT_DISKS or "ro" in part.opts.split(",") or part.mountpoint.startswith("/sys"):
            continue
        with contextlib.suppress(OSError):
            facts_of = Path(part.mountpoint).stat()
            if facts_of.st_dev in seen or not stat.S_ISDIR(facts_of.st_mode):
                continue
            seen.add(facts_of.st_dev)
            usage = psutil.disk_usage(part.mountpoint)
            if usage.total:
                yield part.mountpoint, _Room(part.fstype, usage.total, usage.used, usage.free, usage.percent)


def _all_disks(takes: list[_Take]) -> Iterator[facts.Disk]:
    for place, room in takes[-1].disks.items():
        with contextlib.suppress(OSError):
            nodes = os.statvfs(place)
            inodes = (nodes.f_files - nodes.f_favail) * 100 / nodes.f_files if nodes.f_files else 0.0
            now = tuple((take.at, float(take.disks[place].used)) for take in takes if place in take.disks)
            noted = [(note.at, float(note.disks[place])) for note in _notes if place in note.disks]
            series = ((*noted, now[-1]), now) if noted else (now,)
            yield facts.Disk(place, room.kind, room.total, room.free, room.percent, inodes, series)


def _logs(uid: int) -> Iterator[tuple[str, int | None]]:
    """Logs, and who writes them: what lies in /var/log, and what programs hold open as one."""
    found: dict[str, int | None] = {}
    for folder, _, names in os.walk("/var/log"):
        found |= {str(Path(folder, name)): None for name in names if _may_read(Path(folder, name), uid)}
        if len(found) > _MOST_LOGS:
            break
    for process in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.Error, OSError):
            if processfacts.may_see(process, uid):
                found |= dict.fromkeys(_written(process.pid), process.pid)
    yield from list(found.items())[-_MOST_LOGS:]


def _may_read(file: Path, uid: int) -> bool:
    try:
        facts_of = file.lstat()
    except OSError:
        return False
    open_to_all = bool(facts_of.st_mode & stat.S_IROTH) or facts_of.st_uid == uid
    return stat.S_ISREG(facts_of.st_mode) and (uid == 0 or open_to_all)


def _written(pid: int) -> Iterator[str]:
    """Files that look like logs and that a process has open for writing."""
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            path = str(Path(entry.path).readlink())
            if path.startswith("/") and _is_log(path):
                lines = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().splitlines()
                flags = next(line for line in lines if line.startswith("flags:")).split()[1]
                if int(flags, 8) & _WRITES:
                    yield path


def _is_log(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith((".log", ".out", ".err")) or "/log/" in path or "/logs/" in path


def _sizes(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    for path in paths:
        with contextlib.suppress(OSError):
            yield path, Path(path).stat().st_size


def _all_logs(
    takes: list[_Take], writers: Mapping[str, int | None], seen: Iterable[facts.Process]
) -> Iterator[facts.Log]:
    known = {one.pid: one for one in seen}
    for path, pid in writers.items():
        series = tuple((take.at, float(take.logs[path])) for take in takes if path in take.logs)
        if not series or series[-1][1] == series[0][1]:
            continue
        with contextlib.suppress(OSError):
            writer = known.get(pid) if pid is not None else None
            free = psutil.disk_usage(str(Path(path).parent)).free
            yield facts.Log(shown(path), (series,), _mount_of(path), free, writer)


def _mount_of(path: str) -> str:
    place = Path(path).parent
    while not place.is_mount():
        place = place.parent
    return str(place)


# --- CPU and pressure ----------------------------------------------------------------------------------


def _cpu_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()
    # What guests use is in user already; what the hypervisor took is not ours, and is not idle either.
    idle = times.idle + times.iowait
    return sum(times[:8]) - idle, sum(times[:8])


def _busy(first: _Take, last: _Take) -> float:
    whole = last.busy[1] - first.busy[1]
    return (last.busy[0] - first.busy[0]) * 100 / whole if whole > 0 else 0.0


def _psi(name: str) -> dict[str, dict[str, float]]:
    """PSI's lines by their first word; empty on a kernel without it."""
    with contextlib.suppress(OSError, ValueError):
        lines = (line.split() for line in Path("/proc/pressure", name).read_text().splitlines())
        return {first: {key: float(value) for key, value in (word.split("=") for word in rest)}
                for first, *rest in lines}  # fmt: skip
    return {}


def _stalls() -> Iterator[tuple[str, int]]:
    for name in ("cpu", "memory", "io"):
        if found := _psi(name).get("some"):
            yield name, int(found["total"])


def _pressures(first: _Take, last: _Take) -> dict[str, facts.Pressure]:
    found = {}
    for name, total in last.stalls.items():
        psi = _psi(name)
        now = (total - first.stalls.get(name, total)) / 1e4 / (last.at - first.at)
        full = psi.get("full", {}).get("avg10", 0.0)
        found[name] = facts.Pressure(psi["some"]["avg10"], full, now)
    return found
