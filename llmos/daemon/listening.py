"""Bind the daemon's Unix socket: private, never taken from a daemon that lives, taken over from a dead one.

Two daemons cannot fight: whoever serves a path holds a lock (flock) on `PATH.lock` for as long as it
lives, and the kernel lets go of it at death, however it comes. The lock file itself stays: removing
it would open a race. Other processes of the same user are trusted; other users are kept out by the
folder's and the socket's mode, and again by SO_PEERCRED on each connection.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from llmos import paths
from llmos.daemon import systemd
from llmos.errors import DaemonUnreachable

MAX_PATH_BYTES = 107  # sun_path in unix(7), without its closing NUL
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and what must be given back when the daemon stops."""

    sock: socket.socket
    path: Path | None = None  # None: systemd owns the path
    lock_fd: int = -1
    inode: int = 0

    def close(self) -> None:
        """Remove the socket file if it is still ours, then let go of the lock."""
        self.sock.close()
        if self.path is None:
            return
        try:
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()
        except OSError:
            pass
        os.close(self.lock_fd)


def listen(path: Path) -> Listener:
    """Listen on `path` (or on systemd's socket); raises DaemonUnreachable with what to do."""
    if inherited := systemd.listening_socket():
        inherited.setblocking(False)
        return Listener(inherited)
    _check_path(path)
    lock_fd = _lock(path)
    try:
        _clear_stale(path)
        sock = _bind(path)
    except BaseException:
        os.close(lock_fd)
        raise
    return Listener(sock, path, lock_fd, path.stat().st_ino)


def _check_path(path: Path) -> None:
    if not path.is_absolute():
        raise DaemonUnreachable(f"the socket path {path} is not absolute", "Name it from the root: /….")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise DaemonUnreachable(
            f"the socket path {path} is longer than {MAX_PATH_BYTES} bytes",
            "Set LLMOS_SOCKET or --socket to a shorter path.",
        )
    folder = paths.ensure_private(path.parent)
    mode = folder.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise DaemonUnreachable(
            f"others may write to {folder}, so they could put a socket of theirs in our place",
            f"Run: chmod go-w {folder}",
        )


def _lock(path: Path) -> int:
    """Hold PATH.lock for the life of the process; its text is our pid, for people to read."""
    name = path.with_name(path.name + ".lock")
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DaemonUnreachable(
            f"cannot create {name}: {error.strerror}", f"Check the permissions and space of {name.parent}."
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.read(fd, 32).decode("ascii", "replace").strip()
        os.close(fd)
        raise DaemonUnreachable(
            f"another daemon (pid {pid or 'unknown'}) already serves {path}",
            "Use that one, or stop it first.",
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _clear_stale(path: Path) -> None:
    """Remove a dead daemon's socket file; never one that answers, and never another kind of file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise DaemonUnreachable(f"{path} exists and is not a socket", "Move it away, or set LLMOS_SOCKET.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DaemonUnreachable(
                f"cannot tell whether {path} is in use: {error}", f"Remove {path} if nothing uses it."
            ) from error
        else:
            raise DaemonUnreachable(f"something else already serves {path}", "Stop it, or set LLMOS_SOCKET.")


def _bind(path: Path) -> socket.socket:
    """Bind under a umask, so that the socket is never, not even for a moment, open to others."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise DaemonUnreachable(
            f"cannot listen on {path}: {error.strerror}",
            f"Check the permissions and space of {path.parent}.",
        ) from error
    finally:
        os.umask(before)
    return sock
