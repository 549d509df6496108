"""Where the forks of the launcher come from: a process that does nothing else, and has little to copy.

A fork shares all pages of its parent and copies each that one of the two writes, which in Python means: uses.
So the launcher does not fork itself. It starts this process before it has loaded the rest of its code, and
stays quick; what is born here is a child of the launcher (CLONE_PARENT), which hears of its end.

    request   namespaces (decimal), then the files by which to enter its control group, with NUL between them;
              by SCM_RIGHTS the socket on which the fork waits for its job
    answer    its pid, or minus the number of the error

A job is one message on that socket: a byte for each of `counted` and `mapped`, and by SCM_RIGHTS what
`enclosure.Fds` names. A fork that waits has no descriptor of any call, and ends when its socket closes, or
with the launcher.
"""

from __future__ import annotations

import gc
import os
import signal
import socket

from llmos.guard import enclosure, kernel, landlock, mounts
from llmos.guard.layering import LayerError, layer, map_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

MAX_JOB_FDS = 8
_FDS_SPACE = socket.CMSG_SPACE(MAX_JOB_FDS * 4)  # ints
_MAX_REQUEST_BYTES = 1 << 14
# Python ignores or handles these, and an ignored signal stays ignored across exec.
_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM)


class Nursery:
    """The launcher's end. `error`: why there is no mount namespace of our own, if there is none."""

    def __init__(self, sock: socket.socket, pid: int, launcher: int, error: LayerError | None) -> None:
        self._sock, self.pid, self.launcher, self.error = sock, pid, launcher, error

    def bear(self, namespaces: int, entrances: Sequence[str]) -> tuple[int, socket.socket]:
        """A fork that waits for its job: its pid, and the socket for the job. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                request = "\0".join((str(namespaces), *entrances)).encode(errors="surrogateescape")
                socket.send_fds(self._sock, [request], [theirs.fileno()])
                answer = int(self._sock.recv(64) or b"-32")  # EPIPE
            if answer <= 0:
                raise OSError(-answer, f"clone: {os.strerror(-answer)}")
        except BaseException:
            ours.close()
            raise
        return answer, ours


def found() -> Nursery:
    """Make the mount namespace of the launcher and of all that it starts, and in it the nursery."""
    error = None
    try:
        _own_namespace()
    except LayerError as reason:
        error = reason
    launcher = os.pidfd_open(os.getpid())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.chdir("/")
    gc.freeze()  # a collection in a fork would copy every page we share with it
    gc.disable()
    if (pid := kernel.clone(0)) == 0:
        ours.close()
        _serve(theirs, launcher)
    gc.unfreeze()
    gc.enable()
    theirs.close()
    return Nursery(ours, pid, launcher, error)


def _own_namespace() -> None:
    if os.geteuid() == 0:
        with layer("namespaces"):
            kernel.unshare(kernel.CLONE_NEWNS)
    else:
        uid, gid = os.geteuid(), os.getegid()
        with layer("user-namespace"):
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
            map_ids(os.open("/proc", os.O_PATH | os.O_CLOEXEC), (uid, gid), (uid, gid))
    with layer("mount-api"):
        mounts.follow_host()


def _serve(sock: socket.socket, launcher: int) -> NoReturn:
    """In the nursery: fork for each request, until the launcher is gone."""
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    enclosure.die_with(launcher)
    _keep_only(sock.fileno(), launcher)
    abi = landlock.abi()
    while True:
        request, fds, _, _ = socket.recv_fds(sock, _MAX_REQUEST_BYTES, 1)
        if not fds:
            os._exit(0)
        namespaces, *entrances = request.split(b"\0")
        try:
            answer = kernel.clone(int(namespaces) | kernel.CLONE_PARENT)
        except OSError as error:
            answer = -(error.errno or 1)
        if answer == 0:
            try:
                sock.close()
                _stand_by(fds[0], entrances, abi, launcher)
            finally:  # whatever happens: the child is not a second nursery
                os._exit(125)
        os.close(fds[0])
        sock.send(b"%d" % answer)


def _keep_only(*fds: int) -> None:
    """Of what the launcher has open; its standard streams are /dev/null."""
    for name in os.listdir("/proc/self/fd"):
        if (fd := int(name)) > 2 and fd not in fds:
            try:
                os.close(fd)
            except OSError:  # the one of the listing itself
                pass


def _stand_by(fd: int, entrances: list[bytes], abi: int, launcher: int) -> NoReturn:
    """In the fork: get ready, and wait for the job. What is amiss is told when there is somebody to tell."""
    enclosure.die_with(launcher)
    amiss: LayerError | None = None
    try:
        with layer("cgroup"):
            enter(entrances)
        prepared = enclosure.Prepared()
    except LayerError as error:
        amiss = error
    data, fds = _job(fd)
    if len(fds) < 6:
        os._exit(0)
    given = enclosure.Fds(fds, counted=bool(data[0]), mapped=bool(data[1]))
    if amiss:
        enclosure.tell(given.status, {"layer": amiss.layer, "error": amiss.error})
        os._exit(125)
    enclosure.run(given, prepared, landlock_abi=abi, launcher=launcher)


def _job(fd: int) -> tuple[bytes, list[int]]:
    """The message on the socket, which is closed then. Not `socket.recv_fds`: that is more to copy."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
    data, came, _, _ = sock.recvmsg(2, _FDS_SPACE)
    sock.close()
    return data, memoryview(came[0][2]).cast("i").tolist() if came else []


def enter(entrances: Sequence[str | bytes]) -> None:
    """Move this process into the group with these files (`cgroups.Hierarchy.entrances`). Raises OSError."""
    for file in entrances:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"0")
        os.close(fd)
