"""The launcher's process: it makes out what each sandboxed command gets, and has a fork carry that out.

It runs as the broker's own user and holds no state of requests. A job comes over a socketpair from the broker
alone: one byte (is the network granted, is it to outlive us, is its view ID-mapped), after it the control
group of the user if they have one, and by SCM_RIGHTS the descriptors

    job (JSON of a `Box`), stdin, stdout, stderr, status, filter (BPF)

The fork comes from the nursery, born in its namespaces, and puts the other layers around itself by the
steps that `orders` has written. Lines of JSON on `status` tell how far it came: `{"pid"}` from here with
the fork's pidfd attached, then `{"layer", "error"}` where it failed, or `{"exit-code"}` once everything it
had started is dead (for a program that is to stay, `{"started"}` before that). It ends when the broker's
end of the socketpair closes, and what is not detached ends with it.

Start it as `python -I -S -c "..." FD STAND_IN`: nothing of the user's environment or site-packages is
loaded, and it is up in about 30 ms, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO

from llmos.guard import cgroups, fences, jobs, kernel, landlock, nursery, orders, sandbox
from llmos.guard.idmap import IdMap
from llmos.guard.layering import LayerError, count_kills, layer
from llmos.guard.nursery import Nursery
from llmos.guard.sandbox import ControlGroup, Pipe
from llmos.guard.template import Templates

JOB_FDS = 6
NETWORK, DETACHED, MAPPED = 1, 2, 4  # bits of a job's byte
_LEAVE_S = 2.0
_FLAGS = {
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "net": kernel.CLONE_NEWNET,
}


@dataclass(frozen=True, slots=True)
class Fork:
    group: str
    status: int = -1  # none while it stands by
    detached: bool = False
    kills: tuple[int, ...] = ()  # an open file that counts what was ended for want of memory, where one does


@dataclass(frozen=True, slots=True)
class Waiting:
    """A fork that waits for its job; `generation` is of the trees it has."""

    pid: int
    sock: socket.socket
    generation: int
    group: str


@dataclass(frozen=True, slots=True)
class _Job:
    box: bytes  # as in `jobs`
    script: tuple[Pipe, ...]
    fds: tuple[int, ...]  # the three streams, and status
    bpf: bytes

    @property
    def status(self) -> int:
        return self.fds[3]

    @property
    def bounds(self) -> ControlGroup:
        _, plan = orders.planned(self.box)
        return next(step for step in plan if isinstance(step, ControlGroup))


class Zygote:
    """Has forks made, and clears away behind them."""

    def __init__(self, born_in: Nursery, stand_in: int, error: LayerError | None, program: str) -> None:
        """`error`: why there is no mount namespace of our own. `program`: a nursery in C, which may come
        yet."""
        self._nursery, self._program = born_in, program
        self._id_map = IdMap(stand_in) if os.geteuid() == 0 else None
        self._hierarchy = cgroups.find(prepare=True)
        self.templates = Templates(self._id_map, error)
        self._host = orders.Host(os.geteuid() == 0, landlock.abi())
        self._prefix = cgroups.prefix(os.getpid())
        self._count = 0
        self._forks: dict[int, Fork] = {}  # by pid
        self._spare: Waiting | None = None
        self._leaving = self._hierarchy.sweep()

    def launch(self, fds: list[int], flags: int, parent: str = "") -> None:
        """Have one job done, by the spare where there is one that fits."""
        status = fds[4]
        try:
            box, script = _read(fds[0]).split(b"\n")
            self.templates.make(mapped=bool(flags & MAPPED))
            job = _Job(box, jobs.script_of(script), tuple(fds[1:5]), _read(fds[5]))
            pid = self._hand_over(job, flags, parent)
        except LayerError as error:
            _tell(status, {"layer": error.layer, "error": error.error})
        except Exception as error:  # one call's trouble is not that of all others
            _tell(status, {"layer": "launcher", "error": repr(error)})
        else:
            _announce(status, pid)

    def _hand_over(self, job: _Job, flags: int, parent: str) -> int:
        """Give the job to the spare, or where that is gone or does not fit, to a new fork; its pid."""
        maps = [self._id_map.fd()] if self._id_map and flags & MAPPED else []
        spare = self._taken_spare(flags, parent)
        fork = spare or self._born(flags, parent)
        with fork.sock:
            kills = self._limited(fork.group, job.bounds)
            try:
                with _memory_file(self._orders(job, counted=bool(kills))) as told:
                    fds = [told.fileno(), *job.fds, *kills, *maps]
                    socket.send_fds(fork.sock, [bytes([len(kills), len(maps)])], fds)
            except OSError as error:
                _close(kills)
                if spare is None:
                    raise LayerError("namespaces", str(error)) from error
                return self._hand_over(job, flags, parent)  # the spare has died
        self._forks[fork.pid] = Fork(fork.group, os.dup(job.status), bool(flags & DETACHED), kills)
        return fork.pid

    def _orders(self, job: _Job, *, counted: bool) -> bytes:
        if self._host.table is not self.templates.table:
            self._host = replace(self._host, table=self.templates.table)
        return orders.of(job.box, job.script, self._host, bpf=job.bpf, counted=counted)

    def _taken_spare(self, flags: int, parent: str) -> Waiting | None:
        """The fork that stands by, if it fits. It has no network, and its group goes with us, so what is to
        stay gets a fork of its own; as does who has a group of their own for all that they run."""
        spare = self._spare
        if spare is None or parent or flags & (NETWORK | DETACHED):
            return None
        self._spare = None
        if spare.generation == self.templates.generation:
            return spare
        spare.sock.close()  # so it ends by itself
        return None

    def _born(self, flags: int, parent: str = "") -> Waiting:
        """A new fork, in a group of its own. Raises LayerError."""
        self._count += 1
        name = cgroups.numbered(self._prefix, self._count, stays=bool(flags & DETACHED))
        group = f"{parent}/{name}".lstrip("/")
        with layer("cgroup"):
            self._hierarchy.make(group)
        try:
            with layer("namespaces"):
                pid, sock = self._nursery.bear(
                    _namespaces(network=bool(flags & NETWORK)), self._preparing(group)
                )
        except LayerError:
            self._hierarchy.remove(group)
            raise
        self._forks[pid] = Fork(group)
        return Waiting(pid, sock, self.templates.generation, group)

    def _preparing(self, group: str) -> bytes:
        """What a fork of this group does first: but for the name the same for all whose name is as long."""
        stand_in = "?" * len(group)
        steps = fences.prepared(tuple(self._hierarchy.entrances(stand_in)))
        return steps.replace(stand_in.encode(), group.encode())

    def _limited(self, group: str, bounds: ControlGroup) -> tuple[int, ...]:
        """Set the bounds of the call as a whole; the open file that counts kills, where one does."""
        if bounds.needed and not self._hierarchy:
            raise LayerError("cgroup", self._hierarchy.missing)
        with layer("cgroup"):
            self._hierarchy.limit(group, bounds)
        return self._hierarchy.kills(group)

    def make_spare(self) -> None:
        """Fork in advance; most of what a fork costs is then paid while nobody waits."""
        self._change_nursery()
        if self._spare is None and self.templates.generation:
            with contextlib.suppress(LayerError):  # whoever needs one will hear of it
                self._spare = self._born(0)

    def _change_nursery(self) -> None:
        """For the program in C, once that is built."""
        if self._program and not self._nursery.native and os.path.exists(self._program):  # noqa: PTH110
            if better := nursery.native(self._program):
                self._nursery.close()
                self._nursery = better
            self._program = ""

    @property
    def patience_ms(self) -> float | None:
        """How long to sleep at most: a group may be busy a little longer than its last process."""
        return 50 if self._leaving else None

    def reap(self) -> None:
        """Raises SystemExit where the nursery has ended: without it there is nothing we could do."""
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if fork := self._forks.pop(pid, None):
                    self._ended(fork)
                elif pid == self._nursery.pid:
                    sys.exit("the nursery has ended")
        self._leaving -= {name for name in self._leaving if self._hierarchy.remove(name)}

    def _ended(self, fork: Fork) -> None:
        """A fork that the kernel killed for want of memory cannot tell; its group can."""
        if fork.status >= 0:
            if any(map(count_kills, fork.kills)):
                _tell(fork.status, {"out-of-memory": True})
            os.close(fork.status)
        _close(fork.kills)
        self._leaving.add(fork.group)

    def leave(self) -> None:
        """End what is not to outlive us, and clear away behind it."""
        for pid in (*self._ours(), self._nursery.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _LEAVE_S
        while (self._ours() or self._leaving) and time.monotonic() < deadline:
            with contextlib.suppress(SystemExit):
                self.reap()
            time.sleep(0.005)
        self._hierarchy.remove_parents()

    def _ours(self) -> list[int]:
        return [pid for pid, fork in self._forks.items() if not fork.detached]


def _namespaces(*, network: bool) -> int:
    flags = 0
    for kind in sandbox.namespaces(network=network).kinds:
        flags |= _FLAGS[kind]
    return flags


def _read(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _memory_file(data: bytes) -> BinaryIO:
    file = open(os.memfd_create("orders"), "wb", buffering=0)  # noqa: SIM115 - a descriptor
    file.write(data)
    return file


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _line(told: dict[str, str | int]) -> bytes:
    return f"{json.dumps(told)}\n".encode()


def _tell(status: int, told: dict[str, str | int]) -> None:
    with contextlib.suppress(OSError):
        os.write(status, _line(told))


def _announce(status: int, pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # already gone and reaped: its status says why
        return
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, os.dup(status))
    with sock, contextlib.suppress(OSError):
        socket.send_fds(sock, [_line({"pid": pid})], [pidfd])
    os.close(pidfd)


def main(born_in: Nursery, error: LayerError | None) -> None:
    """Serve jobs until the broker closes its end. Arguments: the socket's descriptor, the stand-in's id,
    where our code lies, and the program of `forks`."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    zygote = Zygote(born_in, int(sys.argv[2]), error, sys.argv[4])
    ended, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poll = select.poll()
    for fd, events in (
        (sock.fileno(), select.POLLIN),
        (ended, select.POLLIN),
        (zygote.templates.fileno(), select.POLLPRI),
    ):
        poll.register(fd, events)
    try:
        while _turn(poll.poll(zygote.patience_ms), sock, ended, zygote):
            pass
    finally:
        zygote.leave()


def _turn(events: list[tuple[int, int]], sock: socket.socket, ended: int, zygote: Zygote) -> bool:
    ready = [fd for fd, _ in events]
    if ended in ready:
        os.read(ended, 1 << 12)
    if sock.fileno() not in ready or ended in ready:
        zygote.reap()
        zygote.templates.refresh()
    return sock.fileno() not in ready or _serve(sock, zygote)


def _serve(sock: socket.socket, zygote: Zygote) -> bool:
    data, fds, _, _ = socket.recv_fds(sock, 64, JOB_FDS)
    if len(fds) == JOB_FDS:
        zygote.launch(fds, data[0], data[1:].decode("ascii"))
    _close(fds)
    zygote.make_spare()
    return bool(data)
