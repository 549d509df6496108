"""The broker's handle on the launcher: started when first needed, and again if it died.

It is a child of the broker; or, where LLMOS_LAUNCHER names a socket (a unit of the system service), an
instance that the service manager starts for the connection. Then the broker itself needs no right to mount
and to make namespaces. Only root may connect there. What the process does, and what goes over the socket
between the two, stands in `zygote`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from llmos.guard import forks
from llmos.guard.zygote import JOB_FDS
from llmos.paths import PACKAGE_DIR

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[3]); from llmos.guard.nursery import found;"
    " nursery = found(sys.argv[4]); from llmos.guard.zygote import main; main(*nursery)"
)
_SEND_TIMEOUT_S = 5


class Launcher:
    def __init__(self, stand_in: int) -> None:
        self._stand_in = stand_in
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def submit(self, fds: list[int], flags: int, group: str = "") -> None:
        """Hand over one job: [job, stdin, stdout, stderr, status, filter], its bits, and the group in which
        its own is to lie, if in any. Raises OSError."""
        assert len(fds) == JOB_FDS
        word = bytes([flags]) + group.encode("ascii")
        try:
            socket.send_fds(self._ready(), [word], fds)
        except (BrokenPipeError, ConnectionError):
            self.close()
            socket.send_fds(self._ready(), [word], fds)

    def _ready(self) -> socket.socket:
        if self._sock is None:
            place = os.environ.get("LLMOS_LAUNCHER", "")
            self._sock = _connect(place) if place else self._start()
        return self._sock

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_SEND_TIMEOUT_S)
        with theirs:
            self._process = subprocess.Popen(
                _argv(theirs.fileno(), self._stand_in),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        return ours

    def close(self) -> None:
        """End the launcher; commands that are not detached end with it."""
        if self._sock is not None:
            self._sock.close()
        if self._process is not None:
            self._process.wait()
        self._sock = self._process = None


def _argv(fd: int, stand_in: int) -> list[str]:
    python = [sys.executable, "-I", "-S", "-c", _BOOT]
    return [*python, str(fd), str(stand_in), str(PACKAGE_DIR.parent), str(forks.place())]


def _connect(place: str) -> socket.socket:
    """A launcher of our own, started by the service manager. Raises OSError: never one that is weaker."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sock.settimeout(_SEND_TIMEOUT_S)
    try:
        sock.connect(place)
    except OSError:
        sock.close()
        raise
    return sock


def become(fd: int, stand_in: int) -> None:
    """Turn this process, which has a broker's connection as `fd`, into its launcher. Does not return."""
    os.set_inheritable(fd, True)
    os.execve(sys.executable, _argv(fd, stand_in), {})  # noqa: S606 - no shell, and nothing of the environment
