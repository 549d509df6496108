"""A sandbox's job for a fork: the plan of a box, layer by layer, as the steps of a program.

A fork runs its code for the first time, on pages that it shares with its parent and has to copy; the
launcher runs the same every time, ten times as fast, and keeps what is the same for many calls. So
everything that can be made out is made out here, and a fork carries it out. Standard library only, because
the launcher runs without site-packages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from llmos.guard import fences, jobs, masksteps, mountsteps, reach, sandbox, script, template, treesteps
from llmos.guard.ground import folder
from llmos.guard.machine import ANY
from llmos.guard.sandbox import Box, Pipe, Step, is_within
from llmos.guard.steps import STATUS, Steps

_KEPT = 32  # boxes of which the layers are kept, some 30 kB each


@dataclass(frozen=True, slots=True, eq=False)
class Host:
    """What of the machine shapes a job: who the launcher is, what is mounted, and the kernel's Landlock."""

    privileged: bool
    landlock_version: int
    table: Sequence[template.Mount] = ()


@lru_cache(maxsize=_KEPT)
def planned(line: bytes) -> tuple[Box, tuple[Step, ...]]:
    """A box without its script (`jobs`), and its plan."""
    box = jobs.box_of(line)
    return box, sandbox.plan(box)


def of(line: bytes, pipes: Sequence[Pipe], host: Host, *, bpf: bytes, counted: bool) -> bytes:
    """The job, for both interpreters. `counted`: there is an open file that counts memory kills."""
    return _around(line, host, bpf, counted) + _program(planned(line)[0], pipes)


@lru_cache(maxsize=_KEPT)
def _around(line: bytes, host: Host, bpf: bytes, counted: bool) -> bytes:
    return b"".join((fences.session(), *_layers(*planned(line), host, bpf, counted)))


def _layers(  # noqa: PLR0912 - one line or two for each layer
    box: Box, plan: Sequence[Step], host: Host, bpf: bytes, counted: bool
) -> Iterator[bytes]:
    """In the order of the plan. All mounts are made at once, at the first of them, and the masks after
    those."""
    mounts = tuple(step for step in plan if isinstance(step, sandbox.Mount) and step.what != "masked")
    for step in plan:
        match step:
            case sandbox.Namespaces() | sandbox.ControlGroup():
                pass  # made before the process, and with it
            case sandbox.Reach():
                yield reach.listening(step.routes)
            case sandbox.Mount():
                if step is mounts[0]:
                    hosts_file = box.hosts_file if box.routes else ""
                    yield from treesteps.mounted(mounts, _ground(box, host), hosts_file)
            case sandbox.NewRoot():
                yield masksteps.masked(box.hidden, ways(box.hidden, box.write_roots))
                yield treesteps.rooted()
            case sandbox.Identity():
                yield fences.identity(step.uid, step.gid, step.groups, privileged=host.privileged)
            case sandbox.Runtime():
                yield fences.runtime(step.folders, box.name_servers)
            case sandbox.Folder():
                yield fences.folder(step.path)
            case sandbox.UserNamespace():
                yield fences.users(step.inside, step.outside)
            case sandbox.NoPrivileges():
                yield fences.privileges()
            case sandbox.Streams():
                yield fences.streams(detached=step.detached, counted=counted)
            case sandbox.Limits():
                yield fences.limits(step)
            case sandbox.Landlock():
                yield fences.landlocked(host.landlock_version, step.writable, network=step.network)
            case sandbox.SystemCalls():
                yield fences.filtered(bpf)
            case _:
                raise AssertionError(f"no layer is called {step}")


def _ground(box: Box, host: Host) -> treesteps.Ground:
    return treesteps.Ground(
        folder=folder(mapped=box.id_mapped),
        below={root: tuple(template.below(root, host.table)) for root in box.write_roots},
        mapped=box.id_mapped,
        in_userns=not host.privileged,
        owner=(box.host_uid, box.host_gid),
        stage=box.stage,
        seen=box.seen,
    )


def _program(box: Box, pipes: Sequence[Pipe]) -> bytes:
    s = Steps()
    with s.of("launcher"):
        if box.detached:
            mountsteps.write(s, STATUS, '{"started": true}\n', ignore=(ANY,))
        s.run(s.constant(script.encoded(pipes, box.env, box.cwd)))
    return s.part()


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
