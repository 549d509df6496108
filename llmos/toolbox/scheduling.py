"""What the kernel keeps for each thread or process: nice, I/O class, scheduler, CPUs, OOM score, rlimits.

Each is one `Kind`: how to read it, how to write it, both in words that JSON can carry. So a change and the
way back are the same thing: a list of values for threads, each known by its number and when it started.
Nice, I/O class, scheduler and CPUs belong to each thread; a process has them set for all of its threads.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import CallFailed, Denied, UsageError
from llmos.messages import Message
from llmos.toolbox.values import cpu_list, cpu_set

IO_CLASSES = {"none": 0, "realtime": 1, "best-effort": 2, "idle": 3}
SCHEDULERS = {
    "other": os.SCHED_OTHER,
    "batch": os.SCHED_BATCH,
    "idle": os.SCHED_IDLE,
    "fifo": os.SCHED_FIFO,
    "rr": os.SCHED_RR,
}
_COLUMN = 26  # of /proc/PID/limits, where the values begin
_TITLES = {
    "rlimit cpu": "Max cpu time", "rlimit fsize": "Max file size", "rlimit data": "Max data size",
    "rlimit stack": "Max stack size", "rlimit core": "Max core file size", "rlimit nproc": "Max processes",
    "rlimit nofile": "Max open files", "rlimit memlock": "Max locked memory",
    "rlimit as": "Max address space",
    "rlimit sigpending": "Max pending signals", "rlimit msgqueue": "Max msgqueue size",
    "rlimit nice": "Max nice priority", "rlimit rtprio": "Max realtime priority",
}  # fmt: skip
RLIMITS = {name: getattr(resource, f"RLIMIT_{name.split()[1].upper()}") for name in _TITLES}
_WHO_PROCESS = 1
_GET_SET = {"x86_64": (252, 251), "aarch64": (31, 30), "riscv64": (31, 30), "ppc64le": (274, 273)}
_RESET_ON_FORK = 0x40000000
_CLASS_SHIFT = 13


class Value(Message):
    """One value of one thread or process: `number` is its id, `started` its start in clock ticks.

    `instead_of` is what has to be there now for it to be put back; empty where that does not matter.
    """

    kind: str
    number: int
    started: int
    value: str
    instead_of: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one thing is read and written; `each_thread` where every thread has its own."""

    read: Callable[[int], str]
    write: Callable[[int, str], None]
    each_thread: bool = True


def started_ticks(number: int) -> int:
    """When a process or thread started, in clock ticks since boot. Raises ProcessLookupError."""
    try:
        return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError) as error:
        raise ProcessLookupError(number) from error


def values(kind: str, pids: Sequence[int], value: str) -> list[Value]:
    """`value` for each thread (or process) of these processes, as they are now."""
    return [Value(kind=kind, number=number, started=started, value=value)
            for pid in pids for number, started in _of(pid, KINDS[kind])]  # fmt: skip


def _of(pid: int, kind: Kind) -> Iterator[tuple[int, int]]:
    try:
        threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return
    for number in sorted(threads) if kind.each_thread else [pid]:
        try:
            yield number, started_ticks(number)
        except ProcessLookupError:
            continue


def change(wanted: Sequence[Value]) -> list[Value]:
    """Set each value, all or nothing; returns what was there before. Ended threads are left out.

    Raises Denied where the kernel refuses, CallFailed where a value does not stay, and then puts all back.
    """
    before: list[Value] = []
    try:
        for one in wanted:
            if (old := _changed(one)) is not None:
                before.append(old)
    except (OSError, CallFailed, ValueError) as error:
        _put_back(before)
        raise _explained(error, wanted) from error
    return before


def _changed(one: Value) -> Value | None:
    """Set one value and read it back; the old one, or None when the thread is gone."""
    kind = KINDS[one.kind]
    try:
        if started_ticks(one.number) != one.started:
            return None
        old = kind.read(one.number)
        if one.instead_of and old != one.instead_of:
            raise CallFailed(
                f"{one.kind} of {one.number} was changed since: it is {old}, not {one.instead_of}",
                "Nothing was put back. Set what you want.",
            )
        kind.write(one.number, one.value)
        found = kind.read(one.number)
    except (ProcessLookupError, psutil.NoSuchProcess, FileNotFoundError):
        return None
    if found != one.value:
        raise CallFailed(f"{one.kind} of {one.number} is {found!r} after {one.value!r} was set", "Try again.")
    return one.model_copy(update={"value": old, "instead_of": one.value})


def _put_back(before: Sequence[Value]) -> None:
    for one in reversed(before):
        try:
            KINDS[one.kind].write(one.number, one.value)
        except (OSError, psutil.Error):
            continue


def _explained(error: Exception, wanted: Sequence[Value]) -> Exception:
    if isinstance(error, CallFailed):
        return error
    if isinstance(error, PermissionError) or getattr(error, "errno", 0) == errno.EPERM:
        kinds = ", ".join(dict.fromkeys(one.kind for one in wanted))
        return Denied(
            f"the kernel refuses to set {kinds} so: it takes a right that is not yours",
            "A lower priority or a tighter limit needs none; for more, ask an administrator.",
        )
    if getattr(error, "errno", 0) == errno.EINVAL or isinstance(error, ValueError):
        return UsageError(f"the kernel takes no such value: {error}", "See: llmos tools resource.priority")
    return CallFailed(f"it cannot be set: {error}", "Try again.")


# --- each kind -----------------------------------------------------------------------------------------


def _nice(number: int) -> str:
    return str(os.getpriority(os.PRIO_PROCESS, number))


def _set_nice(number: int, value: str) -> None:
    os.setpriority(os.PRIO_PROCESS, number, int(value))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _io_call(which: int, *args: int) -> int:
    numbers = _GET_SET.get(os.uname().machine)
    if numbers is None:
        raise CallFailed(f"the I/O class cannot be set on {os.uname().machine}", "Leave `io` out.")
    found = int(_libc().syscall(numbers[which], *args))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def _io(number: int) -> str:
    """`CLASS LEVEL`; level 0 to 7 counts for real time and best effort (ioprio_set(2))."""
    found = _io_call(0, _WHO_PROCESS, number)
    name = next(name for name, value in IO_CLASSES.items() if value == found >> _CLASS_SHIFT)
    return f"{name} {found & 7 if name in ('realtime', 'best-effort') else 0}"


def _set_io(number: int, value: str) -> None:
    name, _, level = value.partition(" ")
    _io_call(1, _WHO_PROCESS, number, IO_CLASSES[name] << _CLASS_SHIFT | int(level or 0))


def _scheduler(number: int) -> str:
    policy = os.sched_getscheduler(number) & ~_RESET_ON_FORK
    name = next((name for name, value in SCHEDULERS.items() if value == policy), str(policy))
    return f"{name} {os.sched_getparam(number).sched_priority}"


def _set_scheduler(number: int, value: str) -> None:
    name, _, priority = value.partition(" ")
    os.sched_setscheduler(number, SCHEDULERS[name], os.sched_param(int(priority or 0)))


def _cpus(number: int) -> str:
    return cpu_list(os.sched_getaffinity(number))


def _set_cpus(number: int, value: str) -> None:
    os.sched_setaffinity(number, cpu_set(value))


def _oom(number: int) -> str:
    return Path(f"/proc/{number}/oom_score_adj").read_text().strip()


def _set_oom(number: int, value: str) -> None:
    Path(f"/proc/{number}/oom_score_adj").write_text(value)


def _rlimit(name: str) -> Kind:
    """Read from /proc, where everybody may; prlimit(2) would want the right to set it as well."""
    title = _TITLES[name]

    def get(number: int) -> str:
        lines = Path(f"/proc/{number}/limits").read_text().splitlines()
        found = next(line[_COLUMN:].split() for line in lines if line.startswith(title))
        return " ".join("-1" if word == "unlimited" else word for word in found[:2])

    def put(number: int, value: str) -> None:
        soft, hard = map(int, value.split())
        resource.prlimit(number, RLIMITS[name], (soft, hard))

    return Kind(get, put, each_thread=False)


KINDS: Mapping[str, Kind] = {
    "nice": Kind(_nice, _set_nice),
    "io": Kind(_io, _set_io),
    "scheduler": Kind(_scheduler, _set_scheduler),
    "cpus": Kind(_cpus, _set_cpus),
    "oom": Kind(_oom, _set_oom, each_thread=False),
    **{name: _rlimit(name) for name in RLIMITS},
}
