"""The tree a sandboxed program sees, as steps: the prepared one (`template`), and what is this call's own.

The write roots writable, an empty /run, a /proc of its own; `masksteps` covers secrets. Whatever a caller
could have changed since it was judged is resolved without symbolic links, and mounted by descriptor. Standard
library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from llmos.guard import mounts, mountsteps
from llmos.guard.ground import READ_ONLY, WRITABLE
from llmos.guard.machine import ANY, FIRST_FREE, MAX_REGISTERS
from llmos.guard.mounts import AT_FDCWD, LITERALLY, RESOLVE_BENEATH
from llmos.guard.sandbox import Mount
from llmos.guard.steps import PROC, TERMINALS, USERNS, Label, Register, Steps

TREE = Register(FIRST_FREE)  # a handle on what is to become the root
_STAGE = Register(FIRST_FREE + 1)  # on the folder where changes go, of a call that has one
_FIRST_MOUNT = FIRST_FREE + 2  # from here a register for each detached mount
FIRST_OTHER = MAX_REGISTERS // 2  # what a part has for itself
_LAYER = {"granted": "write-root", "staged": "stage", "proc": "proc"}
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18


@dataclass(frozen=True, slots=True)
class Ground:
    """What a tree is built on, as the launcher knows it."""

    folder: str  # the prepared tree
    below: dict[str, tuple[str, ...]]  # by write root: what is mounted in it
    mapped: bool  # for a root caller: there is a user namespace that maps files
    in_userns: bool  # the launcher is not root
    owner: tuple[int, int]  # host uid and gid of the call
    stage: str
    seen: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A mount point in the tree, and the detached mount that goes there; one that `may_lack` can be -1."""

    point: str
    what: str
    tree: Register
    may_lack: bool = False


def mounted(wanted: Sequence[Mount], ground: Ground, hosts_file: str) -> Iterator[bytes]:
    """Carry out the mounts of a plan and stand in the tree: the current folder is what is to become the root.

    Everything is taken from the host before the first mount hides anything. Masks come last, and apart, so
    that nothing lies over one.
    """
    yield _apart(ground.seen)
    if ground.stage:
        yield _stage(ground.stage)
    parts: list[_Part] = []
    for mount in wanted:
        made = _parts_of(mount, _FIRST_MOUNT + len(parts), ground)
        parts += made
        match mount.what:
            case "tmpfs" | "private":
                yield _own_tmpfs(mount.num_bytes, mount.mode, ground.owner, made[0].tree)
            case "granted":
                yield _granted(made, mapped=ground.mapped)
            case "staged":
                roots = sorted(each.point for each in wanted if each.what == "staged")
                number, way = str(roots.index(mount.point)), (ground.mapped, ground.in_userns)
                yield _staged(made, number, ground.owner, *way)
    yield _assembled(tuple(parts), ground.folder, hosts_file)


def _parts_of(mount: Mount, first: int, ground: Ground) -> tuple[_Part, ...]:
    """None for what is prepared."""
    point, what = mount.point, mount.what
    match what:
        case "proc":
            return (_Part(point, what, PROC),)
        case "terminals":
            return (_Part(point, what, TERMINALS),)
        case "tmpfs" | "private":
            return (_Part(point, what, Register(first)),)
        case "granted" | "staged":
            # A writable copy has what is mounted in it, unless each mount is mapped for itself.
            below = ground.below[point] if what == "staged" or ground.mapped else ()
            others = (
                _Part(one, what, Register(first + number), may_lack=what == "staged")
                for number, one in enumerate(below, 1)
            )
            return (_Part(point, what, Register(first)), *others)
    return ()


@lru_cache(maxsize=32)
def _apart(seen: tuple[tuple[str, int, int], ...]) -> bytes:
    """No mount event goes from here to the host or comes from there. What was mounted until now must have
    come: our mounts follow the host's only where the host shares them."""
    s = Steps()
    with s.of("mount-api"):
        s.call("mount", None, "/", None, _MS_REC | _MS_PRIVATE, None, what="mount private /")
    with s.of("mounts"):
        for path, device, inode in seen:
            mountsteps.refuse_another(s, path, device, inode)
    return s.part()


@lru_cache(maxsize=32)
def _own_tmpfs(num_bytes: int, mode: int, owner: tuple[int, int], into: Register) -> bytes:
    s, (uid, gid) = Steps(FIRST_OTHER), owner
    with s.of("mount-api"):
        mountsteps.tmpfs(s, into, num_bytes=num_bytes, mode=mode, uid=uid, gid=gid, attrs=WRITABLE)
    return s.part()


@lru_cache(maxsize=32)
def _granted(parts: tuple[_Part, ...], *, mapped: bool) -> bytes:
    """Writable copies of a write root and the mounts in it; no part of its path may be a symlink."""
    s, usable = Steps(FIRST_OTHER), Label()
    root, *below = parts
    with s.of("write-root"):
        place = mountsteps.open_path(s, root.point)
        mode = mountsteps.kind_of(s, place)
        for kind in (stat.S_IFDIR, stat.S_IFREG):
            mountsteps.jump_if_kind(s, mode, kind, usable)
        s.fail(f"{root.point} is neither a folder nor a plain file")
        s.place(usable)
        mountsteps.open_tree(s, place, recursive=not mapped, into=root.tree)
        mountsteps.set_attr(s, root.tree, attrs=WRITABLE, recursive=True)
    if mapped:
        with s.of("idmap"):
            mountsteps.set_attr(s, root.tree, userns=USERNS)
            for part in below:  # one by one: the kernel maps only what is detached and has no parent
                mountsteps.open_tree(s, mountsteps.open_path(s, part.point), into=part.tree)
                mountsteps.set_attr(s, part.tree, attrs=WRITABLE, userns=USERNS)
    return s.part()


def _stage(path: str) -> bytes:
    """For itself, so that the rest is the same for all stages."""
    s = Steps(FIRST_OTHER)
    with s.of("stage"):
        mountsteps.open_path(s, path, into=_STAGE)
    return s.part()


@lru_cache(maxsize=32)
def _staged(
    parts: tuple[_Part, ...], number: str, owner: tuple[int, int], mapped: bool, in_userns: bool
) -> bytes:
    """A copy-on-write view of a write root: what is written goes to NUMBER/upper of the stage, and the root
    stays as it is.

    A root that is a plain file is seen through a view of its folder, of which only the file is granted.
    """
    s, is_folder, whole = Steps(FIRST_OTHER), Label(), Label()
    root, *below = parts
    folder, _, name = root.point.rpartition("/")
    with s.of("write-root"):
        place = mountsteps.open_path(s, root.point)
        mode = mountsteps.kind_of(s, place)
        mountsteps.jump_if_kind(s, mode, stat.S_IFDIR, is_folder)
        mountsteps.open_path(s, folder or "/", into=place)
        s.place(is_folder)
    with s.of("stage"):
        lower, layers = _layers(s, place, number, mapped=mapped)
        upper, work = (mountsteps.open_path(s, part, at=layers) for part in ("upper", "work"))
        if mapped:
            mountsteps.files_as(s, *owner)
        view = mountsteps.overlay(s, lower, upper, work, in_userns=in_userns, attrs=WRITABLE)
        if mapped:
            s.call("setfsuid", 0)
            s.call("setfsgid", 0)
        mountsteps.refuse_read_only(s, view, os.strerror(errno.EROFS))
        s.set(root.tree, view)
        mountsteps.jump_if_kind(s, mode, stat.S_IFDIR, whole)
        mountsteps.open_tree(s, view, name, into=root.tree)
        s.place(whole)
        for part in below:
            _read_only(s, part, mapped=mapped)
    return s.part()


def _layers(s: Steps, place: Register, number: str, *, mapped: bool) -> tuple[Register, Register]:
    """Handles on the lower layer and on the stage; ID-mapped, for a root caller, by mounts of ours.

    Overlayfs takes no detached mount as a layer before Linux 6.15, so the mapped ones are put somewhere
    for the moment: on the stage, in this mount namespace, of which nothing is left after the pivot.
    """
    layers = mountsteps.open_path(s, number, at=_STAGE)
    if not mapped:
        return place, layers
    for target, source in ((number, layers), (f"{number}/lower", place)):
        tree = mountsteps.open_tree(s, source)
        mountsteps.set_attr(s, tree, userns=USERNS)
        mountsteps.attach(s, tree, mountsteps.open_path(s, target, at=_STAGE))
    lower = mountsteps.open_path(s, f"{number}/lower", at=_STAGE)
    return lower, mountsteps.open_path(s, number, at=_STAGE)


def _read_only(s: Steps, part: _Part, *, mapped: bool) -> None:
    """Other file systems mounted inside a staged root are to be seen there, and not to be written."""
    gone = Label()
    s.set(part.tree, -1)
    place = mountsteps.open_path(s, part.point, ignore=MISSING, otherwise=gone)
    tree = mountsteps.open_tree(s, place, ignore=MISSING, otherwise=gone)
    mountsteps.set_attr(s, tree, attrs=READ_ONLY, ignore=MISSING, otherwise=gone)
    if mapped:
        mountsteps.set_attr(s, tree, userns=USERNS, ignore=(ANY,))
    s.set(part.tree, tree)
    s.place(gone)


@lru_cache(maxsize=32)
def _assembled(parts: tuple[_Part, ...], folder: str, hosts_file: str) -> bytes:
    """Stand in the prepared tree, and put the parts into it."""
    s = Steps(FIRST_OTHER)
    with s.of("mount-api"):
        s.call("chdir", folder, what=f"chdir {folder}")
        s.call("openat", AT_FDCWD, ".", os.O_PATH | os.O_CLOEXEC, into=TREE)
    for part in parts:
        with s.of(_LAYER.get(part.what, "mount-api")):
            # A host need not have a /var/tmp, or it may be a link.
            _attach(s, part, (errno.ENOENT, errno.ELOOP) if part.what == "private" else ())
    if hosts_file:
        with s.of("reach"):
            _name_hosts(s, hosts_file)
    return s.part()


def _attach(s: Steps, part: _Part, ignore: Sequence[int] = ()) -> None:
    absent = Label()
    if part.may_lack:
        s.jump_if(part.tree, -1, absent)
    point, how = part.point.lstrip("/"), LITERALLY | RESOLVE_BENEATH
    target = mountsteps.open_path(s, point, at=TREE, resolve=how, ignore=ignore, otherwise=absent)
    mountsteps.attach(s, part.tree, target, ignore)
    s.place(absent)


def _name_hosts(s: Steps, text: str) -> None:
    """Another /etc/hosts over the machine's own."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    place = s.fd("openat", TREE, "run/hosts", flags, 0o444, what="open run/hosts")
    s.call("fchmod", place, 0o444)
    mountsteps.write(s, place, text)
    shown = mountsteps.open_tree(s, TREE, "run/hosts")
    mountsteps.set_attr(s, shown, attrs=READ_ONLY)
    _attach(s, _Part("/etc/hosts", "names", shown))


@lru_cache(maxsize=1)
def rooted() -> bytes:
    """Make the current folder (a mount point) the root and drop the old root: pivot_root(2), NOTES."""
    s = Steps()
    with s.of("mount-api"):
        s.call("pivot_root", ".", ".")
        s.call("umount2", ".", mounts.MNT_DETACH, what="umount2 of the old root")
        s.call("chdir", "/")
    return s.part()
