"""The two things a daemon says to systemd: take over its listening socket, and tell it that we are ready.

Both are plain protocols, so no library is loaded: sd_listen_fds(3) and sd_notify(3). The watchdog
and socket groups are not here.
"""

from __future__ import annotations

import os
import socket

FIRST_FD = 3  # SD_LISTEN_FDS_START


def listening_socket() -> socket.socket | None:
    """The socket systemd bound for us, or None; the variables are removed, children must not see them."""
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or int(count) < 1:
        return None
    sock = socket.socket(fileno=FIRST_FD)
    os.set_inheritable(FIRST_FD, False)
    return sock


def notify(state: str) -> None:
    """Send one state ("READY=1", "STOPPING=1"); does nothing where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            pass  # a manager that has gone away is no reason to stop serving
