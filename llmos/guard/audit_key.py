"""The journal's keys: one that moves on with every line, and the first of them, which verifies all.

    verification key K0 ──next──▶ K1 ──next──▶ K2 …      next(K) = HMAC-SHA256(K, "next")
         line 0 MAC'ed with K0      line 1 with K1       and Ki is overwritten once line i is on disk

After Bellare and Yee, as journald's sealing does it. `audit.state` holds the running key and what it has
counted; `audit.key` holds the verification keys until they are taken off the machine. Whoever reads the
state at some moment can write what he likes from there on, and nothing before it.

Not protected against: somebody who finds the verification key still lying here, an older copy of the
state (a backup, a snapshot: keep `audit.state` out of them), and bytes that a file system or a flash
disk keeps although they were overwritten. Standard library only.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llmos.errors import UsageError

FIRST = "0" * 64  # the hash that stands before the first line
KEY_TAG = "llmos-audit-key-1"
_STATE_TAG = "llmos-audit-state-1"
_STATE_BYTES = 512  # one disk sector: it is written whole or not at all
_MAX_STEPS = 1 << 32


def mac(key: bytes, line: bytes) -> str:
    return hmac.digest(key, b"line" + line, "sha256").hex()


def next_key(key: bytes, steps: int = 1) -> bytes:
    for _ in range(steps):
        key = hmac.digest(key, b"next", "sha256")
    return key


def digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """The key of line `start`. `seen`: how far a journal verified with it reached, if that was noted."""

    start: int
    key: bytes
    seen: int = -1
    seen_hash: str = FIRST

    @property
    def id(self) -> str:
        return hashlib.sha256(b"id" + self.key).hexdigest()[:16]

    def line(self) -> str:
        return f"{KEY_TAG} {self.id} {self.start} {self.key.hex()} {self.seen} {self.seen_hash}\n"


@dataclass(frozen=True, slots=True)
class State:
    """The key of line `seq`, which is the next to be written, and the hash of the line before it."""

    id: str
    start: int
    seq: int
    key: bytes
    prev: str
    boot: str = ""

    def after(self, steps: int, prev: str) -> State:
        """Once `steps` more lines are written, the last of which has the hash `prev`."""
        return replace(self, seq=self.seq + steps, key=next_key(self.key, steps), prev=prev, boot=boot_id())

    def pack(self) -> bytes:
        body = f"{_STATE_TAG} {self.id} {self.start} {self.seq} {self.key.hex()} {self.prev} {self.boot} "
        return (body + digest(body.encode())).encode().ljust(_STATE_BYTES - 1) + b"\n"


def first_state(key: VerificationKey, prev: str) -> State:
    return State(key.id, key.start, key.start, key.key, prev, boot_id())


def parse_state(data: bytes) -> State | None:
    """The state, or None when these bytes are none (empty, damaged, made up carelessly)."""
    body, _, check = data.decode("ascii", "replace").rstrip().rpartition(" ")
    words = f"{body} ".split(" ")
    if digest(f"{body} ".encode()) != check or len(words) != 8 or words[0] != _STATE_TAG:
        return None
    with suppress(ValueError):
        return State(words[1], int(words[2]), int(words[3]), bytes.fromhex(words[4]), words[5], words[6])
    return None


@functools.cache
def boot_id() -> str:
    """Which start of the kernel this is: only a power loss can put a state back, and it changes this."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


# --- the running key, in place -----------------------------------------------------------------------


def read_state(fd: int) -> State | None:
    return parse_state(os.pread(fd, _STATE_BYTES, 0))


def write_state(fd: int, state: State) -> None:
    """Over the old one, in place, so that the old key is gone; not synced (see `audit`)."""
    os.pwrite(fd, state.pack(), 0)


# --- verification keys ---------------------------------------------------------------------------------


def parse_keys(text: str, where: str) -> tuple[VerificationKey, ...]:
    """Verification keys, oldest first. Raises UsageError naming the line that is none."""
    return tuple(_parse_keys(text, where))


def _parse_keys(text: str, where: str) -> Iterator[VerificationKey]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            tag, name, start, key, seen, seen_hash = line.split()
            found = VerificationKey(int(start), bytes.fromhex(key), int(seen), seen_hash)
        except ValueError:
            tag, name, found = "", "", None
        if found is None or tag != KEY_TAG or name != found.id or not 0 <= found.start < _MAX_STEPS:
            raise UsageError(
                f"{where}:{number} is not a verification key", "Give the file `llmos audit key` made."
            )
        yield found


def read_keys(path: Path) -> tuple[VerificationKey, ...]:
    """The keys in a file; none when there is no such file. Raises UsageError for one that is damaged."""
    try:
        return parse_keys(path.read_text(encoding="ascii"), str(path))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the key file {path} cannot be read ({error})", "Check its path and mode."
        ) from error


def make_key(path: Path, start: int) -> VerificationKey:
    """A fresh verification key for the line `start` and those after it, added to `path` and synced."""
    made = VerificationKey(start, secrets.token_bytes(32))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        os.write(fd, made.line().encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)
    return made


def store_keys(path: Path, keys: tuple[VerificationKey, ...]) -> None:
    """Write keys into a new file that only its owner can read. Raises OSError, also where one is already."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, "".join(key.line() for key in keys).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)


def replace_keys(path: Path, keys: tuple[VerificationKey, ...]) -> None:
    """Put these in the place of the ones there. Raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    store_keys(fresh, keys)
    fresh.replace(path)
    sync_folder(path.parent)


def erase_keys(path: Path) -> None:
    """Overwrite, sync and remove."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.pwrite(fd, b"\0" * os.fstat(fd).st_size, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    path.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names made or removed in it last through a power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
