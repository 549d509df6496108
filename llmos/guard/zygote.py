"""The launcher's process: small, single-threaded, and forked once for each sandboxed command.

It runs as the broker's own user, holds no state of requests, and with the modules it imports is the only
code here that touches mounts. A job comes over a socketpair from the broker alone: one byte, `n` where the
network is granted, and by SCM_RIGHTS the descriptors

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
import signal
import socket
import sys

from llmos.guard import enclosure, kernel, landlock, sandbox
from llmos.guard.idmap import IdMap

JOB_FDS = 6
WITH_NETWORK, WITHOUT_NETWORK = b"n", b"j"
_FLAGS = {
    "user": kernel.CLONE_NEWUSER,
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "cgroup": kernel.CLONE_NEWCGROUP,
    "net": kernel.CLONE_NEWNET,
}


class Zygote:
    """What a fork finds ready: made once, before the first job."""

    def __init__(self, stand_in: int) -> None:
        self._root = os.geteuid() == 0
        self._id_map = IdMap(stand_in) if self._root else None
        self._landlock_abi = landlock.abi()
        self._own_pidfd = os.pidfd_open(os.getpid())

    def launch(self, fds: list[int], *, network: bool) -> None:
        job_fd, streams, status = fds[0], fds[1:], fds[4]
        try:
            pid = kernel.clone(self._namespaces(network))
        except OSError as error:
            layer = "namespaces" if self._root else "user-namespace"
            enclosure.tell(status, {"layer": layer, "error": str(error)})
            return
        if pid == 0:
            enclosure.run_job(
                job_fd,
                streams,
                id_map=self._id_map,
                launcher=self._own_pidfd,
                landlock_abi=self._landlock_abi,
            )
        _announce(status, pid)

    def _namespaces(self, network: bool) -> int:
        flags = 0
        for kind in sandbox.namespaces(network=network, root=self._root).kinds:
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


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    """Serve jobs until the broker closes its end. Arguments: the socket's descriptor, the stand-in's id."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.chdir("/")
    zygote = Zygote(int(sys.argv[2]))
    gc.freeze()  # a collection in a fork would copy every page we share with it
    gc.disable()
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        data, fds, _, _ = socket.recv_fds(sock, 1, JOB_FDS)
        if not data:
            return
        if len(fds) == JOB_FDS:
            zygote.launch(fds, network=data == WITH_NETWORK)
        for fd in fds:
            os.close(fd)
