"""Carries out the steps of a sandbox (`machine`) in Python, where no C compiler has made a program that does.

Runs in a fork of the nursery, which the kernel has just made pid 1 of new namespaces. Whatever fails is
told to the broker by the name of its layer, and nothing is run. Standard library only, and little of it:
what a fork touches for the first time it has to copy.
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
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    _Step = tuple[Any, ...]  # as `machine.STEP` has it

_MASK, _LOWER = (1 << 64) - 1, (1 << 32) - 1
_ARGS, _NUMBERS_ALONE = slice(9, 15), bytes(6)  # in a step as it is unpacked
# System calls that libc may have no function for; their numbers are the same on every architecture.
_NUMBERS = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "close_range": 436,
    "openat2": 437, "mount_setattr": 442, "landlock_create_ruleset": 444, "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}  # fmt: skip
_PR_GET_DUMPABLE, _PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS = 3, 21, 39


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

    def ends_in_run(self) -> bool:
        return self.num_steps > 0 and self.steps[-machine.STEP.size] == machine.RUN

    def text(self, offset: int) -> str:
        rest = bytes(self.data[offset : offset + 2 * 4096])
        return rest[: rest.index(0)].decode()


def prepare(steps: bytes, registers: list[int]) -> None:
    """Carry out what comes before a job. Raises Amiss."""
    for part in _parts(steps):
        _Interpreter(part, registers).all()


def carry_out(job: bytes, registers: list[int]) -> int:
    """The exit code of the script that the job ends in. Raises Amiss."""
    parts = list(_parts(job))
    if not parts or not parts[-1].ends_in_run():
        raise Amiss("launcher", "the job is broken")
    for part in parts[:-1]:
        _Interpreter(part, registers).all()
    return _Interpreter(parts[-1], registers, is_last=True).all()


def _parts(job: bytes) -> Iterator[_Part]:
    """All in one piece of memory, which they keep."""
    held = ctypes.create_string_buffer(job, len(job))
    view, address, at = memoryview(held).cast("B"), ctypes.addressof(held), 0
    while at < len(job):
        yield (part := _Part(view, address, at))
        at += part.size


class _Interpreter:
    """Of one part. Each method carries out a kind of step, and returns the number of the next."""

    def __init__(self, part: _Part, registers: list[int], *, is_last: bool = False) -> None:
        self._part, self._registers, self._is_last = part, registers, is_last
        self._waits = self._code = 0

    def all(self) -> int:
        steps, unpack, size = self._part.steps, machine.STEP.unpack_from, machine.STEP.size
        at = 0
        while at < self._part.num_steps:
            step = unpack(steps, at * size)
            op, target, kinds = step[0], step[3], step[5]
            args = step[_ARGS] if kinds == _NUMBERS_ALONE else self._values(step)
            at += 1
            target = at if target == machine.NOWHERE else target
            if target < at and op != machine.AGAIN:
                raise Amiss("launcher", "the job is broken")
            at = _METHODS[op](self, step, args, at, target)
        return self._code

    def _values(self, step: _Step) -> list[int]:
        """The arguments as 64 bits without a sign."""
        values = list(step[_ARGS])
        for number, kind in enumerate(step[5]):
            if kind == machine.REGISTER:
                values[number] = self._registers[values[number]] & _MASK
            elif kind == machine.DATA:
                values[number] = self._part.address + self._place(step, number).start
        return values

    def _place(self, step: _Step, number: int) -> slice:
        """What an argument of kind DATA points to."""
        value = step[_ARGS][number]
        start, end = value & _LOWER, (value & _LOWER) + (value >> 32)
        if end > len(self._part.data):
            raise Amiss("launcher", "the job is broken")
        return slice(start, end)

    def call(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        into = step[2]
        result = _FUNCTIONS[step[1]](*args)
        if into != machine.NOWHERE:
            self._registers[into] = result
        if result != -1:
            return at
        error, expected = ctypes.get_errno(), step[6]
        if error not in expected and machine.ANY not in expected:
            raise self._amiss(step, error)
        return target

    def store(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        place = self._place(step, 1)
        self._part.data[place] = args[0].to_bytes(8, "little")[: place.stop - place.start]
        return at

    def load(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        self._registers[step[2]] = int.from_bytes(self._part.data[self._place(step, 0)], "little")
        return at

    def set(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        self._registers[step[2]] = args[0]
        return at

    def jump(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        equal = (args[0] & args[1]) == args[2]
        return target if equal == (step[0] == machine.JUMP) else at

    def again(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        self._waits += 1
        if self._waits > machine.MOST_AGAIN:
            raise self._amiss(step, errno.EBUSY)
        time.sleep(machine.AGAIN_S)
        return target

    def fail(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        raise self._amiss(step)

    def end(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        raise Amiss("", "")

    def run(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        if not self._is_last or at != self._part.num_steps:
            raise Amiss("launcher", "the job is broken")
        _refuse_unsealed()
        self._code = init.run(bytes(self._part.data[self._place(step, 0)]))
        return at

    def decimal(self, step: _Step, args: Sequence[int], at: int, target: int) -> int:
        place = self._place(step, 1)
        self._part.data[place] = (b"%d" % args[0]).ljust(place.stop - place.start, b"\0")
        return at

    def _amiss(self, step: _Step, number: int = 0) -> Amiss:
        layer, what = step[7:9]
        name = self._part.text(layer) if layer else "launcher"
        return Amiss(name, self._part.text(what) + (f": {os.strerror(number)}" if number else ""))


# By the numbers of `machine`.
_METHODS = (
    *(_Interpreter.call, _Interpreter.store, _Interpreter.load, _Interpreter.set, _Interpreter.jump),
    *(_Interpreter.jump, _Interpreter.again, _Interpreter.fail, _Interpreter.end, _Interpreter.run),
    _Interpreter.decimal,
)


def _function(name: str) -> Callable[..., int]:
    """The system call, with six arguments as wide as a pointer; libc's where it has a function of that
    name."""
    if name in _NUMBERS:
        return lambda *args: kernel.plain_syscall(_NUMBERS[name], *args)
    function = kernel.libc[name]
    function.argtypes = (ctypes.c_void_p,) * 6
    function.restype = ctypes.c_int
    found: Callable[..., int] = function
    return found


_FUNCTIONS = tuple(map(_function, machine.CALLS))  # made once, and not in each fork


def _refuse_unsealed() -> None:
    """Whatever the steps were: no command runs without the last layers. By asking the kernel."""
    if os.getpid() != 1:
        raise Amiss("launcher", "not the first process of its namespace")
    if kernel.libc.prctl(_PR_GET_NO_NEW_PRIVS, *(ctypes.c_ulong(0),) * 4) != 1:
        raise Amiss("launcher", "new privileges could be had")
    if any(kernel.capabilities()):
        raise Amiss("launcher", "capabilities are left")
    if kernel.libc.prctl(_PR_GET_DUMPABLE) != 0:
        raise Amiss("launcher", "the first process could be looked into")
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
