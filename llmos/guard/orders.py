"""What a fork is told, in plain data: everything about a box that can be made out before it is entered.

A fork runs its code for the first time, on pages that it shares with its parent and has to copy; the launcher
runs the same every time, ten times as fast. So the plan is made there, and a fork carries out its steps.
Marshal (between processes of one interpreter, of one user) reads five times as fast as JSON.
"""

from __future__ import annotations

import marshal
import os
import resource
from collections.abc import Sequence
from typing import Any

from llmos.guard import sandbox, template
from llmos.guard.ground import folder
from llmos.guard.sandbox import Box, Limits, Step, is_within

_LIMITS = (
    # 1, not 0: a core_pattern that names a program is started, by host root, for 0 too; 1 stops it (core(5)).
    (resource.RLIMIT_CORE, 1),
    (resource.RLIMIT_MEMLOCK, 8 << 20),
    (resource.RLIMIT_MSGQUEUE, 0),
)
_FIELDS = (
    *("cwd", "host_uid", "host_gid", "write_roots", "hidden", "stage", "name_servers", "routes"),
    *("hosts_file", "seen", "detached", "env"),
)


def of(box: Box, plan: Sequence[Step], table: list[template.Mount]) -> bytes:
    """The orders for this box, on a host with these mounts; `enclosure.Orders` reads them."""
    told: dict[str, Any] = {name: getattr(box, name) for name in _FIELDS}
    told |= {
        "steps": tuple(_plain(step) for step in plan if not _is_mask(step)),
        "script": tuple(box.to_job()["script"]),
        "folder": folder(mapped=box.id_mapped),
        "below": {root: tuple(template.below(root, table)) for root in box.write_roots},
        "ways": ways(box.hidden, box.write_roots),
    }
    return marshal.dumps(told)


def _plain(step: Step) -> tuple[Any, ...]:
    """The step's name, then its fields; what the launcher itself does has none of use to a fork."""
    name = type(step).__name__
    match step:
        case sandbox.Namespaces() | sandbox.ControlGroup():
            return (name,)
        case Limits():
            return (name, rlimits(step))
    return (name, *(getattr(step, field) for field in step.__slots__))


def _is_mask(step: Step) -> bool:
    """They are the paths in `hidden`, and come after all other mounts."""
    return isinstance(step, sandbox.Mount) and step.what == "masked"


def rlimits(limits: Limits) -> tuple[tuple[int, int], ...]:
    """For setrlimit(2): which, and how much."""
    wanted = (
        *_LIMITS,
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_DATA, limits.data_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
    )
    return wanted if limits.cpu_s is None else (*wanted, (resource.RLIMIT_CPU, limits.cpu_s))


def ways(hidden: Sequence[str], write_roots: Sequence[str]) -> tuple[str, ...]:
    """The folders between a write root and what is hidden in it, parents first."""
    found = set()
    for path in hidden:
        for root in write_roots:
            place = os.path.dirname(path)
            while is_within(place, root) and place != root:
                found.add(place)
                place = os.path.dirname(place)
    return tuple(sorted(found))
