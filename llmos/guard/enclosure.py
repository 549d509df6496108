"""Puts the layers of `sandbox.plan` around a process, in their order, and ends as the sandbox's init.

Runs in a fork of the nursery, which the kernel has just made pid 1 of new namespaces, and carries out what
the launcher has made out (`orders`). Whatever fails is told on `status` by the name of its layer, and nothing
is run. Standard library only, and little of it: what a fork touches for the first time it has to copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import marshal
import os
import resource
import select
import socket

from llmos.guard import init, kernel, landlock, mounts, reach
from llmos.guard.ground import DEVICE
from llmos.guard.layering import LayerError, count_kills, layer, map_ids, message, write_in
from llmos.guard.tree import Ground, assemble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

STATUS_FD, KILLS_FD = 3, 4
_FIRST_FREE_FD = 16
_MAX_FILTER_BYTES = 8 * 4096  # BPF_MAXINSNS


class Orders:
    """What is to be done: fields of the `sandbox.Box`, and what `orders.of` has made out of them."""

    cwd: str
    host_uid: int
    host_gid: int
    write_roots: tuple[str, ...]
    hidden: tuple[str, ...]
    stage: str
    name_servers: tuple[str, str]
    routes: tuple[tuple[str, int], ...]
    hosts_file: str
    seen: tuple[tuple[str, int, int], ...]
    detached: bool
    env: tuple[tuple[str, str], ...]
    script: init.Script
    steps: tuple[tuple[Any, ...], ...]  # name and fields of each step of the plan
    folder: str  # of the prepared tree
    below: dict[str, tuple[str, ...]]  # what is mounted in each write root
    ways: tuple[str, ...]  # folders that lead to what is hidden in them

    def __init__(self, plain: bytes) -> None:
        self.__dict__.update(marshal.loads(plain))  # noqa: S302 - of the launcher, which started us


class Fds:
    """What comes with the orders: their file, the streams, the status socket, the filter's file, and where
    there are such the count of memory kills and the user namespace that maps a root caller's files."""

    def __init__(self, fds: Sequence[int], *, counted: bool, mapped: bool) -> None:
        self.orders, *streams, self.status, self.filter = fds[:6]
        self.streams = tuple(streams)
        self.kills = fds[6:7] if counted else ()
        self.userns = fds[-1] if mapped else None


class Prepared:
    """What a fork can make before it knows its job: file systems of its namespaces, mounted nowhere yet."""

    def __init__(self) -> None:
        """Raises LayerError."""
        with layer("namespaces"):
            kernel.unshare(kernel.CLONE_NEWCGROUP)
        plain = mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
        with layer("proc"):
            self.own_proc = mounts.proc(attrs=plain)  # writable, for ourselves
            self.proc = mounts.proc(attrs=plain | mounts.ATTR_RDONLY)
        with layer("mount-api"):
            self.terminals = mounts.devpts(attrs=DEVICE)


def run(fds: Fds, prepared: Prepared, *, landlock_abi: int, launcher: int) -> NoReturn:
    """In the fork: put up the layers, carry out the job, and end. `launcher`: a pidfd of it."""
    enclosure = _Enclosure(fds, prepared, landlock_abi, launcher)
    try:
        os.setsid()
        orders = Orders(os.pread(fds.orders, os.fstat(fds.orders).st_size, 0))
        enclosure.put_up(orders)
        if orders.detached:
            tell(enclosure.status, {"started": True})
        code = init.run(orders.script, dict(orders.env), orders.cwd)
        for fd in range(STATUS_FD):
            os.close(fd)
        killed: dict[str, str | int] = {"out-of-memory": True} if _memory_kills() else {}
        tell(enclosure.status, {"exit-code": code, **killed})
        os._exit(0)
    except LayerError as error:
        tell(enclosure.status, {"layer": error.layer, "error": error.error})
    except Exception as error:  # the fork must not fall back into the nursery's loop
        tell(enclosure.status, {"layer": "launcher", "error": repr(error)})
    os._exit(125)


def tell(fd: int, told: dict[str, str | int]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, message(told))


def _memory_kills() -> int:
    try:
        return count_kills(KILLS_FD)
    except OSError:  # nobody counts
        return 0


def refuse_host_root() -> None:
    """Not an `assert`: it must hold under -O too. Called while ids still mean what they mean on the host."""
    if 0 in os.getresuid():
        raise LayerError("identity", "refusing to run a command as host uid 0")


class _Enclosure:
    """One sandbox being put up: what its steps hand on to one another."""

    def __init__(self, fds: Fds, prepared: Prepared, landlock_abi: int, launcher: int) -> None:
        self._fds, self._prepared, self._landlock_abi, self._launcher = fds, prepared, landlock_abi, launcher
        self.status = fds.status  # its number changes on the way, and what fails after that is told too
        self._assembled = False
        self._filter = b""

    def put_up(self, orders: Orders) -> None:
        for step in orders.steps:
            self._do(orders, *step)

    def _do(self, orders: Orders, step: str, *given: Any) -> None:  # noqa: PLR0912 - one line for each layer
        match step:
            case "Namespaces" | "ControlGroup":
                pass  # made before the process, and with it
            case "Reach":
                with layer("reach"):
                    self._listen(*given)
            case "Mount":
                self._tree(orders)
            case "NewRoot":
                with layer("mount-api"):
                    mounts.pivot_to_cwd()
            case "Identity":
                with layer("identity"):
                    _become(*given)
            case "Runtime":
                _make_runtime(orders, *given)
            case "Folder":
                _enter(*given)
            case "UserNamespace":
                with layer("user-namespace"):
                    self._own_users(*given)
            case "NoPrivileges":
                with layer("privileges"):
                    _renounce()
            case "Streams":
                self._wire(*given)
            case "Limits":
                _limit(*given)
            case "Landlock":
                with layer("landlock"):
                    self._fence(*given)
            case "SystemCalls":
                with layer("seccomp"):
                    kernel.install_filter(self._filter)
            case _:
                raise LayerError("launcher", f"no layer is called {step}")

    def _tree(self, orders: Orders) -> None:
        """All mounts of the plan at once, at the first of them."""
        if self._assembled:
            return
        self._assembled = True
        with layer("mount-api"):
            mounts.make_private()
        wanted = [tuple(given) for name, *given in orders.steps if name == "Mount"]
        made = {"proc": self._prepared.proc, "terminals": self._prepared.terminals}
        assemble(orders, wanted, Ground(self._fds.userns, made))

    def _listen(self, routes: tuple[tuple[str, int], ...]) -> None:
        """The sockets go to the broker; of ours nothing is left open (`_wire`)."""
        listeners = reach.listen(routes)
        with socket.socket(fileno=os.dup(self._fds.status)) as status:
            socket.send_fds(status, [b'{"listening": true}\n'], [each.fileno() for each in listeners])
        for each in listeners:
            each.close()

    def _own_users(self, inside: tuple[int, int], outside: tuple[int, int]) -> None:
        """A namespace that owns none of the mounts: whoever gained all capabilities in it cannot mount.

        Where /proc/sys is read-only (a container, a hardened unit) the filter alone forbids a further one.
        """
        kernel.unshare(kernel.CLONE_NEWUSER)
        map_ids(self._prepared.own_proc, inside, outside)
        with contextlib.suppress(OSError):
            write_in(self._prepared.own_proc, "sys/user/max_user_namespaces", "0")
        with contextlib.suppress(OSError):  # short of memory, the kernel takes the command before the broker
            write_in(self._prepared.own_proc, "self/oom_score_adj", "500")

    def _wire(self, detached: bool) -> None:
        """Standard streams to 0..2, status to 3, the count of memory kills to 4, nothing else open."""
        if detached:
            kernel.die_with_parent(False)  # as who stood by it would
        else:
            die_with(self._launcher)
        self._filter = os.pread(self._fds.filter, _MAX_FILTER_BYTES, 0)
        high = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
            for fd in (*self._fds.streams, self._fds.status, *self._fds.kills)
        ]
        for target, fd in enumerate(high):
            os.dup2(fd, target, inheritable=target < STATUS_FD)
        kernel.close_from(len(high))
        self.status = STATUS_FD

    def _fence(self, writable: tuple[str, ...], network: bool) -> None:
        if self._landlock_abi:
            landlock.restrict(self._landlock_abi, writable=writable, network=network)


def die_with(launcher: int) -> None:
    """From here on the kernel sees to it; the launcher may have ended before."""
    kernel.die_with_parent()
    if select.select([launcher], [], [], 0)[0]:
        os._exit(125)


def _renounce() -> None:
    kernel.set_no_new_privs()
    kernel.drop_capabilities()
    kernel.set_dumpable(False)


def _become(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """Give up root for good: groups first, then gid and uid, all three of each."""
    if os.geteuid() == 0:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        kernel.set_dumpable(True)  # for the moment: it must write its own map
    refuse_host_root()


def _make_runtime(orders: Orders, folders: tuple[str, ...]) -> None:
    os.umask(0o022)
    for path in folders:
        os.mkdir(path, 0o700)
    place, text = orders.name_servers
    if place.startswith("/run/") and text:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w") as file:
            file.write(text)


def _enter(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise LayerError("cwd", f"{path}: {error.strerror}") from error


def _limit(limits: tuple[tuple[int, int], ...]) -> None:
    for which, value in limits:
        try:
            resource.setrlimit(which, (value, value))
        except (ValueError, PermissionError):  # a tighter one is in force already
            _, hard = resource.getrlimit(which)
            resource.setrlimit(which, (min(value, hard),) * 2)
