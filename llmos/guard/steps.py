"""Writes the parts of a job (`machine`): system calls, one after the other, as plain data.

    s = Steps()
    with s.of("landlock"):
        ruleset = s.fd("landlock_create_ruleset", s.pack("=Q", rights), 8, 0)
        s.call("landlock_restrict_self", ruleset, 0)
    s.part()

Standard library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmos.guard import machine

_MASK = (1 << 64) - 1
_CALL_NUMBERS = {name: number for number, name in enumerate(machine.CALLS)}


class Register(int):
    """The number of one."""


STDIN, STDOUT, STDERR, STATUS, KILLS, USERNS, LAUNCHER, OWN_PROC, PROC, TERMINALS = map(Register, range(10))


@dataclass(frozen=True, slots=True)
class Data:
    """Some bytes of a part's data."""

    offset: int
    length: int

    def at(self, offset: int, length: int) -> Data:
        assert offset + length <= self.length
        return Data(self.offset + offset, length)


class Label:
    """A step to jump to; -1 until it is known."""

    def __init__(self) -> None:
        self.step = -1


Argument = int | str | Data | Register | None  # text: its address, a zero behind it


class Steps:
    """A part that is being written. `with steps.of(LAYER)` says whose the steps in it are."""

    def __init__(self, first_register: int = machine.FIRST_FREE) -> None:
        self._steps: list[tuple[list[int | bytes], Label | None]] = []
        self._data = bytearray(8)  # offset 0 is no text
        self._known: dict[bytes, Data] = {}
        self._layer = 0
        self._registers = first_register

    # --- data ---

    def constant(self, value: bytes) -> Data:
        """Constant bytes; the same ones twice are one."""
        if (found := self._known.get(value)) is None:
            found = self._known[value] = self.space(len(value), value)
        return found

    def text(self, value: str) -> Data:
        """A string of C's."""
        return self.constant(os.fsencode(value) + b"\0")

    def pack(self, form: str, *values: int | bytes) -> Data:
        """A constant structure of C's."""
        return self.constant(struct.pack(form, *values))

    def space(self, length: int, value: bytes = b"") -> Data:
        """Room that steps write to, with `value` at its beginning."""
        place = Data(len(self._data), length)
        self._data += value.ljust(-(-length // 8) * 8, b"\0")
        return place

    # --- steps ---

    @contextlib.contextmanager
    def of(self, layer: str) -> Iterator[None]:
        outer, self._layer = self._layer, self.text(layer).offset
        yield
        self._layer = outer

    def register(self) -> Register:
        assert self._registers < machine.MAX_REGISTERS, "too many registers"
        self._registers += 1
        return Register(self._registers - 1)

    def call(
        self,
        name: str,
        *args: Argument,
        what: str = "",
        into: Register | None = None,
        ignore: Sequence[int] = (),
        otherwise: Label | None = None,
    ) -> None:
        """One system call. Of an error in `ignore` the result is -1, and it goes on at `otherwise`."""
        assert len(ignore) <= machine.MAX_EXPECTED
        number, expected = _CALL_NUMBERS[name], bytes(ignore)
        self._add(
            machine.CALL, args, number, into=into, label=otherwise, expected=expected, what=what or name
        )

    def fd(
        self,
        name: str,
        *args: Argument,
        what: str = "",
        ignore: Sequence[int] = (),
        otherwise: Label | None = None,
    ) -> Register:
        """The same for a call whose result is wanted."""
        into = self.register()
        self.call(name, *args, what=what, into=into, ignore=ignore, otherwise=otherwise)
        return into

    def store(self, value: Argument, place: Data) -> None:
        self._add(machine.STORE, (value, place))

    def decimal(self, value: Argument, place: Data) -> None:
        self._add(machine.DECIMAL, (value, place))

    def load(self, place: Data, into: Register | None = None) -> Register:
        into = into or self.register()
        self._add(machine.LOAD, (place,), into=into)
        return into

    def set(self, into: Register, value: Argument) -> None:
        self._add(machine.SET, (value,), into=into)

    def jump(self, label: Label) -> None:
        self._add(machine.JUMP, (0, 0, 0), label=label)

    def jump_if(self, value: Argument, wanted: int, label: Label, *, mask: int = _MASK) -> None:
        self._add(machine.JUMP, (value, mask, wanted), label=label)

    def jump_unless(self, value: Argument, wanted: int, label: Label, *, mask: int = _MASK) -> None:
        self._add(machine.UNLESS, (value, mask, wanted), label=label)

    def again(self, label: Label, what: str) -> None:
        self._add(machine.AGAIN, (), label=label, what=what)

    def fail(self, text: str) -> None:
        self._add(machine.FAIL, (), what=text)

    def end(self) -> None:
        self._add(machine.END, ())

    def run(self, script: Data) -> None:
        self._add(machine.RUN, (script,))

    def place(self, label: Label) -> None:
        """The label stands for the next step."""
        label.step = len(self._steps)

    def _add(
        self,
        op: int,
        args: Sequence[Argument],
        call: int = 0,
        *,
        into: Register | None = None,
        label: Label | None = None,
        expected: bytes = b"",
        what: str = "",
    ) -> None:
        kinds, values = self._arguments(args)
        told = self.constant(escaped(what).encode() + b"\0").offset if what else 0
        register = machine.NOWHERE if into is None else into
        fixed: list[int | bytes] = [op, call, register, machine.NOWHERE, 0, kinds, expected]
        self._steps.append(([*fixed, self._layer, told, *values], label))

    def _arguments(self, args: Sequence[Argument]) -> tuple[bytes, list[int]]:
        kinds, values = bytearray(6), [0] * 6
        for number, value in enumerate(args):
            if isinstance(value, Register):
                kinds[number], values[number] = machine.REGISTER, int(value)
            elif isinstance(value, int):
                values[number] = value & _MASK
            elif value is not None:
                data = value if isinstance(value, Data) else self.text(value)
                kinds[number], values[number] = machine.DATA, data.length << 32 | data.offset
        return bytes(kinds), values

    def part(self) -> bytes:
        """In bytes. A label that was not placed leads to the end of the part."""
        assert len(self._steps) < machine.MAX_STEPS, "too many steps"
        packed = []
        for fields, label in self._steps:
            if label is not None:
                fields[3] = label.step if label.step >= 0 else len(self._steps)
            packed.append(machine.STEP.pack(*fields))
        data = self._data + bytes(8)  # so that every text in it ends
        size = machine.HEADER.size + len(packed) * machine.STEP.size + len(data)
        header = machine.HEADER.pack(machine.MAGIC, size, len(packed), len(data))
        return b"".join((header, *packed, data))


def escaped(text: str) -> str:
    """As between the quotes of a JSON string (RFC 8259), all of it ASCII; what is no text as it came."""
    return json.dumps(text)[1:-1]
