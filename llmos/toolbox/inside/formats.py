"""What is in an archive, entry by entry: tar (plain or compressed), zip, and one compressed file.

The kind is told by the content, not by the name. Everything is read as a stream, and every byte that
comes out of a decompressor is counted against `Bound`, so a bomb ends early and never fills the memory.
A stream on standard input (`-`) has been decompressed by zstd before.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from llmos.toolbox.inside.told import Refused, shown, size

Kind = Literal["file", "folder", "link", "hard link", "special file"]
Open = Callable[[], IO[bytes]]
MAX_BYTES = 10 << 30  # unpacked, unless the person names another limit
MAX_RATIO = 200  # of what comes out to what lies on disk, once it is more than a little
_LITTLE_BYTES = 64 << 20
_MAX_TARGET = 4096
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError,
    NotImplementedError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the archive tells it; nothing of it is to be believed."""

    name: str
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime: float = 0.0
    target: str = ""


@dataclass(slots=True)
class Bound:
    """How much may come out of an archive of this size."""

    packed: int  # bytes on disk; 0: not known
    limit: int | None
    seen: int = 0

    def take(self, num_bytes: int) -> None:
        self.seen += num_bytes
        if self.seen > (self.limit or MAX_BYTES):
            most = size(self.limit or MAX_BYTES)
            raise Refused(f"it unpacks to more than {most}. If that is right, give a higher `limit`.")
        if self.limit is None and self.packed and self.seen > max(_LITTLE_BYTES, MAX_RATIO * self.packed):
            raise Refused(
                f"it unpacks to more than {MAX_RATIO} times its {size(self.packed)}, as a bomb does. "
                "If you trust it, say how much it may take: `limit`, such as 5G."
            )


class _Counted(io.RawIOBase):
    """A decompressed stream whose bytes are counted."""

    def __init__(self, stream: IO[bytes], bound: Bound) -> None:
        self._stream, self._bound = stream, bound

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._bound.take(len(data))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def explained(archive: str) -> Iterator[None]:
    """What the libraries raise for a damaged archive, in one sentence with its name."""
    try:
        yield
    except Refused as refused:
        raise Refused(f"{shown(archive)}: {refused}") from None
    except _DAMAGED as error:
        why = shown(" ".join(str(error).split())[:200]) or type(error).__name__
        raise Refused(f"{shown(archive)}: it is damaged, cut short, or of an unknown kind ({why})") from None


def walk(archive: str, name: str, limit: int | None, packed: str) -> Iterator[tuple[Entry, Open]]:
    """Every entry with a way to read it, which is good until the next one.

    The archive `-` is the input, which another program decompresses of the file `packed`.
    """
    path = Path(packed)
    if not path.is_file():
        raise Refused("it is a folder" if path.is_dir() else "there is no such file")
    bound = Bound(path.stat().st_size, limit)
    if archive == "-":
        yield from _stream(sys.stdin.buffer, name, bound)
        return
    if zipfile.is_zipfile(path):
        yield from _zip(path, bound)
        return
    with path.open("rb") as file:
        yield from _stream(_decompressed(file), name, bound)


def _decompressed(file: io.BufferedReader) -> IO[bytes]:
    head = file.peek(6)[:6]
    if head[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.open(file))
    if head[:3] == b"BZh":
        return bz2.open(file)
    if head == b"\xfd7zXZ\0" or head[:3] == b"\x5d\0\0":
        return lzma.open(file)
    if head[:4] == b"\x28\xb5\x2f\xfd":
        raise Refused("it is compressed by zstd; let its name end in .zst")
    return file


# --- tar, and one compressed file --------------------------------------------------------------------


def _stream(source: IO[bytes], name: str, bound: Bound) -> Iterator[tuple[Entry, Open]]:
    plain = isinstance(source, io.BufferedReader) and source is not sys.stdin.buffer
    stream = io.BufferedReader(_Counted(source, bound), 1 << 16)
    if _is_tar(stream.peek(tarfile.RECORDSIZE + 1)):
        yield from _tar(stream)
    elif plain:
        raise Refused("it is no archive of a known kind: tar, zip, gz, bz2, xz or zst")
    else:
        yield Entry(name, "file"), lambda: stream


def _is_tar(head: bytes) -> bool:
    if head and not any(head):
        return len(head) <= tarfile.RECORDSIZE  # one with nothing in it; else a file of zeros
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _tar(stream: IO[bytes]) -> Iterator[tuple[Entry, Open]]:
    with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            yield _of_tar(member), lambda member=member: _reader(tar, member)  # type: ignore[misc]


def _reader(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    found = tar.extractfile(member)
    assert found is not None, "only a plain file is read"
    return found


def _of_tar(member: tarfile.TarInfo) -> Entry:
    kind: Kind = "special file"
    if member.isreg():
        kind = "file"
    elif member.isdir():
        kind = "folder"
    elif member.issym():
        kind = "link"
    elif member.islnk():
        kind = "hard link"
    target = member.linkname if kind in ("link", "hard link") else ""
    num_bytes = member.size if kind == "file" else 0
    return Entry(member.name, kind, num_bytes, member.mode, float(member.mtime), target)


# --- zip ---------------------------------------------------------------------------------------------


def _zip(path: Path, bound: Bound) -> Iterator[tuple[Entry, Open]]:
    with zipfile.ZipFile(path) as packed:
        found = packed.infolist()
        if sum(info.compress_size for info in found) > bound.packed:
            raise Refused("its entries overlap, as those of a bomb do")
        for info in found:
            if info.flag_bits & 1:
                raise Refused("it is encrypted, and no password is asked for here: unpack it by unzip itself")
            bound.take(info.file_size)  # zipfile gives no more than that
            yield _of_zip(packed, info), lambda info=info: packed.open(info)  # type: ignore[misc]


def _of_zip(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    mode, kind = info.external_attr >> 16, "file"
    target = ""
    if info.is_dir() or stat.S_ISDIR(mode):
        kind = "folder"
    elif stat.S_ISLNK(mode):
        kind = "link"
        with packed.open(info) as content:
            target = content.read(_MAX_TARGET).decode("utf-8", "surrogateescape")
    elif stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        kind = "special file"
    num_bytes = info.file_size if kind == "file" else 0
    plain = 0o755 if kind == "folder" else 0o644
    return Entry(_name(info), kind, num_bytes, mode & 0o7777 or plain, _mtime(info), target)  # type: ignore[arg-type]


def _name(info: zipfile.ZipInfo) -> str:
    """Names without the mark for UTF-8 are mostly UTF-8 all the same."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _mtime(info: zipfile.ZipInfo) -> float:
    try:
        return time.mktime((*info.date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        return 0.0
