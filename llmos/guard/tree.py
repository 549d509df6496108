"""The tree a sandboxed program sees, assembled in the launcher's own mount namespace.

The host's files read-only, the write roots over them writable, an empty /run, and masks over secrets; for
a root caller ID-mapped, so that root's files are those of the uid the command really has. Whatever a
caller could have changed since it was judged is resolved without symbolic links, and mounted by
descriptor. Standard library only, because the launcher runs without site-packages.

Not protected against: a second mount of the same files elsewhere on the host shows what a mask hides here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from llmos.guard import mounts
from llmos.guard.sandbox import Box, Mount, plan

# Their own kernel objects, not files: they cannot be ID-mapped and need not be.
_KERNEL_TYPES = frozenset((
    "proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "debugfs", "tracefs",
    "securityfs", "pstore", "bpf", "configfs", "fusectl", "binfmt_misc", "efivarfs", "hugetlbfs",
    "nsfs", "rpc_pipefs", "selinuxfs",
))  # fmt: skip
_BUSY_S = 3.0
_TREE, _EMPTY_FOLDER, _EMPTY_FILE = "tree", "empty/folder", "empty/file"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
}  # fmt: skip
_COVERED = ("/proc/", "/sys/", "/dev/", "/run/")
_WRITABLE = mounts.ATTR_NOSUID | mounts.ATTR_NODEV
_READ_ONLY = _WRITABLE | mounts.ATTR_RDONLY
_DEVICE = mounts.ATTR_NOSUID | mounts.ATTR_NOEXEC
_LITERALLY = mounts.RESOLVE_NO_SYMLINKS | mounts.RESOLVE_NO_MAGICLINKS
Part = tuple[str, int]  # a mount point in the tree, and the detached mount that goes there


class LayerError(Exception):
    """A layer of the sandbox cannot be had; the names are those `spawn` explains."""

    def __init__(self, layer: str, error: str) -> None:
        super().__init__(f"{layer}: {error}")
        self.layer = layer
        self.error = error


@contextlib.contextmanager
def layer(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LayerError(name, str(error)) from error


def assemble(box: Box, userns_fd: int | None) -> None:
    """Build the tree of `plan(box)` and stand in it: the current folder is what is to become the root.

    Everything is taken from the host before the first mount hides anything, and is read-only before it
    becomes visible; then come the write roots, and the masks last, so that nothing lies over a mask.
    """
    table = _host_mounts()
    wanted = [step for step in plan(box, root=os.geteuid() == 0) if isinstance(step, Mount)]
    parts = [(mount.what, part) for mount in wanted for part in _take(mount, box, table, userns_fd)]
    with layer("mount-api"):
        base = _enter_base()
    for what, (point, fd) in parts:
        with layer(_LAYER.get(what, "mount-api")), _where_there(what):
            _attach(base, _TREE + point.rstrip("/"), fd)
    with layer("mask"):
        _mask(base, box.hidden)
    os.chdir(_TREE)


_LAYER = {"granted": "write-root", "staged": "stage", "proc": "proc"}


@contextlib.contextmanager
def _where_there(what: str) -> Iterator[None]:
    """A mount of the host that lies below another is not seen on the host either; /var/tmp may be a link."""
    try:
        yield
    except OSError as error:
        if what not in ("host", "private") or error.errno not in (errno.ENOENT, errno.ELOOP):
            raise


def _take(mount: Mount, box: Box, table: list[mounts.Mount], userns_fd: int | None) -> list[Part]:
    """The detached mounts for one step of the plan; masks come from the base, at the end."""
    parts: list[Part] = []
    with layer(_LAYER.get(mount.what, "mount-api")):
        match mount.what:
            case "host":
                parts = _view(table, userns_fd)
            case "tmpfs" | "private":
                parts = [(mount.point, _own_tmpfs(box, mount))]
            case "proc":
                parts = [(mount.point, mounts.proc(attrs=_READ_ONLY | mounts.ATTR_NOEXEC))]
            case "devices":
                parts = _devices(mount.point)
            case "terminals":
                parts = [(mount.point, mounts.devpts(attrs=_DEVICE))]
            case "granted":
                parts = _grant(mount.point, table, userns_fd)
            case "staged":
                parts = [
                    _staged(mount.point, box, userns_fd),
                    *_read_only_below(mount.point, table, userns_fd),
                ]
    return parts


def _host_mounts() -> list[mounts.Mount]:
    return mounts.mount_table(Path("/proc/self/mountinfo").read_bytes())


def _view(table: list[mounts.Mount], userns_fd: int | None) -> list[Part]:
    """The host's files, read-only: every mount but the kernel's own file systems, of which only /sys stays.

    An unprivileged launcher's mounts are locked together, so it must take all of them at once. Root takes
    one by one what is wanted: fewer mounts to copy, and each ID-mapped where that is asked for. A mount
    that cannot be mapped shows a root caller less, never more.
    """
    if os.geteuid() != 0:
        tree = mounts.open_tree_at("/")
        mounts.set_attr(tree, attrs=_READ_ONLY, recursive=True)
        return [("/", tree)]
    parts = []
    for point in ("/", "/sys", *_below("/", table)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            tree = mounts.open_tree_at(point, recursive=False)
            mounts.set_attr(tree, attrs=_READ_ONLY)
            with contextlib.suppress(OSError):
                if userns_fd is not None:
                    mounts.set_attr(tree, userns_fd=userns_fd)
            parts.append((point, tree))
    return parts


def _below(folder: str, table: list[mounts.Mount]) -> Iterator[str]:
    """Mount points of file systems below `folder`, parents first, each once."""
    start = folder.rstrip("/") + "/"
    for point in dict.fromkeys(mount.point for mount in table if mount.fs_type not in _KERNEL_TYPES):
        if point.startswith(start) and point != start and not point.startswith(_COVERED):
            yield point


def _mapped(point: str, userns_fd: int) -> int:
    """One writable mount alone, ID-mapped: the kernel maps only what is detached and has no parent."""
    place = mounts.open_path(point, resolve=_LITERALLY)
    tree = mounts.open_tree(place, recursive=False)
    mounts.set_attr(tree, attrs=_WRITABLE, userns_fd=userns_fd)
    os.close(place)
    return tree


def _staged(root: str, box: Box, userns_fd: int | None) -> Part:
    """A copy-on-write view of a write root: what is written goes to `stage`/upper, the root stays as it is.

    A root that is a plain file is seen through a view of its folder, of which only the file is granted.
    """
    stage = f"{box.stage}/{sorted(box.write_roots).index(root)}"
    with layer("write-root"):
        place = mounts.open_path(root, resolve=_LITERALLY)
        name = ""
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            folder, _, name = root.rpartition("/")
            place = mounts.open_path(folder or "/", resolve=_LITERALLY)
    with layer("stage"):
        lower, layers = _layers(place, stage, userns_fd)
        upper, work = (
            mounts.open_path(part, dir_fd=layers, resolve=_LITERALLY) for part in ("upper", "work")
        )
        maker = contextlib.nullcontext() if userns_fd is None else mounts.files_as(box.host_uid, box.host_gid)
        with maker:
            view = _overlay(lower, upper, work)
        if os.fstatvfs(view).f_flag & os.ST_RDONLY:  # what overlayfs makes of a layer it cannot write
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        tree = mounts.open_tree(view, name, recursive=False) if name else view
    return root, tree


def _layers(place: int, stage: str, userns_fd: int | None) -> tuple[int, int]:
    """Handles on the lower layer and on the stage; ID-mapped, for a root caller, by mounts of ours.

    Overlayfs takes no detached mount as a layer before Linux 6.15, so the mapped ones are put somewhere
    for the moment: on the stage, in this mount namespace, of which nothing is left after the pivot.
    """
    layers = mounts.open_path(stage, resolve=_LITERALLY)
    if userns_fd is None:
        return place, layers
    for target, source in ((stage, layers), (f"{stage}/lower", place)):
        mapped = mounts.open_tree(source, recursive=False)
        mounts.set_attr(mapped, userns_fd=userns_fd)
        mounts.attach(mapped, mounts.open_path(target, resolve=_LITERALLY))
    lower = mounts.open_path(f"{stage}/lower", resolve=_LITERALLY)
    return lower, mounts.open_path(stage, resolve=_LITERALLY)


def _overlay(lower: int, upper: int, work: int) -> int:
    """The step before has ended, but the kernel may take a moment to let go of its view."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            return mounts.overlay(lower, upper, work, in_userns=os.geteuid() != 0, attrs=_WRITABLE)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _read_only_below(root: str, table: list[mounts.Mount], userns_fd: int | None) -> Iterator[Part]:
    """Other file systems mounted inside a staged root are to be seen there, and not to be written."""
    for point in _below(root, table):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            tree = mounts.open_tree(mounts.open_path(point, resolve=_LITERALLY), recursive=False)
            mounts.set_attr(tree, attrs=_READ_ONLY)
            with contextlib.suppress(OSError):
                if userns_fd is not None:
                    mounts.set_attr(tree, userns_fd=userns_fd)
            yield point, tree


def _grant(root: str, table: list[mounts.Mount], userns_fd: int | None) -> list[Part]:
    """Writable copies of a write root and the mounts in it; no part of its path may be a symlink."""
    with layer("write-root"):
        place = mounts.open_path(root, resolve=_LITERALLY)
        if not stat.S_ISDIR(mode := os.fstat(place).st_mode) and not stat.S_ISREG(mode):
            raise LayerError("write-root", f"{root} is neither a folder nor a plain file")
        tree = mounts.open_tree(place, recursive=userns_fd is None)
        mounts.set_attr(tree, attrs=_WRITABLE, recursive=True)
        os.close(place)
    if userns_fd is None:
        return [(root, tree)]
    with layer("idmap"):
        mounts.set_attr(tree, userns_fd=userns_fd)
        return [
            (root, tree),
            *((point, _mapped(point, userns_fd)) for point in _below(root, table)),
        ]


def _own_tmpfs(box: Box, mount: Mount) -> int:
    return mounts.tmpfs(
        num_bytes=mount.num_bytes, mode=mount.mode, uid=box.host_uid, gid=box.host_gid, attrs=_WRITABLE
    )


def _devices(point: str) -> list[Part]:
    """A /dev with the few devices that are nobody's, and nothing that can be added to it."""
    folder = mounts.tmpfs(num_bytes=1 << 16, uid=os.geteuid(), gid=os.getegid(), attrs=_DEVICE)
    parts = [(point, folder)]
    for name in _DEVICES:
        with contextlib.suppress(FileNotFoundError):
            node = mounts.open_tree_at(f"/dev/{name}", recursive=False)
            mounts.set_attr(node, attrs=_DEVICE)
            os.close(os.open(name, os.O_CREAT | os.O_CLOEXEC, 0o444, dir_fd=folder))
            parts.append((f"{point}/{name}", node))
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, name, dir_fd=folder)
    for name in ("shm", "pts"):
        os.mkdir(name, 0o755, dir_fd=folder)
    mounts.set_attr(folder, attrs=_DEVICE | mounts.ATTR_RDONLY)
    return parts


def _enter_base() -> int:
    """Mount a base on /tmp (any folder would do: it is gone after the pivot) and go there."""
    fd = mounts.tmpfs(num_bytes=1 << 20, uid=os.geteuid(), gid=os.getegid(), attrs=mounts.ATTR_NOSUID)
    mounts.attach(fd, mounts.open_path("/tmp"))  # noqa: S108
    os.fchdir(fd)
    for name, mode in ((_TREE, 0o755), ("empty", 0o755), (_EMPTY_FOLDER, 0o555)):
        Path(name).mkdir(mode)
    Path(_EMPTY_FILE).touch(0o444)
    return fd


def _attach(base: int, path: str, tree: int) -> None:
    target = mounts.open_path(path.lstrip("/"), dir_fd=base, resolve=_LITERALLY | mounts.RESOLVE_BENEATH)
    mounts.attach(tree, target)
    os.close(target)


def _mask(base: int, hidden: tuple[str, ...]) -> None:
    """Cover each hidden path with an empty folder or file; what does not exist needs no cover."""
    tree = os.open(_TREE, os.O_PATH | os.O_CLOEXEC, dir_fd=base)
    for path in hidden:
        try:
            # Links are followed, inside the tree: a linked secret is covered where it really lies.
            target = mounts.open_path(path, dir_fd=tree, resolve=mounts.RESOLVE_IN_ROOT)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                continue  # what we cannot reach, the command, with less rights, cannot either
            raise
        name = _EMPTY_FOLDER if stat.S_ISDIR(os.fstat(target).st_mode) else _EMPTY_FILE
        cover = mounts.open_tree(base, name)
        mounts.set_attr(cover, attrs=_READ_ONLY)
        mounts.attach(cover, target)
        os.close(target)
        os.close(cover)
