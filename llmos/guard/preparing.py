"""What a commit writes down before it touches anything: header, new content, and the list of changes.

The new files leave the stage for their slots in the store by a rename, so nothing is copied. They are on
disk when `prepare` returns. The stage is the command's work and hostile: it is opened beneath its own folder
alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from llmos.guard import nodes, undostore
from llmos.guard.changes import Change, Found
from llmos.guard.dirfd import (
    NOT_CARRIED,
    mount_id,
    open_beneath,
    open_whole,
    strip_xattrs,
    sync_file_system,
    xattr_path,
)
from llmos.guard.permit import Permit
from llmos.guard.staging import Stage, remove_tree
from llmos.guard.undostore import Header, Manifest

_MANY = 16  # files: from there on one call for the whole file system is cheaper


def prepare(folder: Path, permit: Permit, undo_id: str, stage: Stage, found: Found) -> Manifest:
    """Header and new content in the store, on disk."""
    objects = folder / "objects"
    objects.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(objects, permit.caller.uid, permit.caller.gid)
    changes = _move_objects(stage, found, objects)
    for number in range(len(stage.roots)):  # overlayfs' index holds a further name of some of these files
        remove_tree(stage.folder / str(number) / "work")
    undostore.write_header(folder, _header(permit, undo_id, stage, found))
    return Manifest(stage.roots, stage.root_nodes, tuple(changes), tuple(found.folders))


def _move_objects(stage: Stage, found: Found, objects: Path) -> list[Change]:
    """New files leave the stage for their slots; each change then knows the file that it will place."""
    changes = []
    with contextlib.ExitStack() as held:
        objects_fd = _held(held, open_whole(str(objects)))
        uppers = [_held(held, open_whole(str(stage.upper(number)))) for number in range(len(stage.roots))]
        near = [mount_id(fd) == mount_id(objects_fd) for fd in uppers]
        assert all(near), "stages and the store are on one mount"
        for number, change in enumerate(found.changes):
            changes.append(_move_object(change, str(number), uppers[change.root], objects_fd))
        _sync_objects(objects_fd)
    return changes


def _sync_objects(objects_fd: int) -> None:
    """The new content onto the disk: a few files one by one, many with everything else there is."""
    names = os.listdir(objects_fd)
    try:
        for name in names if len(names) <= _MANY else ():
            if nodes.read(objects_fd, name).kind == "file":
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=objects_fd)
                os.fsync(fd)
                os.close(fd)
    except PermissionError:  # a mode that keeps its owner out
        names = []
    if 0 < len(names) <= _MANY:
        os.fsync(objects_fd)
    else:
        sync_file_system(objects_fd)


def _move_object(change: Change, slot: str, upper: int, objects_fd: int) -> Change:
    if change.after.kind not in ("file", "link") or change.how == "attributes":
        return change
    parent, name = os.path.split(change.path)
    folder_fd = open_beneath(upper, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        if os.geteuid() != 0:  # the command may have closed it; how it is to look is known by now
            os.chmod(xattr_path(folder_fd), 0o700)
        os.rename(name, slot, src_dir_fd=folder_fd, dst_dir_fd=objects_fd)
    finally:
        os.close(folder_fd)
    if change.after.kind == "file":
        fd = os.open(slot, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=objects_fd)
        strip_xattrs(xattr_path(fd), NOT_CARRIED_FROM_STAGE)
        os.close(fd)
    return change


# A label of SELinux or of IMA is the system's to give: what the file was given when it was made, stays.
NOT_CARRIED_FROM_STAGE = tuple(
    name for name in NOT_CARRIED if name not in ("security.selinux", "security.ima")
)


def _held(held: contextlib.ExitStack, fd: int) -> int:
    held.callback(os.close, fd)
    return fd


def _header(permit: Permit, undo_id: str, stage: Stage, found: Found) -> Header:
    changes = found.changes
    return Header(
        id=undo_id,
        request_id=permit.request_id,
        uid=permit.caller.uid,
        gid=permit.caller.gid,
        time=time.time(),
        cwd=permit.cwd,
        tool=permit.plan.call.tool,
        command=permit.plan.command,
        write_roots=stage.write_roots,
        created=sum(change.how == "create" for change in changes),
        modified=sum(change.how in ("replace", "write", "attributes") for change in changes),
        deleted=sum(change.how == "delete" for change in changes),
        kept_bytes=sum(
            change.before.num_bytes for change in changes if change.how in ("replace", "write", "delete")
        ),
    )
