"""What the init of a sandbox is to do, in bytes: `sandbox.Pipe` and `Command` as both inits read them.

Numbers are u32 in native byte order. A text is its length, its bytes, and a NUL that is not counted; a list
is how many there are, and then those. In this order:

    text of PATH, by which programs without a path are found; text of the folder it begins in
    list of texts: the environment, NAME=value
    list of pipes: joiner (index in `JOINERS`), is it a change of folder, and then
        the text of the folder, or
        the list of commands: text of the program (empty: argv[0]), list of texts argv,
            list of redirections (descriptor, index in `REDIRECTS`, text of the target), list of texts
            environment
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from llmos.guard.sandbox import Command, Pipe

JOINERS = ("", "&&", "||", ";")
REDIRECTS = ("<", ">", ">>", ">&")


def encoded(script: Sequence[Pipe], env: Sequence[tuple[str, str]], cwd: str) -> bytes:
    parts = [_surroundings(tuple(env), cwd), _number(len(script))]
    for pipe in script:
        parts += (_number(JOINERS.index(pipe.joiner)), _number(pipe.cd is not None))
        if pipe.cd is not None:
            parts.append(_text(pipe.cd))
            continue
        parts.append(_number(len(pipe.commands)))
        for command in pipe.commands:
            parts += _command(command)
    return b"".join(parts)


@lru_cache(maxsize=32)
def _surroundings(env: tuple[tuple[str, str], ...], cwd: str) -> bytes:
    pairs = [f"{name}={value}" for name, value in env]
    return b"".join((_text(dict(env).get("PATH", "")), _text(cwd), *_texts(pairs)))


def _command(command: Command) -> Iterable[bytes]:
    yield _text(command.program)
    yield from _texts(command.argv)
    yield _number(len(command.redirects))
    for fd, op, target in command.redirects:
        yield from (_number(fd), _number(REDIRECTS.index(op)), _text(target))
    yield from _texts(command.env)


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


def _text(value: str) -> bytes:
    plain = os.fsencode(value)
    return b"".join((struct.pack("=I", len(plain)), plain, b"\0"))


def _texts(values: Sequence[str]) -> list[bytes]:
    return [_number(len(values)), *map(_text, values)]
