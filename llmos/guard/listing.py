"""A job of a sandbox as text, for people and tests: a line for each step.

    r17 = openat2(-100, "/srv", <96+24>, 24)  write-root
    r18 = statx(r17, "", 4096, 1, <120+256>)  write-root
    if r19 & 61440 == 16384: 8

`<96+24>` is data that is no text, its place and its bytes; a number after `else` is the step after an error
that is expected.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from llmos.guard import machine

_NAMES = {
    machine.STDIN: "stdin",
    machine.STDOUT: "stdout",
    machine.STDERR: "stderr",
    machine.STATUS: "status",
    machine.KILLS: "kills",
    machine.USERNS: "userns",
    machine.LAUNCHER: "launcher",
    machine.OWN_PROC: "own_proc",
    machine.PROC: "proc",
    machine.TERMINALS: "terminals",
}
_SIGN = 1 << 63


def listing(job: bytes) -> str:
    return "".join(f"{line}\n" for line in lines(job))


def lines(job: bytes) -> Iterator[str]:
    at = 0
    while at < len(job):
        _, size, count, num_data = machine.HEADER.unpack_from(job, at)
        data = job[at + size - num_data : at + size]
        yield f"part of {count} steps"
        for number in range(count):
            first = at + machine.HEADER.size + number * machine.STEP.size
            step = job[first : first + machine.STEP.size]
            yield f"{number:4} {_line(step, data)}"
        at += size


def _line(step: bytes, data: bytes) -> str:
    op, call, into, target, _, kinds, expected, layer, what, *values = machine.STEP.unpack(step)
    args = [_argument(kind, value, data) for kind, value in zip(kinds, values, strict=True)]
    result = "" if into == machine.NOWHERE else f"{_register(into)} = "
    place = "next" if target == machine.NOWHERE else str(target)
    match op:
        case machine.CALL:
            errors = [
                "any" if number == machine.ANY else errno.errorcode[number] for number in expected if number
            ]
            text = f"{result}{machine.CALLS[call]}({', '.join(_used(args))})"
            text += f" else {'|'.join(errors)}: {place}" if errors else ""
        case machine.STORE | machine.DECIMAL:
            text = f"{args[1]} = {args[0]}{' in decimal' if op == machine.DECIMAL else ''}"
        case machine.LOAD | machine.SET:
            text = f"{result}{args[0]}"
        case machine.JUMP | machine.UNLESS:
            text = f"{'if' if op == machine.JUMP else 'unless'} {args[0]} & {args[1]} == {args[2]}: {place}"
        case machine.AGAIN:
            text = f"again: {place}"
        case machine.FAIL:
            text = f'fail "{_text(data, what)}"'
        case machine.END:
            text = "end"
        case _:
            text = f"run {args[0]}"
    return f"{text:76} {_text(data, layer)}".rstrip()


def _used(args: list[str]) -> list[str]:
    """Without the zeros at the end, of which a system call may have some."""
    while args and args[-1] == "0":
        args = args[:-1]
    return args


def _register(number: int) -> str:
    return _NAMES.get(number, f"r{number}")


def _argument(kind: int, value: int, data: bytes) -> str:
    if kind == machine.REGISTER:
        return _register(value)
    if kind == machine.NUMBER:
        return str(value - (1 << 64) if value >= _SIGN else value)
    offset, length = value & 0xFFFFFFFF, value >> 32
    found = data[offset : offset + length]
    if found.endswith(b"\0") and found[:-1].isascii() and found[:-1].decode("ascii").isprintable():
        return f'"{found[:-1].decode("ascii")}"'
    return f"<{offset}+{length}>"


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(0, offset)].decode("ascii") if offset else ""
