"""A control group for each call: memory, processes and processor time of all its programs in sum.

The launcher makes the group's folders, the fork enters them before anything else, and the launcher removes
them when it reaps the fork. Two kinds of hierarchy, found in /proc/self (cgroups(7)):

    version 2   one folder; root makes his own at the top, a plain user needs his unit's to be delegated
    version 1   one folder for each controller, below the one the broker is in; root only

A group's name carries the launcher's pid and start time, so that groups of one that was killed are known and
swept away by the next. The groups of a user who has a quota lie in one group of that user's, which
bounds all of them together. Where no group can be had the limits of each process (setrlimit) stand
alone, and `llmos doctor` says so. Standard library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from llmos.cgroupfs import mounted, own_groups
from llmos.guard.sandbox import ControlGroup, UserLimits

CONTROLLERS = ("memory", "pids", "cpu")
_PREFIX = "llmos-"
_NAME = re.compile(rf"{_PREFIX}(\d+)\.(\d+)\.\d+(\.stay)?")
_PARENT = re.compile(rf"{_PREFIX}user\.\d+")
_CPU_PERIOD_US = 100_000


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups are made: folder by controller (of version 2 always the same one)."""

    version: int
    folders: dict[str, str]
    missing: str = ""  # why there is none, or which controllers it lacks

    def __bool__(self) -> bool:
        return bool(self.folders)

    def places(self, name: str) -> list[str]:
        return list(dict.fromkeys(f"{folder}/{name}" for folder in self.folders.values()))

    def make(self, name: str) -> None:
        """Make the group, still without limits. Raises OSError and leaves nothing behind."""
        parent, _, _ = name.rpartition("/")
        try:
            if parent:
                self._make_parent(parent)
            for place in self.places(name):
                os.mkdir(place, 0o755)
        except OSError:
            self.remove(name)
            raise

    def _make_parent(self, name: str) -> None:
        for place in self.places(name):
            Path(place).mkdir(0o755, exist_ok=True)
            if self.version == 2:
                _enable(place)

    def entrances(self, name: str) -> list[str]:
        """The files into which a process writes 0 to move itself into the group."""
        # In version 1 a thread that moves itself takes no lock of the whole system.
        file = "tasks" if self.version == 1 else "cgroup.procs"
        return [f"{place}/{file}" for place in self.places(name)]

    def limit(self, name: str, group: ControlGroup) -> None:
        """Set the group's limits. Raises OSError."""
        parent, _, _ = name.rpartition("/")
        wanted = [(parent, *each) for each in user_settings(self.version, group.user)] if parent else []
        wanted += [(name, *each) for each in settings(self.version, group)]
        for where, controller, file, value in wanted:
            if controller in self.folders:
                _put(f"{self.folders[controller]}/{where}/{file}", value)

    def kills(self, name: str) -> tuple[int, ...]:
        """The open file that counts what the kernel ended in it for want of memory, where it counts."""
        file = "memory.oom_control" if self.version == 1 else "memory.events"
        try:
            return (os.open(f"{self.folders['memory']}/{name}/{file}", os.O_RDONLY | os.O_CLOEXEC),)
        except (KeyError, OSError):
            return ()

    def remove(self, name: str, *, kill: bool = True) -> bool:
        """Remove the group and say whether it is gone; what should still run in it is killed."""
        gone = True
        for place in self.places(name):
            try:
                os.rmdir(place)
            except FileNotFoundError:
                pass
            except OSError:
                gone = False
                if kill:
                    _kill(place)
        return gone

    def sweep(self) -> set[str]:
        """Remove the groups of launchers that are gone; returns those where somebody still dies.

        A program that was to stay keeps its group, until a sweep after its end.
        """
        names = {name for folder in set(self.folders.values()) for name in _calls(folder)}
        found = [(name, match) for name in names if (match := _NAME.fullmatch(name.rpartition("/")[2]))]
        gone = [(name, match) for name, match in found if started(int(match[1])) != match[2]]
        left = [(name, match) for name, match in gone if not self.remove(name, kill=not match[3])]
        self.remove_parents()
        return {name for name, match in left if not match[3]}

    def remove_parents(self) -> None:
        """The groups of users in which nothing lies; the kernel refuses the others."""
        for folder in set(self.folders.values()):
            for name in filter(_PARENT.fullmatch, _listed(folder)):
                with contextlib.suppress(OSError):
                    Path(folder, name).rmdir()


def name(launcher: int, number: int, *, stays: bool = False) -> str:
    return numbered(prefix(launcher), number, stays=stays)


def prefix(launcher: int) -> str:
    """What the names of a launcher's groups begin with."""
    return f"{_PREFIX}{launcher}.{started(launcher)}"


def numbered(prefix: str, number: int, *, stays: bool) -> str:
    return f"{prefix}.{number}{'.stay' if stays else ''}"


def started(pid: int) -> str:
    """When a process started, in clock ticks since boot (proc_pid_stat(5)); empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


# --- finding the hierarchy -------------------------------------------------------------------------


def find(*, prepare: bool) -> Hierarchy:
    """Where this process may make groups. `prepare` does what that needs, else it is only looked at."""
    own = dict(own_groups(Path("/proc/self/cgroup").read_text()))
    table = list(mounted(Path("/proc/self/mountinfo").read_text()))
    first = {
        name: point + own[name]
        for point, kind, names in table
        if kind == "cgroup"
        for name in names
        if name in CONTROLLERS and name in own
    }
    if "memory" in first or "pids" in first:
        return _version_1({name: os.path.normpath(path) for name, path in first.items()})
    point = next((point for point, kind, _ in table if kind == "cgroup2"), "")
    if not point or "" not in own:
        return Hierarchy(2, {}, "no cgroup file system is mounted")
    return _version_2(point, os.path.normpath(point + own[""]), prepare=prepare)


def _version_1(folders: dict[str, str]) -> Hierarchy:
    writable = {name: folder for name, folder in folders.items() if os.access(folder, os.W_OK)}
    if not writable:
        return Hierarchy(1, {}, "only root may make groups in a version 1 hierarchy")
    lacking = [name for name in CONTROLLERS if name not in writable]
    return Hierarchy(1, writable, f"without {', '.join(lacking)}" if lacking else "")


def _version_2(point: str, own: str, *, prepare: bool) -> Hierarchy:
    """Root's groups lie in a folder of their own at the top, a plain user's below his delegated unit."""
    root = os.geteuid() == 0
    parent = f"{point}/llmos" if root else own
    if not root and not _delegated(own):
        return Hierarchy(2, {}, f"{own} is not delegated to you")
    try:
        if prepare:
            _prepare(point, own, parent, root=root)
        there = Path(parent if Path(parent).is_dir() else point, "cgroup.controllers").read_text().split()
    except OSError as error:
        return Hierarchy(2, {}, f"{parent}: {error.strerror}")
    having = [name for name in CONTROLLERS if name in there]
    lacking = [name for name in CONTROLLERS if name not in having]
    if not having:
        return Hierarchy(2, {}, f"{parent} has no controllers")
    return Hierarchy(2, dict.fromkeys(having, parent), f"without {', '.join(lacking)}" if lacking else "")


def _delegated(folder: str) -> bool:
    """systemd marks what it has handed over (systemd.exec(5), Delegate=)."""
    try:
        return os.getxattr(folder, "user.delegate") == b"1" and os.access(folder, os.W_OK)
    except OSError:
        return False


def _prepare(point: str, own: str, parent: str, *, root: bool) -> None:
    """A group with controllers for others may hold no process itself, so ours move into one of their own."""
    if root:
        _enable(point)
        Path(parent).mkdir(0o755, exist_ok=True)
    else:
        Path(f"{own}/broker").mkdir(0o755, exist_ok=True)
        for pid in Path(f"{own}/cgroup.procs").read_text().split():
            _put(f"{own}/broker/cgroup.procs", pid)
    _enable(parent)


def _enable(folder: str) -> None:
    having = Path(f"{folder}/cgroup.controllers").read_text().split()
    for name in CONTROLLERS:
        if name in having:
            _put(f"{folder}/cgroup.subtree_control", f"+{name}")


def settings(version: int, group: ControlGroup) -> list[tuple[str, str, str]]:
    """Controller, file and value; swap is bounded with the memory where it is counted."""
    quota = str(int(group.cpus * _CPU_PERIOD_US))
    memory = str(group.memory_bytes)
    if version == 1:
        first = [("memory", "memory.limit_in_bytes", memory), ("pids", "pids.max", str(group.processes))]
        return first + ([("cpu", "cpu.cfs_quota_us", quota)] if group.cpus else [])
    second = [("memory", "memory.max", memory), ("pids", "pids.max", str(group.processes))]
    return second + ([("cpu", "cpu.max", f"{quota} {_CPU_PERIOD_US}")] if group.cpus else [])


def user_settings(version: int, user: UserLimits | None) -> list[tuple[str, str, str]]:
    """The same for the group of a user. What has no bound is set as well: it may have had one before."""
    if user is None:
        return []
    most = "-1" if version == 1 else "max"
    memory, processes = str(user.memory_bytes or most), str(user.processes or "max")
    quota = str(int(user.cpus * _CPU_PERIOD_US)) if user.cpus else most
    if version == 1:
        return [("memory", "memory.limit_in_bytes", memory), ("pids", "pids.max", processes),
                ("cpu", "cpu.cfs_quota_us", quota)]  # fmt: skip
    return [("memory", "memory.max", memory), ("pids", "pids.max", processes),
            ("cpu", "cpu.max", f"{quota} {_CPU_PERIOD_US}")]  # fmt: skip


def _calls(folder: str) -> list[str]:
    """Groups that may be a call's, in the folder and in those of users."""
    names = _listed(folder)
    return names + [
        f"{name}/{one}" for name in filter(_PARENT.fullmatch, names) for one in _listed(f"{folder}/{name}")
    ]


def _put(file: str, value: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _kill(place: str) -> None:
    with contextlib.suppress(OSError):
        _put(f"{place}/cgroup.kill", "1")


def _listed(folder: str) -> list[str]:
    try:
        return [entry.name for entry in Path(folder).iterdir()]
    except OSError:
        return []
