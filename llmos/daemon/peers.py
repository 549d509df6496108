"""The processes that are connected, each held by a pidfd: a pid alone may be another's a moment later.

Who is served, and as whom, is decided by SO_PEERCRED's uid alone. A pid is used where a process is looked at:
which file a client's stdin is. The pidfd is the one that the kernel took at connect time (SO_PEERPIDFD, Linux
6.5; unix(7)), on older ones that of whoever has the pid when the connection is taken.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator

SO_PEERPIDFD = 77  # not in Python's socket module yet


class Peers:
    """By pid. Used from several threads."""

    def __init__(self) -> None:
        self._held: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def held(self, sock: socket.socket, pid: int) -> Iterator[None]:
        """Hold the process at the other end for as long as the block lasts."""
        descriptor = _pidfd(sock, pid)
        if descriptor is None:
            yield
            return
        with self._lock:
            self._held.setdefault(pid, []).append(descriptor)
        try:
            yield
        finally:
            with self._lock:
                self._held[pid].remove(descriptor)
                if not self._held[pid]:
                    del self._held[pid]
                os.close(descriptor)

    def is_there(self, pid: int) -> bool:
        """Whether a process that is connected under this number lives: then the number is its own."""
        with self._lock:
            return any(not _has_ended(descriptor) for descriptor in self._held.get(pid, ()))


def _pidfd(sock: socket.socket, pid: int) -> int | None:
    """None where there is none to be had: the process has ended, or it lives in another pid namespace."""
    with contextlib.suppress(OSError):
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None


def _has_ended(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)  # readable once the process has ended, pidfd_open(2)
    return bool(poll.poll(0))


PEERS = Peers()
