"""Ending a process of the caller's: by pidfd, so that the signal reaches the process that was judged.

A pid alone may have gone to another process since. The pidfd is opened first, then owner and start
time are compared with what was judged, then the signal goes to the pidfd: whatever happens in
between, it reaches that process or nobody. No process is started here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator

from llmos.errors import CallFailed, Denied, UsageError
from llmos.guard.program import readable
from llmos.messages import Caller, Outcome, Signal

# psutil reports create_time from clock ticks since boot: two readings of it may differ by a tick.
_START_TOLERANCE_S = 0.05
_KILL_WAIT_S = 5.0
_STATE_WAIT_S = 2.0
_POLL_S = 0.01


async def deliver(step: Signal, caller: Caller) -> Outcome:
    """Send the signal, wait up to `grace_s` for the end, escalate TERM to KILL, and say what happened.

    Raises UsageError (no such signal), CallFailed (no such process, or it will not die) and Denied
    (somebody else's process, or llmos itself).
    """
    number = _number(step.signal)
    with _hold(step.pid) as fd:
        name = _check(step, caller)
        _send(fd, number, step.pid)
        if number not in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            told = await _verified(step.pid, name, number)
            return Outcome(exit_code=0, stdout=told, reverse=_reverse(step, number))
        if await _ends(fd, step.grace_s):
            return Outcome(exit_code=0, stdout=f"{name} ({step.pid}) has ended\n")
        if number is not signal.SIGTERM:
            return Outcome(exit_code=1, stderr=f"{name} ({step.pid}) still runs after {number.name}\n")
        _send(fd, signal.SIGKILL, step.pid)
        if await _ends(fd, _KILL_WAIT_S):
            note = f"{name} ({step.pid}) did not end within {step.grace_s:g} s and was killed\n"
            return Outcome(exit_code=0, stdout=note)
        raise CallFailed(
            f"process {step.pid} does not die",
            "It waits in the kernel, mostly for a disk: see its wchan in ps.",
        )


async def _verified(pid: int, name: str, number: signal.Signals) -> str:
    """What became of it: of STOP and CONT it is looked up, for they are not carried out at once."""
    import psutil  # type: ignore[import-untyped,unused-ignore]

    if number not in (signal.SIGSTOP, signal.SIGCONT):
        return f"sent {number.name} to {name} ({pid})\n"
    wanted = number is signal.SIGSTOP
    deadline = time.monotonic() + _STATE_WAIT_S
    with contextlib.suppress(psutil.Error):
        while (psutil.Process(pid).status() == psutil.STATUS_STOPPED) != wanted:
            if time.monotonic() > deadline:
                raise CallFailed(
                    f"{name} ({pid}) is {psutil.Process(pid).status()} after {number.name}",
                    "Look again: llmos call process.details; it may wait in the kernel.",
                )
            await asyncio.sleep(_POLL_S)
    return f"{name} ({pid}) is suspended\n" if wanted else f"{name} ({pid}) goes on\n"


def to_end(pid: int) -> tuple[Signal, ...]:
    """The step that ends a process which has just been started; none when it is gone already."""
    import psutil  # type: ignore[import-untyped,unused-ignore]

    try:
        return (Signal(pid=pid, started=psutil.Process(pid).create_time()),)
    except psutil.Error:
        return ()


def is_there(step: Signal) -> bool:
    """Whether the process that is meant still runs."""
    import psutil  # type: ignore[import-untyped,unused-ignore]

    try:
        process = psutil.Process(step.pid)
        there: bool = abs(process.create_time() - step.started) <= _START_TOLERANCE_S
        return there and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _reverse(step: Signal, number: signal.Signals) -> tuple[Signal, ...]:
    """A process that was suspended is resumed, and the other way round; nothing else can be taken back."""
    opposite = {signal.SIGSTOP: "CONT", signal.SIGTSTP: "CONT", signal.SIGCONT: "STOP"}.get(number)
    return (step.model_copy(update={"signal": opposite}),) if opposite else ()


def _number(name: str) -> signal.Signals:
    try:
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise UsageError(f"there is no signal {name!r}", "Use TERM, KILL, INT, HUP, STOP or CONT.") from None


@contextlib.contextmanager
def _hold(pid: int) -> Iterator[int]:
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError, OSError) as error:
        raise CallFailed(
            f"there is no process {pid}", "List the processes again: it may have ended."
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _check(step: Signal, caller: Caller) -> str:
    """The process is the one that was judged and the caller's to signal; returns its name."""
    import psutil  # type: ignore[import-untyped,unused-ignore]

    try:
        process = psutil.Process(step.pid)
        started, owner, name = process.create_time(), process.uids().real, str(process.name())
    except psutil.Error as error:
        raise CallFailed(f"process {step.pid} has ended already", "List the processes again.") from error
    if abs(started - step.started) > _START_TOLERANCE_S:
        raise CallFailed(
            f"process {step.pid} is not the one that was meant: it was started later",
            "List the processes again and name the one you mean.",
        )
    if step.pid in (1, 2, os.getpid(), os.getppid()):
        raise Denied(
            f"process {step.pid} keeps the system or llmos itself running", "Choose another process."
        )
    if caller.uid not in (0, owner):
        raise Denied(f"process {step.pid} belongs to uid {owner}, not to you", "Ask its owner to end it.")
    return name


def _send(fd: int, number: signal.Signals, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself: what was wanted
        try:
            signal.pidfd_send_signal(fd, number)
        except PermissionError as error:
            raise Denied(
                f"the kernel refuses to signal process {pid}", "It has more rights than you."
            ) from error


async def _ends(fd: int, timeout_s: float) -> bool:
    """Whether the process ends in time; a zombie that its parent has not reaped counts as ended."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(readable(fd), timeout_s)
    return bool(select.select([fd], [], [], 0)[0])
