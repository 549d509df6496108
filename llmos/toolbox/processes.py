"""Processes: list, find, stop, start. Observing is psutil's, signalling and starting are the guard's.

A name that fits several processes is a question back, not a guess; `started` goes along with each pid, so a
number that was used again is not hit. The guard checks owner and start time once more when it signals.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import PurePosixPath

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import UsageError
from llmos.messages import Effects, JsonObject, Observe, Signal, Start
from llmos.toolbox.context import Args, Context, Draft, Pair, ProcessInfo, programs
from llmos.toolbox.values import human_duration, human_size, table

_SAMPLE_S = 0.2  # CPU use is measured over this long
_COMMAND_CHARS = 80


def find(name: str) -> list[ProcessInfo]:
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
                if fits and not _protected(process, words):
                    found.append(_info(process))
        except psutil.Error:
            continue  # it ended while we looked
    return found


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.AccessDenied:
        return []


def _is_called(process: psutil.Process, words: list[str], wanted: re.Pattern[str]) -> bool:
    names = [process.name(), *(PurePosixPath(word).name for word in words[:2] if not word.startswith("-"))]
    return any(wanted.fullmatch(name) for name in names)


def _protected(process: psutil.Process, words: list[str]) -> bool:
    """init, this daemon, who started it, and any other part of llmos (client, planner, launcher)."""
    if process.pid in (1, os.getpid(), os.getppid()) or process.ppid() == os.getpid():
        return True
    module = words[words.index("-m") + 1 :][:1] if "-m" in words[:4] else []
    return any(
        word.partition(".")[0] == "llmos" for word in [*(PurePosixPath(w).name for w in words[:2]), *module]
    )


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
    "cpu": lambda row: (-row[2], row[0]),
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
    name = str(args["pid"]) if args["pid"] is not None else (args["name"] or "").strip()
    if not name:
        raise UsageError("process.stop: give `pid` or `name`", "Find it first: llmos call process.list")
    found = context.find_processes(name)
    if not found:
        raise UsageError(
            f"process.stop: no process {name!r} runs that could be stopped", "See: llmos call process.list"
        )
    if args["pid"] is None:
        found = _meant(name, found, context, every=args["all"])
    kind = "KILL" if args["force"] else "TERM"
    steps = tuple(Signal(pid=info.pid, started=info.started, signal=kind) for info in found)
    return Draft(steps, Effects(signals=tuple(info.pid for info in found)))


def _meant(name: str, found: list[ProcessInfo], context: Context, *, every: bool) -> list[ProcessInfo]:
    """The caller's own of those found; raises UsageError when it is not clear which is meant."""
    own = [info for info in found if context.uid in (0, info.uid)] or found
    if len(own) > 1 and not every:
        some = "; ".join(f"{info.pid} {info.command[:40]}" for info in own[:8])
        raise UsageError(
            f"process.stop: {len(own)} processes match {name!r}: {some}",
            "Name one by `pid`, or say all=true.",
        )
    return own


def plan_start(args: Args, context: Context) -> Draft:
    try:
        argv = tuple(shlex.split(args["command"]))
    except ValueError as error:
        raise UsageError(f"process.start: argument `command`: {error}", "Close the quotes.") from error
    if not argv:
        raise UsageError("process.start: argument `command`: it is empty", "Say what to start.")
    name = args["name"] or PurePosixPath(argv[0]).name
    return Draft((Start(argv=argv, name=name),), Effects(programs=programs(argv)))


PAIRS = {
    "processes.list": Pair(plan_list),
    "processes.stop": Pair(plan_stop),
    "processes.start": Pair(plan_start),
}
OBSERVERS = {"process.list": observe}
