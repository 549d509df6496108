"""The launcher: a small, single-threaded process that forks once per sandboxed command.

It runs as the broker's own user, holds no state of requests, and is the only code here that touches
mounts. A job comes over a socketpair from the broker alone: one byte, and by SCM_RIGHTS the descriptors

    job (JSON of a `Box`), stdin, stdout, stderr, status, seccomp (BPF)

The fork assembles the tree in a mount namespace of its own, gives up every privilege and becomes
bubblewrap. Lines of JSON on `status` tell how far it came: `{"pid"}` from the launcher with the fork's
pidfd attached, then either `{"layer", "error"}` from the fork, or bubblewrap's own `{"child-pid"}` and
`{"exit-code"}`. It ends when the broker's end of the socketpair closes.

Start it as `python -I -S -c "..." FD`: nothing of the user's environment or site-packages is loaded,
and it is up in about 20 ms, once; a fork then costs about one millisecond.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from llmos.guard import mounts
from llmos.guard.sandbox import (
    FIRST_CLOSED_FD,
    RUNTIME_TMP,
    STATUS_FD,
    TREE,
    Box,
    bwrap_argv,
    from_job,
)
from llmos.guard.tree import LayerError, assemble, layer
from llmos.paths import PACKAGE_DIR

JOB_FDS = 6

# --- identity --------------------------------------------------------------------------------------


def _become(box: Box) -> None:
    """Give up root for good: groups first, then gid and uid, all three of each."""
    os.setgroups(list(box.groups))
    os.setresgid(box.host_gid, box.host_gid, box.host_gid)
    os.setresuid(box.host_uid, box.host_uid, box.host_uid)
    mounts.set_dumpable()


def _map_self(uid: int, gid: int) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)


def _fence_user_namespaces(box: Box) -> None:
    """Bubblewrap may make its own user namespaces below ours, and nobody any after it.

    It makes one, and a second to turn back into a uid other than 0 once its mounts are done.

    Where /proc/sys is read-only (a container, a hardened unit) the seccomp filter says the same alone.
    """
    with contextlib.suppress(OSError):
        Path("/proc/sys/user/max_user_namespaces").write_text("1" if box.uid == 0 else "2")


def _limit(box: Box) -> None:
    limits = box.limits
    wanted = {
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_DATA: limits.data_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 8 << 20,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if limits.cpu_s is not None:
        wanted[resource.RLIMIT_CPU] = limits.cpu_s
    for which, value in wanted.items():
        _, hard = resource.getrlimit(which)
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (limit, limit))


def assert_never_root() -> None:
    """The last thing before exec. Not an `assert`: it must hold under -O too."""
    if 0 in os.getresuid():
        raise LayerError("identity", "refusing to run a command as host uid 0")


# --- one job ---------------------------------------------------------------------------------------


def _private_run(box: Box) -> None:
    os.umask(0o022)
    for path in (RUNTIME_TMP, "/run/lock", "/run/user", f"/run/user/{box.uid}"):
        Path(TREE + path).mkdir(0o700)


def _name_servers() -> tuple[str, bytes]:
    """/etc/resolv.conf is often a link into /run, which the program sees empty: carry the text over."""
    real = os.path.realpath("/etc/resolv.conf")
    with contextlib.suppress(OSError):
        return real, Path(real).read_bytes()
    return real, b""


def _write_name_servers(real: str, text: bytes) -> None:
    if real.startswith("/run/") and text:
        Path(TREE + real).parent.mkdir(parents=True, exist_ok=True)
        Path(TREE + real).write_bytes(text)


def _enter_cwd(box: Box) -> None:
    try:
        os.chdir(TREE + box.cwd)
    except OSError as error:
        raise LayerError("cwd", f"{box.cwd}: {error.strerror}") from error


def _prepare(box: Box, userns_fd: int | None) -> None:
    name_servers = _name_servers() if box.network else ("", b"")
    root = os.geteuid() == 0
    with layer("user-namespace"):
        if root:
            mounts.unshare(mounts.CLONE_NEWNS)
        else:
            mounts.unshare(mounts.CLONE_NEWUSER | mounts.CLONE_NEWNS)
            _map_self(box.host_uid, box.host_gid)
        mounts.make_private()
    assemble(box, userns_fd)
    with layer("identity"):
        if root:
            _become(box)
    _private_run(box)
    _write_name_servers(*name_servers)
    _enter_cwd(box)
    with layer("user-namespace"):
        if root:
            mounts.unshare(mounts.CLONE_NEWUSER)
            _map_self(box.host_uid, box.host_gid)
        _fence_user_namespaces(box)


def _wire(fds: list[int]) -> None:
    """Standard streams to 0..2, status to 3, seccomp to 4, and nothing else crosses the exec."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_CLOSED_FD) for fd in fds]
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=True)
    mounts.close_from(FIRST_CLOSED_FD)


def _reset_signals() -> None:
    # Python ignores these two, and an ignored signal stays ignored across exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _run_job(job_fd: int, fds: list[int], id_map: IdMap | None) -> NoReturn:
    """In the fork: becomes bubblewrap, or says on `status` why it cannot."""
    status = fds[3]
    try:
        _reset_signals()
        with os.fdopen(job_fd, "rb") as file:
            box = from_job(json.loads(file.read()))
        _prepare(box, id_map.fd() if id_map and box.id_mapped else None)
        with contextlib.suppress(OSError):  # short of memory, the kernel takes the command before the broker
            Path("/proc/self/oom_score_adj").write_text("500")
        _wire(fds)
        status = STATUS_FD
        mounts.set_no_new_privs()
        _limit(box)
        assert_never_root()
        with layer("bubblewrap"):
            os.execve(TREE + box.bwrap, bwrap_argv(box), {})  # noqa: S606
    except LayerError as error:
        _tell(status, {"layer": error.layer, "error": error.error})
    except Exception as error:  # the fork must not fall back into the launcher's loop
        _tell(status, {"layer": "launcher", "error": repr(error)})
    os._exit(125)


def _tell(fd: int, message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(message).encode() + b"\n")


# --- the user namespace that carries the ID mapping ---------------------------------------------------


class IdMap:
    """The mapping that turns root's files into the stand-in's: a user namespace, made once, then kept.

    Made when the launcher starts, so that no command waits for it; a refusal is kept too and reported by
    each call that would have needed it.
    """

    def __init__(self, stand_in: int) -> None:
        self._error = ""
        try:
            self._fd = _mapped_user_namespace(stand_in)
        except OSError as error:
            self._error = str(error)

    def fd(self) -> int:
        if self._error:
            raise LayerError("idmap", self._error)
        return self._fd


def _swap_map(stand_in: int) -> str:
    """On-disk 0 appears as `stand_in`; a file of the stand-in's own is nobody's; all others stay."""
    ranges = map(str.split, Path("/proc/self/uid_map").read_text().splitlines())
    last = max(int(inside) + int(length) for inside, _, length in ranges) - 1
    lines = [f"0 {stand_in} 1", f"1 1 {stand_in - 1}", f"{stand_in + 1} {stand_in + 1} {last - stand_in}"]
    return "\n".join(lines) + "\n"


def _mapped_user_namespace(stand_in: int) -> int:
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(done_w)
        with contextlib.suppress(BaseException):
            mounts.unshare(mounts.CLONE_NEWUSER)
            os.write(ready_w, b"1")
            os.read(done_r, 1)
        os._exit(0)
    try:
        os.close(ready_w)
        if os.read(ready_r, 1) != b"1":
            raise OSError(1, "unshare of a user namespace was refused")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(_swap_map(stand_in))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready_r, done_r, done_w):
            os.close(fd)
        os.waitpid(pid, 0)


# --- the loop --------------------------------------------------------------------------------------


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _receive(sock: socket.socket) -> list[int] | None:
    data, fds, _, _ = socket.recv_fds(sock, 1, JOB_FDS)
    return fds if data else None


def _launch(fds: list[int], id_map: IdMap | None) -> None:
    job_fd, streams, status = fds[0], fds[1:], fds[4]
    pid = os.fork()
    if pid == 0:
        _run_job(job_fd, streams, id_map)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # already gone and reaped: its status says why
        return
    with socket.socket(fileno=os.dup(status)) as sock, contextlib.suppress(OSError):
        socket.send_fds(sock, [json.dumps({"pid": pid}).encode() + b"\n"], [pidfd])
    os.close(pidfd)


def main() -> None:
    """Serve jobs until the broker closes its end. Arguments: the socket's descriptor, the stand-in's id."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.chdir("/")
    id_map = IdMap(int(sys.argv[2])) if os.geteuid() == 0 else None
    mounts.set_child_subreaper()  # a namespace's init whose bubblewrap was killed is ours to reap
    gc.freeze()  # a collection in a fork would copy every page we share with it
    gc.disable()
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while (fds := _receive(sock)) is not None:
        if len(fds) == JOB_FDS:
            _launch(fds, id_map)
        for fd in fds:
            os.close(fd)


# --- the broker's side -----------------------------------------------------------------------------

_BOOT = "import sys; sys.path.insert(0, sys.argv[3]); from llmos.guard.launcher import main; main()"


class Launcher:
    """The broker's handle on the launcher process; started when first needed, and again if it died."""

    def __init__(self, stand_in: int) -> None:
        self._stand_in = stand_in
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def submit(self, fds: list[int]) -> None:
        """Hand over one job: [job, stdin, stdout, stderr, status, seccomp]. Raises OSError."""
        assert len(fds) == JOB_FDS
        try:
            socket.send_fds(self._ready(), [b"j"], fds)
        except (BrokenPipeError, ConnectionError):
            self.close()
            socket.send_fds(self._ready(), [b"j"], fds)

    def _ready(self) -> socket.socket:
        if self._sock is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(5)
            with theirs:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", "-c", _BOOT),
                        *(str(theirs.fileno()), str(self._stand_in), str(PACKAGE_DIR.parent)),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            self._sock = ours
        return self._sock

    def close(self) -> None:
        """End the launcher; commands that are not detached end with it."""
        if self._sock is not None and self._process is not None:
            self._sock.close()
            self._process.wait()
        self._sock = self._process = None


def bwrap_version(path: str) -> tuple[int, ...]:
    """The version `bwrap --version` states; () when it cannot be run."""
    try:
        told = subprocess.run(
            [path, "--version"], check=False, capture_output=True, text=True, timeout=5, env={}
        ).stdout
        return tuple(int(part) for part in told.split()[-1].split("."))
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return ()
