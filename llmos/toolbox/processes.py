"""Processes: list, find, stop, start. Observing is psutil's, signalling and starting are the guard's.

A name that fits several processes is a question back, not a guess; `started` goes along with each pid, so a
number that was used again is not hit. The guard checks owner and start time once more when it signals.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.cgroupfs import own_groups
from llmos.errors import UsageError
from llmos.messages import Effects, JsonObject, Observe, Signal, Start
from llmos.paths import FORKS_NAME
from llmos.toolbox import limits
from llmos.toolbox.context import Args, Context, Draft, Pair, ProcessInfo, programs
from llmos.toolbox.values import human_duration, human_size, table

_SAMPLE_S = 0.2  # CPU use is measured over this long
_COMMAND_CHARS = 80


def find(name: str) -> list[ProcessInfo]:
    """Processes by name or pid; or all of `user:NAME`, `service:NAME`, `container:ID`, or those that llmos
    has started for a uid (`started:UID`). Never init or llmos itself.
    """
    kind, colon, rest = name.partition(":")
    return list(_FINDS[kind](rest)) if colon and kind in _FINDS else _called(name)


def of_user(name: str) -> Iterator[ProcessInfo]:
    try:
        uid = int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        return
    yield from _those(lambda process: process.uids().real == uid)


def of_service(name: str) -> Iterator[ProcessInfo]:
    """What systemd keeps in the control group of a unit."""
    unit = name if name.endswith((".service", ".scope", ".slice")) else f"{name}.service"
    yield from _those(lambda process: unit in _group_names(process.pid))


def of_container(name: str) -> Iterator[ProcessInfo]:
    """What lies in the control group of a container whose id begins so."""
    if not re.fullmatch(r"[0-9a-f]{6,64}", name):
        return
    yield from _those(
        lambda process: any(container_id(word).startswith(name) for word in _group_names(process.pid))
    )


def container_id(group: str) -> str:
    """The container whose control group is called so; empty where it is none's."""
    found = _CONTAINER.fullmatch(group)
    return found[1] if found else ""


_CONTAINER = re.compile(r"(?:docker-|libpod-|cri-containerd-)?([0-9a-f]{64})(?:\.scope)?")


def _group_names(pid: int) -> set[str]:
    try:
        found = own_groups(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError:
        return set()
    return {name for _, path in found for name in path.split("/") if name}


def _those(meant: Callable[[psutil.Process], bool]) -> Iterator[ProcessInfo]:
    """Every process that is meant, less init, llmos, and what has ended."""
    for process in psutil.process_iter():
        try:
            if meant(process) and not is_protected(process) and not _has_ended(process):
                yield _info(process)
        except psutil.Error:
            continue


def _called(name: str) -> list[ProcessInfo]:
    """Processes of this pid, or this name: the program's, or the script's that it runs. Never init or llmos.

    `python` also means `python3.11`. The rest of the command line does not count: an editor that has
    `backup.sh` open is not `backup.sh`, and the client that carries the request has its words there.
    """
    wanted = re.compile(re.escape(name) + r"[0-9.]*", re.IGNORECASE)
    found = []
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                words = _words(process)
                fits = process.pid == int(name) if name.isdecimal() else _is_called(process, words, wanted)
                if fits and not _protected(process, words) and not _has_ended(process):
                    found.append(_info(process))
        except psutil.Error:
            continue  # it ended while we looked
    return found


def started_by_llmos(uid: int) -> list[ProcessInfo]:
    """The programs that llmos has started in its sandbox for a caller and that still run.

    The parent of each is the first process of that sandbox, which is a part of llmos.
    """
    found = []
    for process in psutil.process_iter():
        try:
            first, owner = process.parent(), process.uids().real
            if first is None or first.uids().real != owner or is_protected(process):
                continue
            if _puts_up_sandboxes(_words(first)) and (owner == uid or (uid == 0 and _is_nobodys(owner))):
                found.append(_info(process))
        except psutil.Error:
            continue
    return found


def _is_nobodys(uid: int) -> bool:
    """What root starts through llmos runs as a uid that is no account's."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return True
    return False


def owner(pid: int, default: int) -> int:
    """The uid a process runs as; the default for one that is gone."""
    try:
        return int(psutil.Process(pid).uids().real)
    except psutil.Error:
        return default


def starts(pids: Iterable[int]) -> Iterator[tuple[int, float]]:
    """Each process with when it started, of those that are still there."""
    for pid in pids:
        try:
            yield pid, psutil.Process(pid).create_time()
        except psutil.Error:
            continue


def resident_bytes(pids: Iterable[int]) -> int:
    """The memory that processes hold, shared pages counted for each."""
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue
    return total


_FINDS: dict[str, Callable[[str], Iterable[ProcessInfo]]] = {
    "user": of_user,
    "service": of_service,
    "container": of_container,
    "started": lambda uid: started_by_llmos(int(uid)),
}


def is_protected(process: psutil.Process) -> bool:
    """init, kernel threads, this daemon, who started it, and any other part of llmos."""
    return _protected(process, _words(process))


def _has_ended(process: psutil.Process) -> bool:
    """A zombie: its parent has not asked yet how it ended."""
    ended: bool = process.status() == psutil.STATUS_ZOMBIE
    return ended


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.AccessDenied:
        return []


def _is_called(process: psutil.Process, words: list[str], wanted: re.Pattern[str]) -> bool:
    names = [process.name(), *(PurePosixPath(word).name for word in words[:2] if not word.startswith("-"))]
    return any(wanted.fullmatch(name) for name in names)


def _protected(process: psutil.Process, words: list[str]) -> bool:
    """init, kernel threads, this daemon, who started it, and any other part of llmos."""
    if process.pid in (1, 2, os.getpid(), os.getppid()) or process.ppid() in (2, os.getpid()):
        return True
    return _is_part_of_llmos(words)


def _is_part_of_llmos(words: list[str]) -> bool:
    """The client, the daemon, the planner, the launcher and the first process of a sandbox."""
    module = words[words.index("-m") + 1 :][:1] if "-m" in words[:4] else []
    return _boots(words) or any(
        word.partition(".")[0] == "llmos" for word in [*(PurePosixPath(w).name for w in words[:2]), *module]
    )


def _puts_up_sandboxes(words: list[str]) -> bool:
    return words[:1] == [FORKS_NAME] or _boots(words)


def _boots(words: list[str]) -> bool:
    """The launcher: `python -I -S -c "import sys; … llmos.guard …"`; and where no compiler has made
    `llmos.forks`, the first process of a sandbox."""
    return any("llmos.guard" in word for word in words[1:6] if word.startswith("import "))


def _info(process: psutil.Process) -> ProcessInfo:
    name = process.name()
    command = " ".join(_words(process)) or f"[{name}]"
    return ProcessInfo(process.pid, name, command, process.uids().real, process.create_time())


# --- list and find -----------------------------------------------------------------------------


def plan_list(args: Args, context: Context) -> Draft:
    given = {key: value for key, value in args.items() if value is not None}
    return Draft((Observe(observer="process.list", args=given),))


def observe(args: JsonObject) -> str:
    """A table of processes; args: sort, limit, and name (part of the name or the command line)."""
    name = str(args.get("name", "")).casefold()
    found = [p for p in psutil.process_iter() if not name or _matches(p, name)]
    for process in found:
        _cpu(process)
    time.sleep(_SAMPLE_S)
    rows = sorted(_rows(found), key=_SORTS[str(args.get("sort", "cpu"))])
    if not rows:
        return f"No process matches {args.get('name')!r}.\n" if name else "No process.\n"
    limit = int(args.get("limit") or 20)
    header = ("PID", "USER", "CPU%", "MEMORY", "AGE", "COMMAND")
    more = f"… {len(rows) - limit} more.\n" if len(rows) > limit else ""
    return table([header, *(_cells(row) for row in rows[:limit])], frozenset({0, 2, 3})) + more


def _matches(process: psutil.Process, wanted: str) -> bool:
    try:
        words = _words(process)
        text = f"{process.name()} {' '.join(words)}".casefold()
        return wanted in text and not _protected(process, words)
    except psutil.Error:
        return False


def _cpu(process: psutil.Process) -> float:
    try:
        return float(process.cpu_percent())
    except psutil.Error:
        return 0.0


_Row = tuple[int, str, float, int, float, str]  # pid, user, cpu, memory, age, command
_SORTS = {
    "cpu": lambda row: (-row[2], row[4], row[0]),  # of those that do nothing the newest first
    "memory": lambda row: (-row[3], row[0]),
    "newest": lambda row: (row[4], row[0]),
    "name": lambda row: (row[5], row[0]),
}


def _rows(found: list[psutil.Process]) -> Iterator[_Row]:
    now = time.time()
    for process in found:
        try:
            with process.oneshot():
                info = _info(process)
                memory = process.memory_info().rss
                yield info.pid, process.username(), _cpu(process), memory, now - info.started, info.command
        except psutil.Error:
            continue


def _cells(row: _Row) -> tuple[str, ...]:
    pid, user, cpu, memory, age, command = row
    plain = "".join(char if char.isprintable() else "·" for char in command)[:_COMMAND_CHARS]
    return str(pid), user, f"{cpu:.1f}", human_size(memory), human_duration(age), plain


# --- stop and start ----------------------------------------------------------------------------


def plan_stop(args: Args, context: Context) -> Draft:
    found = _signalled("process.stop", args, context)
    kind = "KILL" if args["force"] else "TERM"
    steps = tuple(Signal(pid=info.pid, started=info.started, signal=kind) for info in found)
    return Draft(steps, Effects(signals=tuple(info.pid for info in found)))


def _signalled(tool: str, args: Args, context: Context) -> list[ProcessInfo]:
    """The processes that `pid`, or `name` and `all`, mean; of a family its head. Raises UsageError."""
    from llmos.toolbox import targets

    name = str(args["pid"]) if args["pid"] is not None else (args["name"] or "").strip()
    if not name:
        raise UsageError(f"{tool}: give `pid` or `name`", "Find it first: llmos call process.list")
    every = bool(args.get("all"))
    found = list(targets.resolve(name, context, kind="process", every=every, tool=tool).roots)
    return found if every else targets.heads(found)


def plan_suspend(args: Args, context: Context) -> Draft:
    return _halted("process.suspend", "STOP", args, context)


def plan_resume(args: Args, context: Context) -> Draft:
    return _halted("process.resume", "CONT", args, context)


def _halted(tool: str, kind: str, args: Args, context: Context) -> Draft:
    """STOP or CONT for a process and its children; those in that state already are left alone, so that
    what takes it back reaches no others."""
    heads = _signalled(tool, args, context)
    family = list(
        {info.pid: info for head in heads for info in (head, *below(head.pid, context.uid))}.values()
    )
    found = [info for info in family if is_suspended(info.pid) is not (kind == "STOP")]
    if not found:
        state = "suspended already" if kind == "STOP" else "not suspended"
        raise UsageError(
            f"{tool}: {heads[0].name} ({heads[0].pid}) is {state}", "See: llmos call process.details"
        )
    steps = tuple(Signal(pid=info.pid, started=info.started, signal=kind) for info in found)
    return Draft(steps, Effects(signals=tuple(info.pid for info in found)))


def is_suspended(pid: int) -> bool | None:
    """None when it has gone."""
    try:
        return str(psutil.Process(pid).status()) in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return None


def below(pid: int, uid: int) -> Iterator[ProcessInfo]:
    """The descendants of a process that belong to the caller, less what is protected or has ended."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return
    for child in children:
        with contextlib.suppress(psutil.Error):
            own = uid in (0, child.uids().real)
            if own and not is_protected(child) and not _has_ended(child):
                yield _info(child)


def plan_start(args: Args, context: Context) -> Draft:
    try:
        argv = tuple(shlex.split(args["command"]))
    except ValueError as error:
        raise UsageError(f"process.start: argument `command`: {error}", "Close the quotes.") from error
    if not argv:
        raise UsageError("process.start: argument `command`: it is empty", "Say what to start.")
    name = args["name"] or PurePosixPath(argv[0]).name
    step = Start(argv=argv, name=name, **_start_limits(args, context))
    return Draft((step,), Effects(programs=programs(argv)))


def _start_limits(args: Args, context: Context) -> dict[str, Any]:
    """What it is started under, in the sandbox's terms. Raises UsageError for what cannot be."""
    given = {name: args.get(name) for name in ("cpu", "memory", "pids")}
    if not any(value is not None for value in given.values()):
        return {}
    asked = limits.read(given, context.machine(), "process.start")
    return {"cpus": (asked.cpu or 0) / 100, "memory_bytes": asked.memory or 0, "processes": asked.pids or 0}


PAIRS = {
    "processes.list": Pair(plan_list),
    "processes.stop": Pair(plan_stop),
    "processes.start": Pair(plan_start),
    "processes.suspend": Pair(plan_suspend),
    "processes.resume": Pair(plan_resume),
}
OBSERVERS = {"process.list": observe}
