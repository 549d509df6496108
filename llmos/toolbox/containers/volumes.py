"""Changing volumes: create, remove, prune, back up, restore.

A volume is backed up without running anything: a container that is never started, of an empty image made for
it, has the volume mounted read-only, and the engine hands its files out as a tar stream. The archive is
written with the caller's rights, under a name of its own until it is whole, never over a file that is there.
Restoring goes the same way back, into a volume that is empty: what is there is never written over.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import shlex
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from llmos.errors import CallFailed, DiskFull
from llmos.messages import Caller, Changed, JsonObject
from llmos.toolbox.containers import finding
from llmos.toolbox.containers.changing import changer, step
from llmos.toolbox.containers.engine import Work
from llmos.toolbox.values import human_size

if TYPE_CHECKING:
    from docker import APIClient

_PACKED = {".tar": "", ".tar.gz": "gz", ".tgz": "gz", ".tar.bz2": "bz2", ".tbz2": "bz2", ".tar.xz": "xz",
           ".txz": "xz"}  # fmt: skip
SUFFIXES = tuple(_PACKED)
_PLACE = "/volume"
_FREE_BYTES = 64 << 20  # left on the disk whatever the volume holds


def suffix_of(path: str) -> str | None:
    """How an archive of that name is packed; None for a name that does not say."""
    return next((end for end in SUFFIXES if path.lower().endswith(end)), None)


def _create(client: APIClient, args: JsonObject) -> Changed:
    name = args["name"]
    if name in {one["Name"] for one in finding.volumes(client)}:
        return Changed(text=f"the volume {name} is there already.\n")
    client.create_volume(name)
    back = step("docker.volume.remove", {"engine": args["engine"], "name": name}, f"docker volume rm {name}")
    return Changed(text=f"the volume {name} is made.\n", reverse=(back,))


def _remove(client: APIClient, args: JsonObject) -> Changed:
    name = finding.volume(client, args["name"])["Name"]
    if users := finding.users_of_volume(client, name):
        raise CallFailed(
            f"the volume {name} is used by {', '.join(users)}",
            "Remove these containers first, if they may go.",
        )
    client.remove_volume(name)
    return Changed(text=f"the volume {name} is removed with its data.\n")


# --- backup --------------------------------------------------


def _backup(client: APIClient, args: JsonObject) -> Changed:
    archive = args["archive"]
    name = finding.volume(client, args["name"])["Name"]
    folder = str(Path(archive).parent)
    if os.path.realpath(folder) != folder:
        raise CallFailed(f"{archive} leads elsewhere than when it was judged", "Make the request again.")
    if os.path.lexists(archive):
        raise CallFailed(f"{archive} is there already", "Choose another name, or move it away first.")
    with _looked_into(client, name) as chunks:
        size = _write(archive, chunks)
    given = {"engine": args["engine"], "archive": archive, "stamp": _stamp(archive)}
    undo = step("docker.volume.discard", given, shlex.join(["rm", "--", archive]))
    return Changed(text=f"saved the volume {name} to {archive} ({human_size(size)}).\n", reverse=(undo,))


def _discard(args: JsonObject, caller: Caller) -> Changed:
    """Only ever the reverse of a backup: removes the archive that it wrote, as long as it is that."""
    archive = args["archive"]
    try:
        if _stamp(archive) != args["stamp"]:
            raise CallFailed(f"{archive} was changed since, so it stays", "Remove it by hand if it may go.")
        Path(archive).unlink()
    except FileNotFoundError:
        return Changed(text=f"{archive} was gone already.\n")
    except OSError as error:
        raise CallFailed(f"{archive} cannot be removed: {error.strerror}", "Remove it by hand.") from error
    return Changed(text=f"{archive} is removed.\n")


def _stamp(path: str) -> list[int]:
    found = os.lstat(path)
    return [found.st_ino, found.st_size, found.st_mtime_ns]


@contextlib.contextmanager
def _looked_into(client: APIClient, volume: str) -> Iterator[Iterable[bytes]]:
    """The volume's files as a tar stream."""
    with _mounting(client, volume, read_only=True) as made:
        stream, _ = client.get_archive(made, f"{_PLACE}/.")
        yield stream


@contextlib.contextmanager
def _mounting(client: APIClient, volume: str, *, read_only: bool) -> Iterator[str]:
    """A container that has the volume and never runs."""
    image = _empty_image(client)
    mount = {"Type": "volume", "Source": volume, "Target": _PLACE, "ReadOnly": read_only}
    body = {"Image": image, "Cmd": ["none"], "HostConfig": {"Mounts": [mount]}}
    made = client.create_container_from_config(body)["Id"]
    try:
        yield made
    finally:
        client.remove_container(made, force=True)
        client.remove_image(image, force=True)


def _empty_image(client: APIClient) -> str:
    """An image of nothing, unlike any that is there."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        mark = tarfile.TarInfo(f"llmos-{os.urandom(8).hex()}")
        tar.addfile(mark)
    result = client.import_image_from_data(packed.getvalue())
    return str(json.loads(result.splitlines()[-1])["status"])


def _write(archive: str, chunks: Iterable[bytes]) -> int:
    """Write it whole or not at all; its size. Raises CallFailed, DiskFull."""
    suffix = suffix_of(archive)
    assert suffix is not None, archive
    part = f"{archive}.part-{os.urandom(4).hex()}"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as raw:
                with _packing(raw, _PACKED[suffix]) as packed:
                    for chunk in chunks:
                        _check_room(raw.fileno(), archive)
                        packed.write(chunk)
                raw.flush()
                os.fsync(raw.fileno())
            os.link(part, archive)  # never over what somebody made meanwhile
            return Path(archive).stat().st_size
        finally:
            Path(part).unlink()
    except OSError as error:
        raise CallFailed(f"{archive} cannot be written: {error.strerror}", "Choose another place.") from error


@contextlib.contextmanager
def _packing(raw: IO[bytes], how: str) -> Iterator[IO[bytes]]:
    if how == "gz":
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6) as packed:
            yield cast("IO[bytes]", packed)
    elif how == "bz2":
        with bz2.BZ2File(raw, "wb") as packed_bz2:
            yield packed_bz2
    elif how == "xz":
        with lzma.LZMAFile(raw, "wb", preset=3) as packed_xz:
            yield packed_xz
    else:
        yield raw


def _check_room(fd: int, archive: str) -> None:
    found = os.fstatvfs(fd)
    if found.f_bavail * found.f_frsize < _FREE_BYTES:
        raise DiskFull(f"the disk of {archive} is full", "Choose a place with more room; nothing was kept.")


# --- restore and prune --------------------------------------------------


def _restore(client: APIClient, args: JsonObject) -> Changed:
    """Into a volume that is made for it, or is empty; one that could not be filled is as it was before."""
    name, archive = args["name"], args["archive"]
    made = name not in {one["Name"] for one in finding.volumes(client)}
    if made:
        client.create_volume(name)
    elif _holds_something(client, name):
        raise CallFailed(
            f"the volume {name} is not empty", "Choose a new name, or remove it first: docker.volume.remove"
        )
    try:
        _fill(client, name, archive)
    except BaseException:
        _emptied(client, name, again=not made)
        raise
    back = step("docker.volume.remove", {"engine": args["engine"], "name": name}, f"docker volume rm {name}")
    text = f"the volume {name} holds what was in {archive}.\n"
    return Changed(text=text, reverse=(back,) if made else ())


def _holds_something(client: APIClient, name: str) -> bool:
    with _looked_into(client, name) as chunks, tarfile.open(fileobj=_Stream(chunks), mode="r|") as tar:
        return any(one.name.strip("./") for one in tar)


class _Stream(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            more = next(self._chunks, b"")
            if not more:
                break
            self._rest += more
        size = len(self._rest) if size < 0 else size
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def _fill(client: APIClient, name: str, archive: str) -> None:
    """The engine unpacks it itself, inside the volume."""
    try:
        fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise CallFailed(f"{archive} cannot be read: {error.strerror}", "Name the archive anew.") from error
    with os.fdopen(fd, "rb") as file, _mounting(client, name, read_only=False) as made:
        client.put_archive(made, _PLACE, file)


def _emptied(client: APIClient, name: str, *, again: bool) -> None:
    with contextlib.suppress(Exception):  # the reason why it failed is what counts
        client.remove_volume(name)
        if again:
            client.create_volume(name)


def _prune(client: APIClient, args: JsonObject) -> Changed:
    """Exactly the volumes that were shown; one that is used by now stays."""
    unused = {one["Name"] for one in finding.volumes(client, dangling=True)}
    gone = [name for name in args["names"] if name in unused and _removed(client, name)]
    kept = len(args["names"]) - len(gone)
    note = f" {kept} stayed: something uses them by now." if kept else ""
    return Changed(text=f"{len(gone)} volumes are removed with their data.{note}\n")


def _removed(client: APIClient, name: str) -> bool:
    from docker.errors import APIError

    try:
        client.remove_volume(name)
    except APIError:
        return False
    return True


CHANGERS: Mapping[str, Callable[[JsonObject, Caller], Changed]] = {
    "docker.volume.create": changer(_create),
    "docker.volume.remove": changer(_remove),
    "docker.volume.backup": changer(_backup, 600.0),
    "docker.volume.discard": Work(_discard),
    "docker.volume.restore": changer(_restore, 600.0),
    "docker.volume.prune": changer(_prune, 600.0),
}
