"""What is the same in every sandbox's tree, prepared once: the host's files, read-only, and a small /dev.

The launcher lives in a mount namespace of its own (without privilege also in a user namespace, which makes
that possible), follows what is mounted on the host, and keeps there

    /run/mapped     the host's files for a root caller: ID-mapped, so that root's are the stand-in's
    /run/plain      the same for everybody else
    /run/empty      an empty folder and an empty file, which cover secrets

A fork finds them in its copy of the namespace, adds what is its own, and makes one of them its root. When
something is mounted or unmounted on the host, they are made anew. Standard library only, because the
launcher runs without site-packages.

Not protected against: a second mount of the same files elsewhere on the host shows what a mask hides here.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmos.guard import mounts
from llmos.guard.ground import BASE, DEVICE, EMPTY_FILE, EMPTY_FOLDER, READ_ONLY, folder
from llmos.guard.idmap import IdMap
from llmos.guard.layering import LayerError, layer

# Their own kernel objects, not files: they cannot be ID-mapped and need not be.
_KERNEL_TYPES = frozenset((
    "proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "debugfs", "tracefs",
    "securityfs", "pstore", "bpf", "configfs", "fusectl", "binfmt_misc", "efivarfs", "hugetlbfs",
    "nsfs", "rpc_pipefs", "selinuxfs",
))  # fmt: skip
_COVERED = ("/proc/", "/sys/", "/dev/", "/run/")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """One of the host's."""

    point: str
    fs_type: str


_OCTAL = re.compile(rb"\\([0-7]{3})")


def mount_table(text: bytes) -> list[Mount]:
    """Mount points and file system types out of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    table = []
    for line in text.splitlines():
        left, _, right = line.partition(b" - ")
        point = _OCTAL.sub(lambda m: bytes([int(m[1], 8)]), left.split(b" ")[4])
        table.append(Mount(os.fsdecode(point), os.fsdecode(right.split(b" ")[0])))
    return table


class Templates:
    """The prepared trees of one launcher. A layer that could not be had is reported by each call."""

    def __init__(self, id_map: IdMap | None, error: LayerError | None) -> None:
        """`error`: why there is no mount namespace of our own, if there is none."""
        self._id_map = id_map
        self._error = error
        self._built: set[str] = set()
        self.table: list[Mount] = []
        self.generation = 0  # of what a fork finds in its copy of the namespace
        try:
            if error:
                raise error
            self._events = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            _make_base()
        except LayerError as reason:
            self._error, self._events = reason, os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._events, select.POLLPRI)

    def fileno(self) -> int:
        """Ready for POLLPRI when something was mounted or unmounted."""
        return self._events

    def refresh(self) -> None:
        """Forget what is out of date, so that nothing unmounted on the host is kept busy by us."""
        if self._poll.poll(0):
            for name in self._built:
                mounts.detach(name)
            self._built.clear()
            self.generation += 1
            self._poll.poll(0)

    def make(self, *, mapped: bool) -> None:
        """See to it that `folder(mapped)` is there and up to date. Raises LayerError."""
        if self._error:
            raise self._error
        self.refresh()
        name = folder(mapped=mapped)
        if name not in self._built:
            self.table = mount_table(Path("/proc/self/mountinfo").read_bytes())
            userns_fd = self._id_map.fd() if self._id_map and mapped else None
            with layer("mount-api"):
                _build(name, self.table, userns_fd)
            self._built.add(name)
            self.generation += 1
            self._poll.poll(0)  # of what we mounted ourselves we need not hear


def _make_base() -> None:
    with layer("mount-api"):
        fd = mounts.tmpfs(
            num_bytes=1 << 20, uid=os.geteuid(), gid=os.getegid(), attrs=READ_ONLY & ~mounts.ATTR_RDONLY
        )
        mounts.attach(fd, mounts.open_path(BASE))
        for name in ("mapped", "plain", "empty", "empty/folder"):
            Path(BASE, name).mkdir(0o755)
        Path(EMPTY_FOLDER).chmod(0o555)
        Path(EMPTY_FILE).touch(0o444)
        mounts.set_attr(fd, attrs=READ_ONLY)
        os.close(fd)


def _build(name: str, table: list[Mount], userns_fd: int | None) -> None:
    """Everything is taken from the host, and is read-only, before it becomes visible."""
    parts = [*_view(table, userns_fd), *_devices("/dev")]
    for point, fd in parts:
        with contextlib.suppress(FileNotFoundError):  # below another mount, out of sight on the host too
            target = mounts.open_path(f"{name}{point.rstrip('/')}", resolve=mounts.LITERALLY)
            mounts.attach(fd, target)
            os.close(target)
        os.close(fd)


def _view(table: list[Mount], userns_fd: int | None) -> list[tuple[str, int]]:
    """Every mount but the kernel's own file systems, of which only /sys stays.

    An unprivileged launcher's mounts are locked together, so it must take all of them at once. Root takes
    one by one what is wanted: fewer mounts to copy, and each ID-mapped where that is asked for. A mount
    that cannot be mapped shows a root caller less, never more.
    """
    if os.geteuid() != 0:
        tree = mounts.open_tree_at("/")
        mounts.set_attr(tree, attrs=READ_ONLY, recursive=True)
        return [("/", tree)]
    parts = []
    for point in ("/", "/sys", *below("/", table)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            tree = mounts.open_tree_at(point, recursive=False)
            mounts.set_attr(tree, attrs=READ_ONLY)
            with contextlib.suppress(OSError):
                if userns_fd is not None:
                    mounts.set_attr(tree, userns_fd=userns_fd)
            parts.append((point, tree))
    return parts


def below(folder: str, table: Sequence[Mount]) -> Iterator[str]:
    """Mount points of file systems below `folder`, parents first, each once."""
    start = folder.rstrip("/") + "/"
    for point in dict.fromkeys(mount.point for mount in table if mount.fs_type not in _KERNEL_TYPES):
        if point.startswith(start) and point != start and not point.startswith(_COVERED) and point != BASE:
            yield point


def _devices(point: str) -> list[tuple[str, int]]:
    """A /dev with the few devices that are nobody's, and nothing that can be added to it."""
    folder = mounts.tmpfs(num_bytes=1 << 16, uid=os.geteuid(), gid=os.getegid(), attrs=DEVICE)
    parts = [(point, folder)]
    for name in _DEVICES:
        with contextlib.suppress(FileNotFoundError):
            node = mounts.open_tree_at(f"/dev/{name}", recursive=False)
            mounts.set_attr(node, attrs=DEVICE)
            os.close(os.open(name, os.O_CREAT | os.O_CLOEXEC, 0o444, dir_fd=folder))
            parts.append((f"{point}/{name}", node))
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, name, dir_fd=folder)
    for name in ("shm", "pts"):
        os.mkdir(name, 0o755, dir_fd=folder)
    mounts.set_attr(folder, attrs=DEVICE | mounts.ATTR_RDONLY)
    return parts
