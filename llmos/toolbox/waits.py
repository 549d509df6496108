"""Waiting until a process ends, starts, is idle, or listens on a port. Looks, and changes nothing.

A process is waited for by its pidfd, so that a later one of the same number is not taken for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos import stopping
from llmos.errors import CallFailed, UsageError
from llmos.messages import JsonObject
from llmos.toolbox import processes
from llmos.toolbox.context import Args, Context, Draft, Pair, ProcessInfo
from llmos.toolbox.processfacts import needed, observing
from llmos.toolbox.values import human_duration, shown

_DEFAULT_WAIT_S = 60.0
_POLL_S = 0.25
_IDLE_PERCENT = 5.0
_IDLE_S = 3.0
_IDLE_SAMPLE_S = 0.5
_START_TOLERANCE_S = 0.05


def plan_wait(args: Args, context: Context) -> Draft:
    tool, until = "process.wait", args["until"]
    timeout_s = args["timeout"] or _DEFAULT_WAIT_S
    if until == "listening":
        if args["port"] is None:
            raise UsageError(f"{tool}: say which `port`", 'For instance {"port": 8080, "until": "listening"}')
        shows = f"wait until something listens on port {args['port']}"
        return observing(tool, context, shows, until=until, port=args["port"], timeout_s=timeout_s)
    if until == "started":
        name = (args["name"] or "").strip()
        if not name:
            raise UsageError(f"{tool}: say by `name` what is to start", 'For instance {"name": "nginx"}')
        shows = f"wait until {shown(name)} runs"
        return observing(tool, context, shows, until=until, name=name, timeout_s=timeout_s)
    found = _waited_for(tool, args, context)
    what = "is idle" if until == "idle" else "ends"
    shows = f"wait until {', '.join(str(info.pid) for info in found)} {what}"
    known = [[info.pid, info.started, info.name] for info in found]
    return observing(tool, context, shows, until=until, known=known, timeout_s=timeout_s)


def _waited_for(tool: str, args: Args, context: Context) -> list[ProcessInfo]:
    """A name means all that are called so: waiting hurts nobody."""
    name = (args["name"] or "").strip()
    found = context.find_processes(name) if name and args["pid"] is None else []
    return found or [needed(tool, args, context)]


def wait(args: JsonObject) -> str:
    """What came about, and after how long. Raises CallFailed when the time is over before."""
    began = time.monotonic()
    happened, told = _WAITS[str(args["until"])](args, began + float(args["timeout_s"]))
    took = human_duration(time.monotonic() - began)
    if not happened:
        raise CallFailed(
            f"{told} after {took}", "Wait longer with `timeout`, or look: llmos call process.list"
        )
    return f"{told} after {took}.\n"


def _until_ended(args: JsonObject, deadline: float) -> tuple[bool, str]:
    known = [(int(pid), float(started), str(name)) for pid, started, name in args["known"]]
    with contextlib.ExitStack() as held:
        watched = {fd: one for one in known if (fd := _held(one, held)) is not None}
        while watched and not over(deadline):
            for fd in select.select(list(watched), [], [], _POLL_S)[0]:
                del watched[fd]
        left = list(watched.values())
    names = ", ".join(f"{shown(name)} ({pid})" for pid, _, name in left or known)
    still = "still runs" if len(left) == 1 else "still run"
    return not left, f"{names} {still if left else 'ended'}"


def over(deadline: float) -> bool:
    """Whether there is no more time, or nobody waits for the answer any more."""
    return time.monotonic() >= deadline or stopping.stopped()


def _held(one: tuple[int, float, str], held: contextlib.ExitStack) -> int | None:
    """A pidfd of the very process that is meant; None when it has ended."""
    pid, started, _ = one
    try:
        fd = os.pidfd_open(pid)
        held.callback(os.close, fd)
        same = abs(psutil.Process(pid).create_time() - started) < _START_TOLERANCE_S
        return fd if same else None
    except (OSError, psutil.Error):
        return None


def _polled(holds: Callable[[], bool], deadline: float) -> bool:
    while not (held := holds()) and not over(deadline):
        time.sleep(_POLL_S)
    return held


def _until_started(args: JsonObject, deadline: float) -> tuple[bool, str]:
    name = str(args["name"])
    if not _polled(lambda: bool(processes.find(name)), deadline):
        return False, f"{shown(name)} does not run yet"
    return True, f"{shown(name)} runs as {', '.join(str(info.pid) for info in processes.find(name))}"


def _until_listening(args: JsonObject, deadline: float) -> tuple[bool, str]:
    port = int(args["port"])

    def holds() -> bool:
        return any(_is_listening(link, port) for link in psutil.net_connections(kind="inet"))

    is_open = _polled(holds, deadline)
    return is_open, f"port {port} is {'' if is_open else 'not '}open{'' if is_open else ' yet'}"


def _is_listening(link: object, port: int) -> bool:
    here = getattr(link, "laddr", None)
    return getattr(here, "port", 0) == port and getattr(link, "status", "") == psutil.CONN_LISTEN


def _until_idle(args: JsonObject, deadline: float) -> tuple[bool, str]:
    """Below 5 % of a CPU for three seconds on end, all of them together; what has ended is idle."""
    pids = [int(pid) for pid, *_ in args["known"]]
    names = ", ".join(f"{shown(str(name))} ({pid})" for pid, _, name in args["known"])
    quiet_s = 0.0
    while not over(deadline):
        before = _cpu_s(pids)
        time.sleep(_IDLE_SAMPLE_S)
        percent = (_cpu_s(pids) - before) * 100 / _IDLE_SAMPLE_S
        quiet_s = quiet_s + _IDLE_SAMPLE_S if percent < _IDLE_PERCENT else 0.0
        if quiet_s >= _IDLE_S:
            return True, f"{names} idle"
    return False, f"{names} still busy"


def _cpu_s(pids: Iterable[int]) -> float:
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


_WAITS: dict[str, Callable[[JsonObject, float], tuple[bool, str]]] = {
    "ended": _until_ended,
    "started": _until_started,
    "listening": _until_listening,
    "idle": _until_idle,
}

PAIRS = {"process.wait": Pair(plan_wait)}
OBSERVERS: dict[str, Callable[[JsonObject], str]] = {"process.wait": wait}
