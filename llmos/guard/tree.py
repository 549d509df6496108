"""The tree a sandboxed program sees: the prepared one (`template`), and over it what is this call's own.

The write roots writable, an empty /run, a /proc of its own, and masks over secrets. Whatever a caller could
have changed since it was judged is resolved without symbolic links, and mounted by descriptor. Standard
library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time

from llmos.guard import mounts
from llmos.guard.ground import EMPTY_FILE, EMPTY_FOLDER, READ_ONLY, WRITABLE
from llmos.guard.layering import LayerError, layer
from llmos.guard.mounts import LITERALLY as _LITERALLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llmos.guard.enclosure import Orders

    Mount = tuple[str, str, int, int]  # as in `sandbox.Mount`: point, what, bytes, mode
    Part = tuple[str, int]  # a mount point in the tree, and the detached mount that goes there

_BUSY_S = 3.0
_LAYER = {"granted": "write-root", "staged": "stage", "proc": "proc"}


class Ground:
    """What a tree is built on: `userns_fd` of the ID map, for a root caller, and detached mounts that are
    there already, by what they are."""

    def __init__(self, userns_fd: int | None, made: dict[str, int]) -> None:
        self.userns_fd, self.made = userns_fd, made


def assemble(box: Orders, wanted: Iterable[Mount], ground: Ground) -> None:
    """Carry out the mounts of a plan and stand in the tree: the current folder is what is to become the root.

    Everything is taken from the host before the first mount hides anything; the masks come last, so that
    nothing lies over a mask.
    """
    _see_the_same(box.seen)
    parts = [(mount[1], part) for mount in wanted for part in _take(mount, box, ground)]
    os.chdir(box.folder)
    tree = os.open(".", os.O_PATH | os.O_CLOEXEC)
    for what, (point, fd) in parts:
        with layer(_LAYER.get(what, "mount-api")):
            try:
                _attach(tree, point, fd)
            except OSError as error:  # a host need not have a /var/tmp, or it may be a link
                if what != "private" or error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
    if box.routes:
        with layer("reach"):
            _name_hosts(tree, box.hosts_file)
    with layer("mask"):
        _pin(tree, box.ways)
        _mask(tree, box.hidden)


def _see_the_same(known: Iterable[tuple[str, int, int]]) -> None:
    """The launcher's copy of the mounts follows the host's only where the host shares them.

    Where it does not, a command would work beneath what has been mounted since.
    """
    for path, device, inode in known:
        with contextlib.suppress(OSError):  # whoever needs it will say so
            found = os.stat(path)
            if (found.st_dev, found.st_ino) != (device, inode):
                raise LayerError("mounts", f"{path} is another folder there")


def _take(mount: Mount, box: Orders, ground: Ground) -> list[Part]:
    """The detached mounts for one step of the plan: none for what is prepared, nor for masks."""
    point, what, num_bytes, mode = mount
    parts: list[Part] = []
    with layer(_LAYER.get(what, "mount-api")):
        match what:
            case "proc" | "terminals":
                parts = [(point, ground.made[what])]
            case "tmpfs" | "private":
                parts = [(point, _own_tmpfs(box, num_bytes, mode))]
            case "granted":
                parts = _grant(point, box, ground.userns_fd)
            case "staged":
                parts = [
                    _staged(point, box, ground.userns_fd),
                    *_read_only_below(point, box, ground.userns_fd),
                ]
    return parts


def _mapped(point: str, userns_fd: int) -> int:
    """One writable mount alone, ID-mapped: the kernel maps only what is detached and has no parent."""
    place = mounts.open_path(point, resolve=_LITERALLY)
    tree = mounts.open_tree(place, recursive=False)
    mounts.set_attr(tree, attrs=WRITABLE, userns_fd=userns_fd)
    os.close(place)
    return tree


def _staged(root: str, box: Orders, userns_fd: int | None) -> Part:
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
            return mounts.overlay(lower, upper, work, in_userns=os.geteuid() != 0, attrs=WRITABLE)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _read_only_below(root: str, box: Orders, userns_fd: int | None) -> Iterator[Part]:
    """Other file systems mounted inside a staged root are to be seen there, and not to be written."""
    for point in box.below[root]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            tree = mounts.open_tree(mounts.open_path(point, resolve=_LITERALLY), recursive=False)
            mounts.set_attr(tree, attrs=READ_ONLY)
            with contextlib.suppress(OSError):
                if userns_fd is not None:
                    mounts.set_attr(tree, userns_fd=userns_fd)
            yield point, tree


def _grant(root: str, box: Orders, userns_fd: int | None) -> list[Part]:
    """Writable copies of a write root and the mounts in it; no part of its path may be a symlink."""
    with layer("write-root"):
        place = mounts.open_path(root, resolve=_LITERALLY)
        if not stat.S_ISDIR(mode := os.fstat(place).st_mode) and not stat.S_ISREG(mode):
            raise LayerError("write-root", f"{root} is neither a folder nor a plain file")
        tree = mounts.open_tree(place, recursive=userns_fd is None)
        mounts.set_attr(tree, attrs=WRITABLE, recursive=True)
    if userns_fd is None:
        return [(root, tree)]
    with layer("idmap"):
        mounts.set_attr(tree, userns_fd=userns_fd)
        return [(root, tree), *((point, _mapped(point, userns_fd)) for point in box.below[root])]


def _own_tmpfs(box: Orders, num_bytes: int, mode: int) -> int:
    return mounts.tmpfs(num_bytes=num_bytes, mode=mode, uid=box.host_uid, gid=box.host_gid, attrs=WRITABLE)


def _attach(tree: int, point: str, fd: int) -> None:
    target = mounts.open_path(point.lstrip("/"), dir_fd=tree, resolve=_LITERALLY | mounts.RESOLVE_BENEATH)
    mounts.attach(fd, target)


def _pin(tree: int, ways: tuple[str, ...]) -> None:
    """Make the way to a mask of mount points: what is one cannot be renamed.

    Otherwise a command could rename ~/.config, and the next one read ~/x/gh/hosts.yml, which no table names.
    """
    for folder in ways:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            place = mounts.open_path(folder.lstrip("/"), dir_fd=tree, resolve=mounts.RESOLVE_IN_ROOT)
            mounts.attach(mounts.open_tree(place), place)
            os.close(place)


def _name_hosts(tree: int, text: str) -> None:
    """Another /etc/hosts over the machine's own."""
    place = os.open("run/hosts", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=tree)
    with os.fdopen(place, "w") as file:
        os.fchmod(place, 0o444)
        file.write(text)
    shown = mounts.open_tree(tree, "run/hosts", recursive=False)
    mounts.set_attr(shown, attrs=READ_ONLY)
    _attach(tree, "/etc/hosts", shown)


def _mask(tree: int, hidden: tuple[str, ...]) -> None:
    """Cover each hidden path with an empty folder or file; what does not exist needs no cover."""
    for path in hidden:
        try:
            # Links are followed, inside the tree: a linked secret is covered where it really lies.
            target = mounts.open_path(path, dir_fd=tree, resolve=mounts.RESOLVE_IN_ROOT)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                continue  # what we cannot reach, the command, with less rights, cannot either
            raise
        folder = stat.S_ISDIR(os.fstat(target).st_mode)
        # The cover is read-only as what it is copied from.
        mounts.attach(mounts.open_tree_at(EMPTY_FOLDER if folder else EMPTY_FILE, recursive=False), target)
