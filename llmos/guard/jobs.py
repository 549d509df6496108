"""A box on its way from the broker to the launcher: two lines of JSON, the box without its script, and that.

Apart, because the first is the same for many calls: the launcher keeps what it has made of it. Standard
library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import json
from typing import Any

from llmos.guard.sandbox import Box, Command, Limits, Pipe, UserLimits


def encoded(box: Box) -> bytes:
    """By hand: `asdict` copies every string and takes a hundred times as long."""
    job = {name: getattr(box, name) for name in box.__slots__ if name != "script"}
    job["limits"] = {name: getattr(box.limits, name) for name in box.limits.__slots__}
    if own := box.limits.user:
        job["limits"]["user"] = [own.uid, own.memory_bytes, own.processes, own.cpus]
    script = [(list(map(_of_command, pipe.commands)), pipe.joiner, pipe.cd) for pipe in box.script]
    return f"{json.dumps(job)}\n{json.dumps(script)}".encode()


def box_of(line: bytes) -> Box:
    """The box of the first line; its script is empty."""
    job: dict[str, Any] = json.loads(line)
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in job.items()
    }
    own = job["limits"].get("user")
    fields["limits"] = Limits(**{**job["limits"], "user": UserLimits(*own) if own else None})
    fields["env"] = tuple((key, value) for key, value in job["env"])
    fields["seen"] = tuple((path, device, inode) for path, device, inode in job["seen"])
    fields["routes"] = tuple((address, port) for address, port in job["routes"])
    return Box(script=(), **fields)


def script_of(line: bytes) -> tuple[Pipe, ...]:
    """The script of the second line."""
    return tuple(
        Pipe(tuple(_to_command(*command) for command in commands), joiner, cd)
        for commands, joiner, cd in json.loads(line)
    )


def _of_command(one: Command) -> tuple[Any, ...]:
    return one.argv, one.program, one.redirects, one.env


def _to_command(argv: list[str], program: str, redirects: list[list[Any]], env: list[str]) -> Command:
    return Command(tuple(argv), program, tuple((fd, op, target) for fd, op, target in redirects), tuple(env))
