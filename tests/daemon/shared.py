"""A daemon that several Unix users share, as systemd's socket makes one, and clients of any uid.

Who a client is, is what the kernel recorded when it connected (SO_PEERCRED), so one process that is root can
hold connections of several users: it takes on their ids for the moment of connecting.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import support
from .support import Client

ANN, BOB, MALLORY = 41_001, 41_002, 41_003
USERS = (ANN, BOB, MALLORY)
_ACTIVATED = (
    "import os, sys; os.dup2(int(sys.argv.pop(1)), 3); "
    "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n" + support.MAIN
)


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    """This process has the ids of somebody else until the end of the block."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@dataclass
class Shared:
    """One daemon of root's on a socket that everybody may open."""

    process: subprocess.Popen[bytes]
    folder: Path  # below it each user has a folder of their own, and there is one for all
    state: str = ""

    @property
    def path(self) -> Path:
        return self.folder / "s.sock"

    def client(self, uid: int, timeout_s: float = 20.0) -> Client:
        with as_user(uid):
            return Client(self.path, timeout_s)

    def home(self, uid: int) -> str:
        return str(self.folder / f"u{uid}")

    @property
    def common(self) -> Path:
        return self.folder / "common"

    def log_text(self) -> str:
        return (self.folder / "daemon.log").read_text(encoding="utf-8")


@contextlib.contextmanager
def running(
    env: dict[str, str], script: dict[str, Any] | None = None, settings: dict[str, Any] | None = None
) -> Iterator[Shared]:
    """`env` names a home of the daemon's own."""
    folder = Path(tempfile.mkdtemp(prefix="llmos-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "script.json").write_text(json.dumps(script or {}), encoding="utf-8")
    (folder / "common").mkdir()
    (folder / "common").chmod(0o1777)
    for uid in USERS:
        place = folder / f"u{uid}"
        place.mkdir(0o700)
        os.chown(place, uid, uid)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "s.sock"))
    (folder / "s.sock").chmod(0o666)
    listening.listen(512)
    argv = [*support.SCRIPTED, str(folder / "script.json")]
    with (folder / "daemon.log").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", _ACTIVATED, str(listening.fileno()), str(folder / "unused.sock"),
             json.dumps(settings or {}), json.dumps(argv)],
            pass_fds=(listening.fileno(),), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
            cwd="/",
        )  # fmt: skip
    try:
        yield Shared(process, folder, env["XDG_STATE_HOME"])
    finally:
        process.terminate()
        try:
            process.wait(25)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listening.close()
        shutil.rmtree(folder, ignore_errors=True)
