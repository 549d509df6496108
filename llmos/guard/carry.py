"""Carries out the steps of a sandbox (`machine`) in Python, where no C compiler has made a program that does.

Runs in a fork of the nursery, which the kernel has just made pid 1 of new namespaces. Whatever fails is told to the
broker by the name of its layer, and nothing is run. Standard library only, and little of it: what a fork touches
for the first time it has to copy.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

from llmos.guard import init, kernel, machine
from llmos.guard.layering import count_kills

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MASK = (1 << 64) - 1
# System calls that libc may have no function for; their numbers are the same on every architecture.
_NUMBERS = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "close_range": 436,
    "openat2": 437, "mount_setattr": 442, "landlock_create_ruleset": 444, "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}  # fmt: skip
_PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS = 21, 39


class Amiss(Exception):
    """What is amiss, as a line for the broker; empty where nobody is to be told."""

    def __init__(self, layer: str, error: str) -> None:
        """Both are fit for the inside of JSON."""
        super().__init__(f"{layer}: {error}")
        self.line = f'{{"layer": "{layer}", "error": "{error}"}}\n'.encode() if layer else b""


class _Part:
    """A part in memory: its steps, its data, and where that lies."""

    def __init__(self, job: memoryview, base: int, at: int) -> None:
        magic, self.size, self.num_steps, num_data = machine.HEADER.unpack_from(job, at)
        steps, end = at + machine.HEADER.size, at + self.size
        if (
            magic != machine.MAGIC
            or end > len(job)
            or end - num_data != steps + self.num_steps * machine.STEP.size
        ):
            raise Amiss("launcher", "the job is broken")
        self.steps, self.data = job[steps : end - num_data], job[end - num_data : end]
        self.address = base + end - num_data

    def text(self, offset: int) -> str:
        rest = bytes(self.data[offset : offset + 2 * 4096])
        return rest[: rest.index(0)].decode()


def carry_out(job: bytes, registers: list[int]) -> int:
    """The exit code of the script that a job ends in; 0 for steps that come before a job. Raises Amiss."""
    held = ctypes.create_string_buffer(job, len(job))
    view, address = memoryview(held).cast("B"), ctypes.addressof(held)
    at = code = 0
    while at < len(job):
        part = _Part(view, address, at)
        code = _Interpreter(part, registers).all()
        at += part.size
    return code


class _Interpreter:
    def __init__(self, part: _Part, registers: list[int]) -> None:
        self._part, self._registers = part, registers
        self._waits = 0

    def all(self) -> int:
        at = code = 0
        while at < self._part.num_steps:
            op, call, into, target, _, kinds, expected, layer, what, *plain = machine.STEP.unpack_from(
                self._part.steps, at * machine.STEP.size
            )
            args = [self._value(kind, value) for kind, value in zip(kinds, plain, strict=True)]
            at += 1
            match op:
                case machine.CALL:
                    result = _function(machine.CALLS[call])(*args)
                    number = ctypes.get_errno()
                    if into != machine.NOWHERE:
                        self._registers[into] = result
                    if result == -1:
                        if number not in expected and machine.ANY not in expected:
                            raise self._amiss(layer, what, number)
                        at = at if target == machine.NOWHERE else target
                case machine.STORE:
                    place, width = self._place(plain[1])
                    self._part.data[place : place + width] = args[0].to_bytes(8, "little")[:width]
                case machine.LOAD:
                    place, width = self._place(plain[0])
                    self._registers[into] = int.from_bytes(self._part.data[place : place + width], "little")
                case machine.SET:
                    self._registers[into] = args[0]
                case machine.JUMP | machine.UNLESS:
                    if ((args[0] & args[1]) == args[2]) == (op == machine.JUMP):
                        at = target
                case machine.AGAIN:
                    self._waits += 1
                    if self._waits > machine.MOST_AGAIN:
                        raise self._amiss(layer, what, errno.EBUSY)
                    time.sleep(machine.AGAIN_S)
                    at = target
                case machine.DECIMAL:
                    place, width = self._place(plain[1])
                    self._part.data[place : place + width] = (b"%d" % args[0]).ljust(width, b"\0")
                case machine.RUN:
                    _refuse_unsealed()
                    place, width = self._place(plain[0])
                    code = init.run(bytes(self._part.data[place : place + width]))
                case machine.END:
                    raise Amiss("", "")
                case _:
                    raise self._amiss(layer, what, 0)
        return code

    def _value(self, kind: int, value: int) -> int:
        """As 64 bits without a sign."""
        if kind == machine.REGISTER:
            return self._registers[value] & _MASK
        return self._part.address + (value & 0xFFFFFFFF) if kind == machine.DATA else value

    def _place(self, value: int) -> tuple[int, int]:
        return value & 0xFFFFFFFF, value >> 32

    def _amiss(self, layer: int, what: int, number: int) -> Amiss:
        name = self._part.text(layer) if layer else "launcher"
        return Amiss(name, self._part.text(what) + (f": {os.strerror(number)}" if number else ""))


def _function(name: str) -> Callable[..., int]:
    """The system call, with six arguments as wide as a pointer; libc's where it has a function of that name."""
    if name in _NUMBERS:
        return lambda *args: kernel.plain_syscall(_NUMBERS[name], *args)
    function: Any = kernel.libc[name]
    function.argtypes = (ctypes.c_void_p,) * 6
    function.restype = ctypes.c_int
    return function


def _refuse_unsealed() -> None:
    """Whatever the steps were: no command runs without the last layers. By asking the kernel."""
    if os.getpid() != 1:
        raise Amiss("launcher", "not the first process of its namespace")
    if kernel.libc.prctl(_PR_GET_NO_NEW_PRIVS, *(ctypes.c_ulong(0),) * 4) != 1:
        raise Amiss("launcher", "new privileges could be had")
    if kernel.libc.prctl(_PR_GET_SECCOMP) != kernel.SECCOMP_MODE_FILTER:
        raise Amiss("launcher", "there is no system call filter")
    fd = os.open("/proc/self/uid_map", os.O_RDONLY | os.O_CLOEXEC)
    mapped = os.read(fd, 256).split()
    os.close(fd)
    if len(mapped) < 2 or int(mapped[1]) == 0:
        raise Amiss("launcher", "it could be host uid 0")


def tell_the_end(code: int) -> None:
    """Close the program's streams, and say its exit code and whether it lacked memory."""
    for fd in range(machine.STATUS_FD):
        os.close(fd)
    short = ', "out-of-memory": true' if _memory_kills() else ""
    line = f'{{"exit-code": {code}{short}}}\n'
    try:
        os.write(machine.STATUS_FD, line.encode())
    except OSError:  # who has gone does not hear it
        pass


def _memory_kills() -> int:
    try:
        return count_kills(machine.KILLS_FD)
    except OSError:  # nobody counts
        return 0
