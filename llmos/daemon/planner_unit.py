"""A planner that the service manager starts, for each connection to the socket LLMOS_PLANNER names.

It is then no child of ours: a user of its own, in a unit with next to no rights. It says first which process
it is; we believe that only of a process of that unit, so that no other can be hit when we end it. What it
says later is judged like any planner's. Not known here: how it ended (the journal says it).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from pathlib import Path

from llmos.config import ModelSettings
from llmos.daemon.supervisor import EXIT_GRACE_S
from llmos.errors import PlannerDied

VARIABLE = "LLMOS_PLANNER"
UNIT = "llmosd-planner@"
_HELLO_TIMEOUT_S = 30.0
_MAX_HELLO_BYTES = 16
_MAX_SETTINGS_BYTES = 16_384


class UnitWorker:
    """As `supervisor.Worker`, for a process that is known by its pidfd."""

    def __init__(self, pid: int, pidfd: int, sock: socket.socket) -> None:
        self.pid, self.sock = pid, sock
        self._pidfd = pidfd

    def kill(self) -> None:
        """SIGKILL it; systemd ends what is left of its unit."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def reap(self) -> None:
        """Wait for the exit, with SIGKILL after a grace; blocks, so call it in a thread."""
        if not select.select([self._pidfd], [], [], EXIT_GRACE_S)[0]:
            self.kill()
            select.select([self._pidfd], [], [])
        pidfd, self._pidfd = self._pidfd, -1
        os.close(pidfd)


def start(place: str, settings: ModelSettings) -> UnitWorker:
    """Have one started, and tell it the settings, which are not its to read. Blocks. Raises PlannerDied."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_HELLO_TIMEOUT_S)
        sock.connect(place)
        sock.sendall(settings.model_dump_json().encode() + b"\n")
        pid = int(_line(sock))
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError) as error:
        sock.close()
        raise _unusable(place, str(error)) from error
    if UNIT not in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"):
        os.close(pidfd)
        sock.close()
        raise _unusable(place, f"process {pid}, which it says it is, is none of {UNIT}")
    sock.setblocking(False)
    return UnitWorker(pid, pidfd, sock)


def introduce(sock: socket.socket) -> str:
    """The planner's side of `start`: say who we are, and hear the settings as JSON."""
    sock.sendall(f"{os.getpid()}\n".encode())
    return _line(sock, _MAX_SETTINGS_BYTES)


def _line(sock: socket.socket, max_bytes: int = _MAX_HELLO_BYTES) -> str:
    """Byte for byte: what follows the line is the frames'. Raises ValueError when there is none."""
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte or len(line) >= max_bytes:
            raise ValueError("it ended before it had said who it is")
        line += byte
    return line.decode().rstrip("\n")


def _unusable(place: str, why: str) -> PlannerDied:
    return PlannerDied(
        f"the planner cannot be started by {place}: {why}",
        f"See: journalctl -u '{UNIT}*'; llmos service status",
    )
