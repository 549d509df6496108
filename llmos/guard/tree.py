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
from llmos.guard.sandbox import TREE, Box

# Their own kernel objects, not files: they cannot be ID-mapped and need not be.
_KERNEL_TYPES = frozenset((
    "proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "debugfs", "tracefs",
    "securityfs", "pstore", "bpf", "configfs", "fusectl", "binfmt_misc", "efivarfs", "hugetlbfs",
    "nsfs", "rpc_pipefs", "selinuxfs",
))  # fmt: skip
_BASE = ("tree", "proc", "dev", "tmp", "empty")
_BUSY_S = 3.0
_COVERED = ("/proc/", "/sys/", "/dev/", "/run/")
_WRITABLE = mounts.ATTR_NOSUID | mounts.ATTR_NODEV
_READ_ONLY = _WRITABLE | mounts.ATTR_RDONLY
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
    """Build the launcher's new root: /tree (what the program will see), and what bubblewrap itself needs.

    Everything is taken from the host before the first mount hides anything, and is read-only before it
    becomes visible; then come the write roots, and the masks last, so that nothing lies over a mask.
    """
    table = _host_mounts()
    with layer("mount-api"):
        view = _view(table, userns_fd)
        proc, dev = mounts.open_tree_at("/proc"), mounts.open_tree_at("/dev")
    grants = list(_grants(box, table, userns_fd))
    with layer("mount-api"):
        base = _enter_base()
        for point, fd in view:
            with contextlib.suppress(FileNotFoundError):  # below another mount, out of sight on the host too
                _attach(base, TREE + point.rstrip("/"), fd)
        _attach(base, "/proc", proc)
        _attach(base, "/dev", dev)
        _attach(base, TREE + "/run", _own_tmpfs(box))
    with layer("write-root"):
        for point, fd in grants:
            _attach(base, TREE + point, fd)
    with layer("mask"):
        _mask(base, box.hidden)
        mounts.pivot_to_cwd()


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


def _grants(box: Box, table: list[mounts.Mount], userns_fd: int | None) -> Iterator[Part]:
    """What the program may write: the write roots themselves or, with a stage, views of them."""
    for number, root in enumerate(sorted(box.write_roots)):
        if box.stage:
            yield _staged(root, f"{box.stage}/{number}", box, userns_fd)
            with layer("stage"):
                yield from _read_only_below(root, table, userns_fd)
        else:
            yield from _grant(root, table, userns_fd)


def _staged(root: str, stage: str, box: Box, userns_fd: int | None) -> Part:
    """A copy-on-write view of a write root: what is written goes to `stage`/upper, the root stays as it is.

    A root that is a plain file is seen through a view of its folder, of which only the file is granted.
    """
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


def _own_tmpfs(box: Box) -> int:
    size = box.limits.scratch_bytes
    return mounts.tmpfs(num_bytes=size, uid=box.host_uid, gid=box.host_gid, attrs=_WRITABLE)


def _enter_base() -> int:
    """Mount the new root on /tmp (any folder would do: it is gone after the pivot) and go there."""
    fd = mounts.tmpfs(num_bytes=1 << 20, uid=os.geteuid(), gid=os.getegid(), attrs=mounts.ATTR_NOSUID)
    host_names = [place.name for place in Path("/").iterdir()]
    mounts.attach(fd, mounts.open_path("/tmp"))  # noqa: S108
    os.fchdir(fd)
    for name in _BASE:
        Path(name).mkdir(0o755)
    for name in host_names:
        # Bubblewrap and its libraries are found by their usual paths, which lead into the tree.
        if name not in _BASE:
            Path(name).symlink_to(f"{TREE}/{name}")
    return fd


def _attach(base: int, path: str, tree: int) -> None:
    target = mounts.open_path(path.lstrip("/"), dir_fd=base, resolve=_LITERALLY | mounts.RESOLVE_BENEATH)
    mounts.attach(tree, target)
    os.close(target)


def _mask(base: int, hidden: tuple[str, ...]) -> None:
    """Cover each hidden path with an empty folder or file; what does not exist needs no cover."""
    Path("empty/folder").mkdir(0o555)
    Path("empty/file").touch(0o444)
    tree = os.open("tree", os.O_PATH | os.O_CLOEXEC, dir_fd=base)
    for path in hidden:
        try:
            # Links are followed, inside the tree: a linked secret is covered where it really lies.
            target = mounts.open_path(path, dir_fd=tree, resolve=mounts.RESOLVE_IN_ROOT)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                continue  # what we cannot reach, the command, with less rights, cannot either
            raise
        name = "empty/folder" if stat.S_ISDIR(os.fstat(target).st_mode) else "empty/file"
        cover = mounts.open_tree(base, name)
        mounts.set_attr(cover, attrs=_READ_ONLY)
        mounts.attach(cover, target)
        os.close(target)
        os.close(cover)
