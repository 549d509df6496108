"""Find the daemon: which socket, whose process, and what to do when nobody answers.

The person's own daemon is started when none runs; how is the caller's business (a callable), so that
this part of the client starts no process itself.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from llmos import paths
from llmos.console.client import Client
from llmos.errors import DaemonUnreachable, LlmosError

CONNECT_TIMEOUT_S = 5.0
START_TIMEOUT_S = 15.0
_STARTING = threading.Lock()


def connect(path: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Client | None:
    """A greeted client, or None when nobody listens at `path`; raises DaemonUnreachable otherwise."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(str(path))
        _check_peer(sock, path)
        client = Client(sock, path)
        client.greet(timeout_s)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise _unusable(path, error) from error
    except LlmosError:
        sock.close()
        raise
    sock.settimeout(30.0)  # for sends; receiving waits in select
    return client


def _unusable(path: Path, error: OSError) -> DaemonUnreachable:
    if isinstance(error, PermissionError):
        step = "Ask the administrator to add you to the socket's group, or set LLMOS_SOCKET to your own."
    else:
        step = "Run: llmos doctor"
    return DaemonUnreachable(f"cannot connect to {path}: {error.strerror or error}", step)


def _check_peer(sock: socket.socket, path: Path) -> None:
    """Do not tell a stranger's daemon what we want: its uid must be ours or root's."""
    if os.environ.get("LLMOS_SOCKET"):
        return  # named by the person, who may have a reason
    owner = peer(sock)[1]
    if owner not in (0, os.getuid()):
        raise DaemonUnreachable(
            f"the process listening at {path} belongs to uid {owner}, not to you",
            f"Remove {path}, or set LLMOS_SOCKET to a socket you trust.",
        )


def peer(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the listening side, as the kernel says it (unix(7), SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", raw)
    return pid, uid


def open_client(start: Callable[[Path], int] | None, say: Callable[[str], None]) -> Client:
    """Connect to whichever daemon answers; else, with `start`, start one for this user and say so once.

    Raises DaemonUnreachable when none answers and none may be, or could be, started.
    """
    tried = paths.sockets()
    for path in tried:
        try:
            if (client := connect(path)) is not None:
                return client
        except DaemonUnreachable:
            if path == tried[-1]:
                raise
    own = tried[-1]
    if start is None:
        raise DaemonUnreachable(
            f"no llmos daemon answers at {own}",
            "Start one with `llmos daemon`; any request starts one by itself.",
        )
    with _STARTING:
        if (client := connect(own)) is not None:  # by another thread meanwhile
            return client
        pid = start(own)
        say(f"started the llmos daemon (pid {pid})")
        return _await_daemon(own)


def _await_daemon(path: Path) -> Client:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if (client := connect(path)) is not None:
            return client
        time.sleep(0.02)
    raise DaemonUnreachable(
        f"the daemon was started but does not answer at {path}", f"Read {paths.log_file()} for the reason."
    )
