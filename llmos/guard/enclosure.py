"""Puts the layers of `sandbox.plan` around a process, in their order, and ends as the sandbox's init.

Runs in the launcher's fork, which the kernel has just made pid 1 of new namespaces. Whatever fails is
told on `status` by the name of its layer, and nothing is run. Standard library only, because the
launcher runs without site-packages.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from llmos.guard import cgroups, init, kernel, landlock, mounts, reach, sandbox
from llmos.guard.cgroups import Hierarchy
from llmos.guard.layering import LayerError, layer, map_ids, write_in
from llmos.guard.sandbox import Box
from llmos.guard.template import DEVICE
from llmos.guard.tree import Ground, assemble

STATUS_FD, KILLS_FD = 3, 4
_FIRST_FREE_FD = 16
_MAX_JOB_BYTES = 1 << 24
_MAX_FILTER_BYTES = 8 * 4096  # BPF_MAXINSNS
_LIMITS = {
    # 1, not 0: a core_pattern that names a program is started, by host root, for 0 too; 1 stops it (core(5)).
    resource.RLIMIT_CORE: 1,
    resource.RLIMIT_MEMLOCK: 8 << 20,
    resource.RLIMIT_MSGQUEUE: 0,
}


@dataclass(frozen=True, slots=True)
class Ready:
    """What every fork finds ready, made by the launcher before the first job."""

    landlock_abi: int
    hierarchy: Hierarchy
    launcher: int  # a pidfd of it


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a fork can make before it knows its job: file systems of its namespaces, mounted nowhere yet.

    And its control group, which it is in from then on; the limits come with the job.
    """

    own_proc: int  # writable, for ourselves
    proc: int
    terminals: int


def prepare(hierarchy: Hierarchy, group: str) -> Prepared:
    """Raises LayerError."""
    if hierarchy:
        with layer("cgroup"):
            hierarchy.make(group)
            hierarchy.enter(group)
    with layer("namespaces"):
        kernel.unshare(kernel.CLONE_NEWCGROUP)
    plain = mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
    with layer("proc"):
        own, shown = mounts.proc(attrs=plain), mounts.proc(attrs=plain | mounts.ATTR_RDONLY)
    with layer("mount-api"):
        return Prepared(own, shown, mounts.devpts(attrs=DEVICE))


@dataclass(frozen=True, slots=True)
class Job:
    """`fds`: job, stdin, stdout, stderr, status, filter; `group`: the name for the control group."""

    fds: tuple[int, ...]
    group: str
    table: list[mounts.Mount]  # of the host
    folder: str  # of the prepared tree
    userns_fd: int | None


@dataclass(slots=True)
class Wires:
    """Where the status socket is: its number changes on the way, and what fails after that is told too."""

    status: int


def run(job: Job, ready: Ready, prepared: Prepared | None = None) -> NoReturn:
    """In the fork: put up the layers, carry out the job, and end."""
    wires = Wires(job.fds[4])
    try:
        reset_signals()
        os.setsid()
        box = sandbox.from_job(json.loads(os.pread(job.fds[0], _MAX_JOB_BYTES, 0)))
        made = prepared or prepare(ready.hierarchy, job.group)
        _Enclosure(box, job, ready, made, wires).put_up()
        if box.detached:
            tell(wires.status, {"started": True})
        code = init.run(box.script, dict(box.env), box.cwd)
        for fd in range(STATUS_FD):
            os.close(fd)
        tell(wires.status, {"exit-code": code, **_memory_kills()})
        os._exit(0)
    except LayerError as error:
        tell(wires.status, {"layer": error.layer, "error": error.error})
    except Exception as error:  # the fork must not fall back into the launcher's loop
        tell(wires.status, {"layer": "launcher", "error": repr(error)})
    os._exit(125)


def tell(fd: int, message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(message).encode() + b"\n")


def _memory_kills() -> dict[str, object]:
    try:
        return {"out-of-memory": True} if cgroups.count_kills(KILLS_FD) else {}
    except OSError:  # nobody counts
        return {}


def reset_signals() -> None:
    # Python ignores these two, and an ignored signal stays ignored across exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def refuse_host_root() -> None:
    """Not an `assert`: it must hold under -O too. Called while ids still mean what they mean on the host."""
    if 0 in os.getresuid():
        raise LayerError("identity", "refusing to run a command as host uid 0")


class _Enclosure:
    """One sandbox being put up: what its steps hand on to one another."""

    def __init__(self, box: Box, job: Job, ready: Ready, prepared: Prepared, wires: Wires) -> None:
        self._box, self._job, self._ready, self._prepared, self._wires = box, job, ready, prepared, wires
        self._plan = sandbox.plan(box)
        self._assembled = False
        self._filter = b""
        self._kills: tuple[int, ...] = ()

    def put_up(self) -> None:
        for step in self._plan:
            self._do(step)

    def _limit_group(self, group: sandbox.ControlGroup) -> None:
        hierarchy = self._ready.hierarchy
        if group.needed and not hierarchy:
            raise LayerError("cgroup", hierarchy.missing)
        with layer("cgroup"):
            hierarchy.limit(self._job.group, group)
            self._kills = hierarchy.kills(self._job.group)

    def _tree(self) -> None:
        """All mounts of the plan at once, at the first of them."""
        if self._assembled:
            return
        self._assembled = True
        with layer("mount-api"):
            mounts.make_private()
        wanted = (step for step in self._plan if isinstance(step, sandbox.Mount))
        made = {"proc": self._prepared.proc, "terminals": self._prepared.terminals}
        assemble(self._box, wanted, Ground(self._job.folder, self._job.table, self._job.userns_fd, made))

    def _do(self, step: sandbox.Step) -> None:  # noqa: PLR0912 - one line for each layer
        match step:
            case sandbox.Namespaces():
                pass  # made with the process
            case sandbox.ControlGroup():
                self._limit_group(step)
            case sandbox.Reach(routes):
                with layer("reach"):
                    self._listen(routes)
            case sandbox.Mount():
                self._tree()
            case sandbox.NewRoot():
                with layer("mount-api"):
                    mounts.pivot_to_cwd()
            case sandbox.Identity():
                with layer("identity"):
                    _become(step)
            case sandbox.Runtime(folders):
                self._make_runtime(folders)
            case sandbox.Folder(path):
                _enter(path)
            case sandbox.UserNamespace():
                with layer("user-namespace"):
                    self._own_users(step)
            case sandbox.NoPrivileges():
                with layer("privileges"):
                    _renounce()
            case sandbox.Streams(detached):
                self._wire(detached)
            case sandbox.Limits():
                _limit(step)
            case sandbox.Landlock(writable, network):
                with layer("landlock"):
                    if abi := self._ready.landlock_abi:
                        landlock.restrict(abi, writable=writable, network=network)
            case sandbox.SystemCalls():
                with layer("seccomp"):
                    kernel.install_filter(self._filter)

    def _listen(self, routes: tuple[reach.Route, ...]) -> None:
        """The sockets go to the broker; of ours nothing is left open (`_wire`)."""
        listeners = reach.listen(routes)
        with socket.socket(fileno=os.dup(self._job.fds[4])) as status:
            socket.send_fds(status, [b'{"listening": true}\n'], [each.fileno() for each in listeners])
        for each in listeners:
            each.close()

    def _make_runtime(self, folders: tuple[str, ...]) -> None:
        os.umask(0o022)
        for path in folders:
            Path(path).mkdir(0o700)
        place, text = self._box.name_servers
        if place.startswith("/run/") and text:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_text(text)

    def _own_users(self, step: sandbox.UserNamespace) -> None:
        """A namespace that owns none of the mounts: whoever gained all capabilities in it cannot mount.

        Where /proc/sys is read-only (a container, a hardened unit) the filter alone forbids a further one.
        """
        kernel.unshare(kernel.CLONE_NEWUSER)
        map_ids(self._prepared.own_proc, step.inside, step.outside)
        with contextlib.suppress(OSError):
            write_in(self._prepared.own_proc, "sys/user/max_user_namespaces", "0")
        with contextlib.suppress(OSError):  # short of memory, the kernel takes the command before the broker
            write_in(self._prepared.own_proc, "self/oom_score_adj", "500")

    def _wire(self, detached: bool) -> None:
        """Standard streams to 0..2, status to 3, the count of memory kills to 4, nothing else open."""
        if detached:
            kernel.die_with_parent(False)  # as who stood by it would
        else:
            die_with(self._ready.launcher)
        self._filter = os.pread(self._job.fds[5], _MAX_FILTER_BYTES, 0)
        high = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
            for fd in (*self._job.fds[1:5], *self._kills)
        ]
        for target, fd in enumerate(high):
            os.dup2(fd, target, inheritable=target < STATUS_FD)
        kernel.close_from(len(high))
        self._wires.status = STATUS_FD


def die_with(launcher: int) -> None:
    """From here on the kernel sees to it; the launcher may have ended before."""
    kernel.die_with_parent()
    if select.select([launcher], [], [], 0)[0]:
        os._exit(125)


def _renounce() -> None:
    kernel.set_no_new_privs()
    kernel.drop_capabilities()
    kernel.set_dumpable(False)


def _become(who: sandbox.Identity) -> None:
    """Give up root for good: groups first, then gid and uid, all three of each."""
    if os.geteuid() == 0:
        os.setgroups(list(who.groups))
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
        kernel.set_dumpable(True)  # for the moment: it must write its own map
    refuse_host_root()


def _enter(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise LayerError("cwd", f"{path}: {error.strerror}") from error


def _limit(limits: sandbox.Limits) -> None:
    wanted = _LIMITS | {
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_DATA: limits.data_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
    }
    if limits.cpu_s is not None:
        wanted[resource.RLIMIT_CPU] = limits.cpu_s
    for which, value in wanted.items():
        try:
            resource.setrlimit(which, (value, value))
        except (ValueError, PermissionError):  # a tighter one is in force already
            _, hard = resource.getrlimit(which)
            resource.setrlimit(which, (min(value, hard),) * 2)
