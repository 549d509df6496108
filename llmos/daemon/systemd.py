"""What a daemon and systemd say to each other: socket, readiness, reloads, watchdog, log.

All are plain protocols, so no library is loaded: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3), and
the levels of sd-daemon(3) in front of a log's lines.
"""

from __future__ import annotations

import logging
import os
import socket
import time

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
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, kind) as sock:
        try:
            sock.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            pass  # a manager that has gone away is no reason to stop serving


def notify_reloading() -> None:
    """Say that the configuration is being read anew; `READY=1` ends it."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float:
    """How often to send `WATCHDOG=1`: twice in the time after which systemd gives us up; 0 for never."""
    pid, usec = os.environ.pop("WATCHDOG_PID", ""), os.environ.pop("WATCHDOG_USEC", "")
    if pid not in ("", str(os.getpid())) or not usec.isdigit():
        return 0.0
    return int(usec) / 2e6


def log_formatter() -> logging.Formatter | None:
    """For a stderr that is the journal: it has times of its own, and takes the level from the line's head."""
    return _JournalFormatter() if os.environ.get("JOURNAL_STREAM") == _identity(2) else None


def _identity(fd: int) -> str:
    found = os.fstat(fd)
    return f"{found.st_dev}:{found.st_ino}"


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        text = f"{record.name}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return "\n".join(f"<{level}>{line}" for line in text.splitlines())
