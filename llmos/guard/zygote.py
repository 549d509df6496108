"""The launcher's process: small, single-threaded, and forked once for each sandboxed command.

It runs as the broker's own user, holds no state of requests, and with the modules it imports is the only
code here that touches mounts. A job comes over a socketpair from the broker alone: one byte (is the
network granted, is it to outlive us, is its view ID-mapped), after it the control group of the user if they
have one, and by SCM_RIGHTS the descriptors

    job (JSON of a `Box`), stdin, stdout, stderr, status, filter (BPF)

The fork is born in its namespaces and puts the other layers around itself (`enclosure`). Lines of JSON on
`status` tell how far it came: `{"pid"}` from here with the fork's pidfd attached, then `{"layer", "error"}`
where it failed, or `{"exit-code"}` once everything it had started is dead (for a program that is to stay,
`{"started"}` before that). It ends when the broker's end of the socketpair closes, and what is not
detached ends with it.

Start it as `python -I -S -c "..." FD STAND_IN`: nothing of the user's environment or site-packages is
loaded, and it is up in about 20 ms, once; a fork then costs a fraction of a millisecond.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from llmos.guard import cgroups, enclosure, kernel, landlock, sandbox
from llmos.guard.idmap import IdMap
from llmos.guard.layering import LayerError
from llmos.guard.template import Templates, folder

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


# What a spare reads in rehearsal: a job like any other.
_SAMPLE = sandbox.Box(
    script=(sandbox.Pipe((sandbox.Command(("true",)),)),), cwd="/", uid=1, gid=1, host_uid=1, host_gid=1,
    groups=(), id_mapped=False, write_roots=("/tmp",), hidden=("/etc/shadow",) * 8, network=False,  # noqa: S108
    env=sandbox.environment(uid=1, user="u", home="/", shell="/bin/sh", language="C"),  # noqa: S604
    limits=sandbox.Limits(processes=1, data_bytes=1, file_bytes=1, cpu_s=1),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fork:
    group: str
    status: int = -1  # none while it stands by
    detached: bool = False


@dataclass(frozen=True, slots=True)
class Spare:
    """A fork without network that waits for its job; `generation` is of the trees it has."""

    pid: int
    sock: socket.socket
    generation: int
    group: str


class Zygote:
    """Forks, and clears away behind what it forked."""

    def __init__(self, sock: socket.socket, stand_in: int) -> None:
        self._sock = sock
        self._id_map = IdMap(stand_in) if os.geteuid() == 0 else None
        self._hierarchy = cgroups.find(prepare=True)
        self._ready = enclosure.Ready(
            landlock_abi=landlock.abi(),
            hierarchy=self._hierarchy,
            launcher=os.pidfd_open(os.getpid()),
        )
        self.templates = Templates(self._id_map)
        self._count = 0
        self._forks: dict[int, Fork] = {}  # by pid
        self._spare: Spare | None = None
        self._leaving = self._hierarchy.sweep()

    def launch(self, fds: list[int], flags: int, parent: str = "") -> None:
        """Have one job done, by the spare where there is one that fits."""
        status, detached = fds[4], bool(flags & DETACHED)
        try:
            self.templates.make(mapped=bool(flags & MAPPED))
            pid, group = (0, "") if parent else self._hand_over(fds, flags)
            if not pid:
                group = f"{parent}/{self._new_group(stays=detached)}".lstrip("/")
                if (pid := kernel.clone(_namespaces(network=bool(flags & NETWORK)))) == 0:
                    enclosure.run(self._job(fds, flags, group), self._ready)
        except LayerError as error:
            enclosure.tell(status, {"layer": error.layer, "error": error.error})
            return
        except OSError as error:
            enclosure.tell(status, {"layer": "namespaces", "error": str(error)})
            return
        self._forks[pid] = Fork(group, os.dup(status), detached)
        _announce(status, pid)

    def _job(self, fds: list[int], flags: int, group: str) -> enclosure.Job:
        mapped = bool(flags & MAPPED)
        userns_fd = self._id_map.fd() if self._id_map and mapped else None
        return enclosure.Job(tuple(fds), group, self.templates.table, folder(mapped=mapped), userns_fd)

    def _new_group(self, *, stays: bool = False) -> str:
        self._count += 1
        return cgroups.name(os.getpid(), self._count, stays=stays)

    def _hand_over(self, fds: list[int], flags: int) -> tuple[int, str]:
        """Give the job to the spare, if there is one that fits; its pid, or 0, and its group.

        What is to stay gets a fork of its own: its group must not be one that goes with us.
        """
        spare = self._spare
        if spare is None or flags & (NETWORK | DETACHED):
            return 0, ""
        self._spare = None
        with spare.sock:
            if spare.generation != self.templates.generation:
                return 0, ""  # with its socket closed it ends by itself
            try:
                socket.send_fds(spare.sock, [bytes([flags])], fds)
            except OSError:
                return 0, ""
        return spare.pid, spare.group

    def make_spare(self) -> None:
        """Fork in advance; most of what a fork costs is then paid while nobody waits."""
        if self._spare is not None or not self.templates.generation:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        group = self._new_group()
        with theirs, contextlib.suppress(OSError):
            if (pid := kernel.clone(_namespaces(network=False))) == 0:
                ours.close()
                self._stand_by(theirs, group)
            self._spare = Spare(pid, ours, self.templates.generation, group)
            self._forks[pid] = Fork(group)

    def _stand_by(self, sock: socket.socket, group: str) -> NoReturn:
        """In the spare: hold nothing of others' calls, get ready, and wait for the job."""
        enclosure.reset_signals()
        enclosure.die_with(self._ready.launcher)
        self._sock.close()
        for fork in self._forks.values():
            if fork.status >= 0:
                os.close(fork.status)
        try:
            prepared = enclosure.prepare(self._hierarchy, group)
            # What is read and written here is copied from our parent now and not when the job is there.
            sandbox.plan(sandbox.from_job(json.loads(json.dumps(_SAMPLE.to_job()))))
            data, fds, _, _ = socket.recv_fds(sock, 1, JOB_FDS)
        except (LayerError, OSError):
            os._exit(125)
        if len(fds) != JOB_FDS:
            os._exit(0)
        enclosure.run(self._job(fds, data[0], group), self._ready, prepared)

    @property
    def patience_ms(self) -> float | None:
        """How long to sleep at most: a group may be busy a little longer than its last process."""
        return 50 if self._leaving else None

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if fork := self._forks.pop(pid, None):
                    self._ended(fork)
        self._leaving -= {name for name in self._leaving if self._hierarchy.remove(name)}

    def _ended(self, fork: Fork) -> None:
        """A fork that the kernel killed for want of memory cannot tell; its group can."""
        if fork.status >= 0:
            for fd in self._hierarchy.kills(fork.group):
                if cgroups.count_kills(fd):
                    enclosure.tell(fork.status, {"out-of-memory": True})
                os.close(fd)
            os.close(fork.status)
        self._leaving.add(fork.group)

    def leave(self) -> None:
        """End what is not to outlive us, and clear away behind it. The spare ends with us."""
        for pid in self._ours():
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _LEAVE_S
        while (self._ours() or self._leaving) and time.monotonic() < deadline:
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


def _announce(status: int, pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # already gone and reaped: its status says why
        return
    with socket.socket(fileno=os.dup(status)) as sock, contextlib.suppress(OSError):
        socket.send_fds(sock, [json.dumps({"pid": pid}).encode() + b"\n"], [pidfd])
    os.close(pidfd)


def main() -> None:
    """Serve jobs until the broker closes its end. Arguments: the socket's descriptor, the stand-in's id."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.chdir("/")
    zygote = Zygote(sock, int(sys.argv[2]))
    gc.freeze()  # a collection in a fork would copy every page we share with it
    gc.disable()
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
    while True:
        ready = [fd for fd, _ in poll.poll(zygote.patience_ms)]
        if ended in ready:
            os.read(ended, 1 << 12)
        if sock.fileno() not in ready or ended in ready:
            zygote.reap()
            zygote.templates.refresh()
        if sock.fileno() in ready and not _serve(sock, zygote):
            return zygote.leave()


def _serve(sock: socket.socket, zygote: Zygote) -> bool:
    data, fds, _, _ = socket.recv_fds(sock, 64, JOB_FDS)
    if len(fds) == JOB_FDS:
        zygote.launch(fds, data[0], data[1:].decode("ascii"))
    for fd in fds:
        os.close(fd)
    zygote.make_spare()  # not before: it must not hold what we have just closed
    return bool(data)
