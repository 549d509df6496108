"""Whom a call means: a pid, a name, a service, a container, a user, or what llmos started last.

    1234   nginx   service:nginx   container:web   user:anna   pid:7   name:python   "this command"

Without a word in front: a number is a pid; else processes of that name, then a service, a container, a user.
Several processes of one name are one target if they are one family; else it is asked which is meant. init,
kernel threads and llmos itself are never meant, nor what has ended and is only not reaped yet.
Whose a process is, is the policy's question; `still` asks once more when something is done to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import CallFailed, Denied, UsageError
from llmos.messages import Caller, Message
from llmos.toolbox import processes
from llmos.toolbox.context import ContainerInfo, Context, ProcessInfo
from llmos.toolbox.values import shown

KINDS = ("process", "service", "container", "user")
_PREFIXES = {**{kind: kind for kind in KINDS}, "pid": "process", "name": "process", "unit": "service"}
_THIS = ("this command", "this program", "the last command", "这个命令", "此命令")
_START_TOLERANCE_S = 0.05
_NAMED = 8
_SURE_ID_CHARS = 6  # of a container: fewer may be a word


class Known(Message):
    """A process that was found, by the two numbers that tell it from a later one of the same pid."""

    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class Target:
    """`roots` are the processes meant, their children not included."""

    kind: str
    label: str
    roots: tuple[ProcessInfo, ...] = ()
    unit: str = ""
    scope: Literal["system", "user"] = "system"
    container: ContainerInfo | None = None

    @property
    def known(self) -> list[Known]:
        return [Known(pid=info.pid, started=info.started) for info in self.roots]

    @property
    def resources(self) -> tuple[str, ...]:
        """As the policy knows them (messages.Effects.resources)."""
        if self.unit:
            return (f"unit:{self.unit}" if self.scope == "system" else f"unit:user/{self.unit}",)
        return tuple(f"pid:{info.pid}" for info in self.roots)


def resolve(text: str, context: Context, *, kind: str = "", every: bool = False, tool: str = "") -> Target:
    """The target that is meant. Raises UsageError when there is none, or when it could be several."""
    name = text.strip()
    if name.casefold() in _THIS:
        return _this_command(context, tool)
    word, colon, rest = name.partition(":")
    if colon and word.casefold() in _PREFIXES and rest.strip():
        kind, name = _PREFIXES[word.casefold()], rest.strip()
    if not name:
        raise UsageError(f"{tool}: argument `target`: it is empty", "Name a process, a service or a user.")
    for one in (kind,) if kind else KINDS:
        if found := _look(one, name, context, every, tool, guessing=not kind):
            return found
    what = kind or "process, service, container or user"
    raise UsageError(
        f"{tool}: there is no {what} {shown(name)[:80]!r} that could be meant", "See: llmos call process.list"
    )


# --- each kind -----------------------------------------------------------------------------------------


def _look(kind: str, name: str, context: Context, every: bool, tool: str, *, guessing: bool) -> Target | None:
    """What of that kind has this name. Who only guesses a service is not told that there is none."""
    if kind == "process":
        return _process(name, context, every, tool)
    if kind == "user":
        return _others(kind, name, context, every, tool)
    look = _service if kind == "service" else _container
    try:
        found = look(name, context, every, tool)
        short = found and found.container and found.container.name != name and len(name) < _SURE_ID_CHARS
        return None if guessing and short else found
    except (UsageError, CallFailed, Denied):
        if guessing:
            return None
        raise


def _process(name: str, context: Context, every: bool, tool: str) -> Target | None:
    found = context.find_processes(name)
    if name.isdecimal():
        if not found:
            raise _no_pid(int(name), tool)
        return Target("process", _label(found), tuple(found))
    own = [info for info in found if context.uid in (0, info.uid)] or found
    if not own:
        return None
    first = heads(own)
    if len(first) > 1 and not every:
        raise ambiguous(tool, name, first)
    return Target("process", _label(own), tuple(own))


def _no_pid(pid: int, tool: str) -> UsageError:
    """Why no process of this number can be meant."""
    why, step = f"there is no process {pid}", "List the processes again: it may have ended."
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            parent = process.ppid()
            why = f"process {pid} has ended and only waits for its parent {parent} to notice"
            step = f"Nothing of it is left to change; {parent} has to reap it, or to end itself."
        else:
            why, step = f"process {pid} keeps the system or llmos itself running", "Choose another process."
    except psutil.Error:
        pass
    return UsageError(f"{tool}: {why}", step)


def ambiguous(tool: str, name: str, found: Sequence[ProcessInfo]) -> UsageError:
    some = "; ".join(f"{info.pid} {shown(info.command)[:40]}" for info in found[:_NAMED])
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return UsageError(
        f"{tool}: {len(found)} processes match {shown(name)!r}: {some}{more}",
        "Name one by its pid, or say all=true.",
    )


def heads(found: Sequence[ProcessInfo]) -> list[ProcessInfo]:
    """Those that are no child of another of them."""
    pids = {info.pid for info in found}
    return [info for info in found if not pids & set(_ancestors(info.pid))]


def _ancestors(pid: int) -> Iterator[int]:
    try:
        yield from (parent.pid for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return


def _label(found: Sequence[ProcessInfo]) -> str:
    first = f"{shown(found[0].name)} ({found[0].pid})"
    return first if len(found) == 1 else f"{first} and {len(found) - 1} more"


def _service(name: str, context: Context, every: bool, tool: str) -> Target | None:
    """A unit of systemd's, whether anything of it runs or not; else what its control group holds."""
    from llmos.toolbox import manager

    if not manager.is_running():
        return _others("service", name, context, every, tool)
    unit = manager.unit_name(name)
    scope = context.find_unit(unit, context.uid)
    return Target("service", unit, tuple(context.find_processes(f"service:{unit}")), unit, scope)


def _container(name: str, context: Context, every: bool, tool: str) -> Target | None:
    """One that the Docker Engine knows, running or not; else what lies in the control group of that id."""
    try:
        found = context.find_container(name, context.uid)
    except (UsageError, CallFailed, Denied):
        if other := _others("container", name, context, every, tool):
            return other
        raise
    inside = tuple(context.find_processes(f"container:{found.id}"))
    return Target("container", f"container {shown(found.name)}", inside, container=found)


def _others(kind: str, name: str, context: Context, every: bool, tool: str) -> Target | None:
    """All processes of a service, a container or a user, by what the kernel knows."""
    found = tuple(context.find_processes(f"{kind}:{name}"))
    return Target(kind, f"{kind} {shown(name)}", found) if found else None


def _this_command(context: Context, tool: str) -> Target:
    found = context.find_processes(f"started:{context.uid}")
    if not found:
        raise UsageError(
            f"{tool}: nothing runs that llmos has started for you", "Start it with process.start, or name it."
        )
    newest = max(found, key=lambda info: info.started)
    return Target("process", _label([newest]), (newest,))


# --- at use --------------------------------------------------------------------------------------------


def still(known: Iterable[Known], caller: Caller) -> list[int]:
    """The pids that are still the processes that were meant, and the caller's.

    Raises Denied for somebody else's, CallFailed when none is left.
    """
    wanted = list(known)
    pids = [one.pid for one in wanted if _is_same(one, caller)]
    if not pids:
        some = ", ".join(str(one.pid) for one in wanted[:_NAMED])
        raise CallFailed(f"process {some} has ended", "List the processes again and name the one you mean.")
    return pids


def _is_same(one: Known, caller: Caller) -> bool:
    try:
        process = psutil.Process(one.pid)
        with process.oneshot():
            if abs(process.create_time() - one.started) > _START_TOLERANCE_S:
                return False
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            owner = process.uids().real
            if processes.is_protected(process):
                raise Denied(
                    f"process {one.pid} keeps the system or llmos running", "Choose another process."
                )
    except psutil.Error:
        return False
    if caller.uid not in (0, owner):
        raise Denied(f"process {one.pid} belongs to uid {owner}, not to you", "Ask its owner.")
    return True


def family(pids: Sequence[int], caller: Caller) -> list[int]:
    """These processes and their descendants, parents first, less what is protected or another user's."""
    found = dict.fromkeys(pids)
    for pid in pids:
        try:
            children = psutil.Process(pid).children(recursive=True)
        except psutil.Error:
            found.pop(pid, None)
            continue
        found |= {child.pid: None for child in children if _may_follow(child, caller)}
    return [pid for pid in found if pid != os.getpid()]


def _may_follow(process: psutil.Process, caller: Caller) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE or processes.is_protected(process):
            return False
        return caller.uid in (0, process.uids().real)
    except psutil.Error:
        return False
