"""The machine that carries out a sandbox's steps: what a program of them is in bytes (`steps` writes it).

A *part* is a program, mostly one for a layer, with the data that its steps point to; a job is parts, one
after the other. There are two interpreters: `native/`, in C, and `carry`, in Python where there is no
compiler.

Registers (64 bits, signed) are shared by the parts of a job, data belongs to its part. Jumps lead forward
only, but for AGAIN, whose waits are bounded in sum: every program ends. An error that a step does not
expect ends the sandbox, told by the name of the step's layer.

A part in bytes, native byte order, all of it a multiple of 8:

    header   magic, bytes of the part, number of steps, bytes of data: four u32
    steps    80 bytes each, as in `STEP`
    data     what arguments of kind DATA point to; it ends in a zero

Standard library only, and little of it: a fork of the nursery loads this.
"""

from __future__ import annotations

import os
import struct

MAGIC = 0x31736D6C  # "lms1"
HEADER = struct.Struct("=4I")
# op, call, register of the result, step to go on at, spare; kinds of the arguments; errors that are expected;
# the texts of layer and what (offsets in data); the arguments
STEP = struct.Struct("=BBHHH6s2x8s2I6Q")
MAX_REGISTERS = 4096
MAX_STEPS = 0xFFFF
MAX_EXPECTED = 8
NOWHERE = 0xFFFF  # no register, no step
ANY = 0xFF  # among the expected errors: all of them
AGAIN_S, MOST_AGAIN = 0.002, 1500  # the pause of AGAIN, and how many there may be in a job

# Kinds of steps.
CALL = 0  # a system call with the arguments; its result to the register
STORE = 1  # the first argument to the data that the second points to, as wide as that
LOAD = 2  # to the register from the data that the first argument points to, as wide as that, unsigned
SET = 3  # to the register the first argument
JUMP = 4  # to the step where first & second == third
UNLESS = 5  # to the step where not
AGAIN = 6  # back to the step after a short pause; when that was too often, EBUSY is the error
FAIL = 7  # end the sandbox with this message
END = 8  # end it and say nothing
RUN = 9  # be the init of the script in the first argument; the last step of a job, and of a job alone
DECIMAL = 10  # the first argument as decimal text of C's to the data that the second points to

# Kinds of arguments.
NUMBER, REGISTER, DATA = 0, 1, 2  # data: offset in the lower half, bytes in the upper

# Registers that a job begins with; -1: there is none. The last three are of what a fork prepared before.
STDIN, STDOUT, STDERR, STATUS, KILLS, USERNS, LAUNCHER, OWN_PROC, PROC, TERMINALS = range(10)
FIRST_FREE = 16

# Where the descriptors of an init lie.
STATUS_FD, KILLS_FD = 3, 4


def _calls() -> tuple[str, ...]:
    """The list of system calls is the C program's; their places in it are their numbers here."""
    with open(os.path.join(os.path.dirname(__file__), "native", "calls.h")) as file:
        return tuple(line[5:-2] for line in file if line.startswith("CALL("))


CALLS = _calls()
