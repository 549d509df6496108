"""The mount API by descriptor as steps of a fork: what `mounts` does in the launcher itself.

Sources: open_tree(2), move_mount(2), mount_setattr(2), fsopen(2), openat2(2), statx(2), overlayfs(7).
Standard library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

from llmos.guard import kernel, mounts
from llmos.guard.machine import ANY
from llmos.guard.mounts import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE
from llmos.guard.steps import Argument, Data, Label, Register, Steps

_STATX_TYPE, _STATX_INO = 1, 0x100
_STATX_BYTES, _MODE_AT, _INODE_AT, _DEVICE_AT = 256, 28, 32, 136
_STATFS_BYTES, _FLAGS_AT = 120, 80  # of every architecture with 64 bits but s390x
_TYPE_BITS = 0o170000


def open_path(
    s: Steps,
    path: str,
    *,
    at: Argument = AT_FDCWD,
    resolve: int = mounts.LITERALLY,
    ignore: Sequence[int] = (),
    otherwise: Label | None = None,
    into: Register | None = None,
) -> Register:
    """A handle on a place, under the given rules of resolution."""
    how = s.pack("=3Q", os.O_PATH | os.O_CLOEXEC, 0, resolve)
    into = into or s.register()
    s.call(
        *("openat2", at, path, how, how.length),
        what=f"openat2 {path}", into=into, ignore=ignore, otherwise=otherwise,
    )  # fmt: skip
    return into


def open_tree(
    s: Steps,
    at: Argument,
    path: str = "",
    *,
    recursive: bool = False,
    ignore: Sequence[int] = (),
    otherwise: Label | None = None,
    into: Register | None = None,
) -> Register:
    """A detached copy of a mount (a bind mount nobody can see yet)."""
    flags = mounts.OPEN_TREE_CLONE | os.O_CLOEXEC | AT_RECURSIVE * recursive | AT_EMPTY_PATH * (not path)
    into = into or s.register()
    s.call(
        *("open_tree", at, path, flags),
        what=f"open_tree {path}".rstrip(), into=into, ignore=ignore, otherwise=otherwise,
    )  # fmt: skip
    return into


def set_attr(
    s: Steps,
    tree: Register,
    *,
    attrs: int = 0,
    recursive: bool = False,
    userns: Register | None = None,
    ignore: Sequence[int] = (),
    otherwise: Label | None = None,
) -> None:
    """Set mount attributes; with `userns`, ID-map the (detached) mount by that user namespace."""
    attr = s.space(32)  # set, cleared, propagation, userns_fd
    s.store(attrs | (0 if userns is None else mounts.ATTR_IDMAP), attr.at(0, 8))
    if userns is not None:
        s.store(userns, attr.at(24, 8))
    flags = AT_EMPTY_PATH | AT_RECURSIVE * recursive
    s.call("mount_setattr", tree, "", flags, attr, attr.length, ignore=ignore, otherwise=otherwise)


def attach(
    s: Steps,
    tree: Argument,
    target: Argument,
    ignore: Sequence[int] = (),
    otherwise: Label | None = None,
) -> None:
    """Mount the detached tree on what `target` stands for: no path is looked up again."""
    how = mounts.BOTH_BY_DESCRIPTOR
    s.call("move_mount", tree, "", target, "", how, ignore=ignore, otherwise=otherwise)


def tmpfs(s: Steps, into: Register, *, num_bytes: int, mode: int, uid: int, gid: int, attrs: int) -> None:
    """A detached, empty tmpfs."""
    options = {"size": str(num_bytes), "mode": f"{mode:o}", "uid": str(uid), "gid": str(gid)}
    new_mount(s, "tmpfs", options, attrs=attrs, into=into)


def proc(s: Steps, into: Register, *, attrs: int) -> None:
    """A detached /proc of our own pid namespace; each process finds only those it may look into."""
    new_mount(s, "proc", {"hidepid": "invisible"}, attrs=attrs, into=into)


def devpts(s: Steps, into: Register, *, attrs: int) -> None:
    """A detached, empty /dev/pts in which everybody may open some of the few terminals there are."""
    new_mount(s, "devpts", {"ptmxmode": "0666", "mode": "0600", "max": "64"}, attrs=attrs, into=into)


_LAYERS = ("lowerdir", "upperdir", "workdir")
_NUMBER_BYTES = 12  # of a descriptor in decimal


def overlay(
    s: Steps, lower: Register, upper: Register, work: Register, *, in_userns: bool, attrs: int
) -> Register:
    """A detached overlayfs: `lower` with what is written going to `upper`.

    The layers are named by descriptor, so that no name with a colon or comma in it is parsed. Renaming a
    folder of the lower layer gives EXDEV, as between file systems, and no file is half in the lower one.
    Made as root it keeps track of hard links (`index`); a user namespace cannot. The step before has ended,
    but the kernel may take a moment to let go of its view: then it is tried again.
    """
    options: dict[str, str | Data] = {
        name: _named_by_descriptor(s, fd) for name, fd in zip(_LAYERS, (lower, upper, work), strict=True)
    }
    options |= {"index": "off" if in_userns else "on"}
    if not in_userns:  # userxattr implies them
        options |= {"redirect_dir": "off", "metacopy": "off"}
    return new_mount(s, "overlay", options, ("userxattr",) * in_userns, attrs=attrs, again=True)


def _named_by_descriptor(s: Steps, fd: Register) -> Data:
    prefix = b"/proc/self/fd/"
    path = s.space(len(prefix) + _NUMBER_BYTES, prefix)
    s.decimal(fd, path.at(len(prefix), _NUMBER_BYTES))
    return path


def new_mount(
    s: Steps,
    fs_type: str,
    options: Mapping[str, str | Data],
    flags: tuple[str, ...] = (),
    *,
    attrs: int,
    into: Register | None = None,
    again: bool = False,
) -> Register:
    """A detached mount of a new file system. With `again` one that is busy is waited for."""
    begin, busy, done = Label(), Label(), Label()
    s.place(begin)
    context = s.fd("fsopen", fs_type, mounts.FD_CLOEXEC_FLAG, what=f"fsopen {fs_type}")
    for key, value in options.items():
        what = f"fsconfig {fs_type} {key}{f'={value}' if isinstance(value, str) else ''}"
        s.call("fsconfig", context, mounts.FSCONFIG_SET_STRING, key, value, 0, what=what)
    for flag in flags:
        s.call(
            "fsconfig", context, mounts.FSCONFIG_SET_FLAG, flag, None, 0, what=f"fsconfig {fs_type} {flag}"
        )
    expected = (errno.EBUSY,) if again else ()
    s.call(
        "fsconfig", context, mounts.FSCONFIG_CMD_CREATE, None, None, 0,
        what=f"fsconfig {fs_type}", ignore=expected, otherwise=busy if again else None,
    )  # fmt: skip
    into = into or s.register()
    s.call("fsmount", context, mounts.FD_CLOEXEC_FLAG, attrs, what=f"fsmount {fs_type}", into=into)
    s.call("close", context)
    if again:
        s.jump(done)
        s.place(busy)
        s.call("close", context)
        s.again(begin, f"fsconfig {fs_type}")
        s.place(done)
    return into


def kind_of(s: Steps, fd: Register, into: Register | None = None, room: Data | None = None) -> Register:
    """The mode of what `fd` stands for, of which the bits of the type are known. Who asks often has a
    register and room (`room_for_kind`) for all."""
    found = room or room_for_kind(s)
    s.call("statx", fd, "", AT_EMPTY_PATH, _STATX_TYPE, found)
    return s.load(found.at(_MODE_AT, 2), into)


def room_for_kind(s: Steps) -> Data:
    return s.space(_STATX_BYTES)


def jump_if_kind(s: Steps, mode: Register, kind: int, label: Label) -> None:
    """`kind`: S_IFDIR or another of its like."""
    s.jump_if(mode, kind, label, mask=_TYPE_BITS)


def refuse_another(s: Steps, path: str, device: int, inode: int) -> None:
    """Fail unless `path` is this very file, or cannot be looked at: whoever needs it will say so."""
    found, other, same = s.space(_STATX_BYTES), Label(), Label()
    s.call("statx", AT_FDCWD, path, 0, _STATX_INO, found, ignore=(ANY,), otherwise=same)
    wanted = ((_INODE_AT, 8, inode), (_DEVICE_AT, 4, os.major(device)), (_DEVICE_AT + 4, 4, os.minor(device)))
    for place, width, value in wanted:
        s.jump_unless(s.load(found.at(place, width)), value, other)
    s.jump(same)
    s.place(other)
    s.fail(f"{path} is another folder there")
    s.place(same)


def refuse_read_only(s: Steps, fs: Register, text: str) -> None:
    """Fail where nothing can be written: what overlayfs makes of a layer it cannot write."""
    found, writable = s.space(_STATFS_BYTES), Label()
    s.call("fstatfs", fs, found)
    s.jump_if(s.load(found.at(_FLAGS_AT, 8)), 0, writable, mask=os.ST_RDONLY)
    s.fail(text)
    s.place(writable)


def files_as(s: Steps, uid: int, gid: int) -> None:
    """Make files as this user, keeping every capability: for who mounts an overlay on ID-mapped layers.

    Overlayfs works in its layers as who mounted it, and root is nobody in a layer that maps root away.
    Leaving uid 0 lowers the capabilities that concern files (capabilities(7)): they are raised again.
    """
    s.call("setfsgid", gid)
    s.call("setfsuid", uid)
    header, sets = (
        s.pack("=2I", kernel.CAPABILITY_VERSION_3, 0),
        s.space(24),
    )  # effective, permitted, inheritable; twice
    s.call("capget", header, sets)
    for first in (0, 12):
        s.store(s.load(sets.at(first + 4, 4)), sets.at(first, 4))
    s.call("capset", header, sets)


def write_file(s: Steps, at: Argument, path: str, text: str, ignore: Sequence[int] = ()) -> None:
    """Write a file that is there."""
    done = Label()
    place = s.fd(
        "openat", at, path, os.O_WRONLY | os.O_CLOEXEC, what=f"open {path}", ignore=ignore, otherwise=done
    )
    write(s, place, text, what=f"write {path}", ignore=ignore)
    s.call("close", place)
    s.place(done)


def write(s: Steps, fd: Argument, text: str, what: str = "", ignore: Sequence[int] = ()) -> None:
    data: Data = s.constant(os.fsencode(text))
    s.call("write", fd, data, data.length, what=what, ignore=ignore)
