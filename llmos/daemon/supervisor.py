"""The daemon's only place that starts processes: the planner's worker, and for clients the daemon itself.

Neither carries out anybody's request; that is `guard.spawn`'s alone. This module imports nothing
heavy, because the client imports it too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from llmos import paths
from llmos.errors import DaemonUnreachable, PlannerDied

# The planner needs to find its files and to speak the person's language, and nothing else.
KEPT_VARIABLES = frozenset(
    {"HOME", "USER", "PATH", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "OMP_NUM_THREADS"}
    | {"LLMOS_MODEL", "LLMOS_MODELS_DIR"}
    | {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"}
)
# No code of other packages' entry points is loaded into our processes; it also saves 20 ms.
EXTRA_VARIABLES = {
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    # Spinning at OpenMP barriers collapses beside busy neighbours: measured 1.2 against 7.2 tokens/s.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Large blocks go back when they are freed; else malloc keeps 30 MB for each request at a time.
    "MALLOC_MMAP_THRESHOLD_": "262144",
}
COURIER_ARGV = (sys.executable, "-I", "-m", "llmos.planner.courier")
WORKER_ARGV = (sys.executable, "-I", "-m", "llmos.planner.worker")
# 0 is everybody else's: when memory runs out, the kernel takes the planner, which costs one retry.
PLANNER_OOM_SCORE = 600
EXIT_GRACE_S = 2.0
START_DEADLINE_S = 15.0
LOG_TAIL_LINES = 5
MAX_LOG_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Worker:
    """A started planner process and our end of its socketpair."""

    process: subprocess.Popen[bytes]
    sock: socket.socket

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL the worker and whatever it may have started; safe to call again."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for the exit, with SIGKILL after a grace; blocks, so call it in a thread."""
        try:
            return self.process.wait(EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()


def start_worker(
    argv: Sequence[str] = WORKER_ARGV,
    *,
    more: Mapping[str, socket.socket] | None = None,
    variables: Collection[str] = (),
) -> Worker:
    """Start `argv --fd N` in a session of its own with a clean environment; raises PlannerDied.

    `more` are further sockets it inherits, by option; `variables` are kept of the environment besides.

    The worker itself sets its parent-death signal and confines itself before it reads a request.
    """
    ours, theirs = socket.socketpair()
    given = {"--fd": theirs, **(more or {})}
    try:
        process = subprocess.Popen(
            [*argv, *(word for name, sock in given.items() for word in (name, str(sock.fileno())))],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a library prints belongs in the daemon's log
            env=_kept(os.environ, KEPT_VARIABLES.union(variables)) | EXTRA_VARIABLES,
            cwd="/",
            pass_fds=tuple(sock.fileno() for sock in given.values()),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise PlannerDied(f"the planner cannot be started: {error}", "Run: llmos doctor") from error
    finally:
        theirs.close()
    _prefer_for_oom(process.pid)
    ours.setblocking(False)
    return Worker(process, ours)


def _kept(environment: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in names}


def _prefer_for_oom(pid: int) -> None:
    with contextlib.suppress(OSError):  # it may be gone already; where /proc is locked, so be it
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(PLANNER_OOM_SCORE), encoding="ascii")


# --- the client's auto-start ------------------------------------------------------------------


def start_daemon(
    path: Path | None = None, *, argv: Sequence[str] | None = None, deadline_s: float = START_DEADLINE_S
) -> int:
    """Start a per-user daemon on `path`, detached from this terminal, and wait until it answers.

    Returns the pid of whoever answers: where two clients do this at once, one daemon wins the lock and
    serves both. Raises DaemonUnreachable with the log's last lines.
    """
    path = path or paths.socket_path()
    argv = argv or (sys.executable, "-I", "-m", "llmos", "daemon", "--socket", str(path))
    with _open_log(paths.log_file()) as log:
        start = log.tell()
        daemon = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **EXTRA_VARIABLES},
            cwd="/",
            start_new_session=True,
        )
        if pid := _await_answer(path, daemon, time.monotonic() + deadline_s):
            if pid != daemon.pid:
                daemon.terminate()  # another client's daemon was first
            return pid
        last = _tail(log, start)
    if daemon.poll() is None:
        daemon.terminate()
        raise DaemonUnreachable(
            f"the daemon did not answer on {path} within {deadline_s:g} s{last}",
            f"Read {paths.log_file()}, or run `llmos daemon` to watch it start.",
        )
    raise DaemonUnreachable(
        f"the daemon ended at once (exit code {daemon.returncode}){last}",
        "Run `llmos daemon` to see why it does not start.",
    )


def _open_log(file: Path) -> IO[bytes]:
    """The log, private and appended to; an overgrown one is started afresh and one old one is kept."""
    paths.ensure_private(file.parent)
    with contextlib.suppress(OSError):
        if file.stat().st_size > MAX_LOG_BYTES:
            file.replace(file.with_name(file.name + ".1"))
    try:
        fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DaemonUnreachable(
            f"cannot write the daemon's log {file}: {error.strerror}", "Check its permissions and the space."
        ) from error
    log = os.fdopen(fd, "r+b", buffering=0)
    log.seek(0, os.SEEK_END)
    return log


def _await_answer(path: Path, daemon: subprocess.Popen[bytes], deadline: float) -> int:
    """The pid that answers on `path`, or 0. A child that ended may have lost the race to another's."""
    while time.monotonic() < deadline:
        if pid := _answers(path):
            return pid
        if daemon.poll() is not None:
            deadline = min(deadline, time.monotonic() + 1.0)
        time.sleep(0.02)
    return 0


def _answers(path: Path) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(2.0)
        try:
            sock.connect(str(path))
            greeted = bool(sock.recv(1))  # the first byte of `hello`: it serves, not only listens
        except OSError:
            return 0
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(peer[:4], sys.byteorder) if greeted else 0


def _tail(log: IO[bytes], start: int) -> str:
    log.seek(start)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return "".join(f"\n  {line}" for line in lines[-LOG_TAIL_LINES:])
