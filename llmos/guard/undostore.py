"""What was changed, kept so that it can be taken back: one folder for each transaction.

    undo/lock                 one transaction is worked on at a time, whichever daemon does it
    undo/ID/header.json       who, when, which command, how much: what `history` needs
    undo/ID/manifest.json     every change; once it is on disk the transaction will be finished, come what may
    undo/ID/state.json        committed or undone, or on the way to one of them
    undo/ID/left.json         what each name was when we left it: what `undo` compares with
    undo/ID/deed.json         instead of the last three: a change that is not one of files (`deeds`)
    undo/ID/objects/N         what the N-th change displaced, or is going to put in place

A folder without a manifest or a deed is an attempt that never touched anything. The store has a quota and its
entries expire, oldest first, of whoever keeps most (`[undo]` in config.toml).
Not protected against: its owner changing files in it; they are only his.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmos import paths
from llmos.config import UndoSettings
from llmos.guard import nodes
from llmos.guard.changes import Change, Folder
from llmos.guard.nodes import Node
from llmos.guard.staging import Root, remove_tree

Settled = Literal["committed", "undone", "removed"]
Direction = Literal["forward", "back"]
DAY_S = 86400.0
DEED = "deed.json"
_WHOLE = ("manifest.json", DEED)  # one of them makes a folder a transaction


@dataclass(frozen=True, slots=True)
class Header:
    """One transaction, in short. `id` is its request's, with a number after the first."""

    id: str
    request_id: str
    uid: int
    gid: int
    time: float
    cwd: str
    tool: str
    command: str
    write_roots: tuple[str, ...]
    created: int
    modified: int
    deleted: int
    kept_bytes: int  # of what was displaced


@dataclass(frozen=True, slots=True)
class State:
    """Where a transaction stands. While `doing` is set it is on its way to `settled`."""

    settled: Settled
    doing: Direction | Literal[""] = ""
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every change of a transaction, and the folders it is about as they were known then."""

    roots: tuple[Root, ...]
    root_nodes: tuple[Node, ...]
    changes: tuple[Change, ...]
    folders: tuple[Folder, ...]

    def shown(self, change: Change) -> str:
        """The change's absolute path."""
        return os.path.join(self.roots[change.root].folder, change.path)


def undo_dir() -> Path:
    return paths.state_dir() / "undo"


@contextlib.contextmanager
def locked() -> Iterator[Path]:
    """The store, with nobody else at work in it."""
    folder = paths.ensure_private(undo_dir())
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(fd)


# --- files -----------------------------------------------------------------------------------------


def write_durably(folder: Path, name: str, value: Any, *, last: bool = True) -> None:
    """Replace a file as a whole; when the `last` of several is written, all survive a loss of power."""
    fresh = folder / f"{name}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        json.dump(value, file, separators=(",", ":"))
        file.flush()
        os.fsync(fd)
    fresh.replace(folder / name)
    if last:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_durably(folder, "manifest.json", {
        "roots": [[root.path, root.only] for root in manifest.roots],
        "root_nodes": [node.to_json() for node in manifest.root_nodes],
        "changes": [[c.root, c.path, c.how, c.before.to_json(), c.after.to_json()] for c in manifest.changes],
        "folders": [[f.root, f.path, f.before.to_json(), f.after.to_json()] for f in manifest.folders],
    })  # fmt: skip


def read_manifest(folder: Path) -> Manifest:
    found = load(folder / "manifest.json")
    node = nodes.from_json
    return Manifest(
        tuple(Root(path, only) for path, only in found["roots"]),
        tuple(node(values) for values in found["root_nodes"]),
        tuple(
            Change(root, path, how, node(old), node(new)) for root, path, how, old, new in found["changes"]
        ),
        tuple(Folder(root, path, node(old), node(new)) for root, path, old, new in found["folders"]),
    )


def write_header(folder: Path, header: Header) -> None:
    write_durably(folder, "header.json", asdict(header), last=False)


def read_header(folder: Path) -> Header:
    found = load(folder / "header.json")
    return Header(**{**found, "write_roots": tuple(found["write_roots"])})


def write_state(folder: Path, state: State, *, last: bool = True) -> None:
    write_durably(folder, "state.json", asdict(replace(state, time=time.time())), last=last)


def read_state(folder: Path) -> State:
    return State(**load(folder / "state.json"))


def write_left(folder: Path, left: list[Node]) -> None:
    write_durably(folder, "left.json", [node.to_json() for node in left], last=False)


def read_left(folder: Path) -> list[Node]:
    return [nodes.from_json(values) for values in load(folder / "left.json")]


def load(file: Path) -> Any:
    return json.loads(file.read_bytes())


# --- the whole store ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    folder: Path
    header: Header
    state: State
    is_deed: bool = False  # what it changed are no files


def entries() -> list[Entry]:
    """Every transaction that took place, oldest first; what cannot be read is not one."""
    found = []
    for folder in _folders():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if _is_whole(folder):
                deed = (folder / DEED).exists()
                found.append(Entry(folder, read_header(folder), read_state(folder), deed))
    return sorted(found, key=lambda entry: entry.header.time)


def _is_whole(folder: Path) -> bool:
    return any((folder / name).exists() for name in _WHOLE)


def _folders() -> list[Path]:
    try:
        return [place for place in undo_dir().iterdir() if place.is_dir() and not place.is_symlink()]
    except FileNotFoundError:
        return []


def new_folder(request_id: str) -> tuple[str, Path]:
    """The id and the empty folder of a new transaction of this request."""
    number = 1
    while True:
        name = request_id if number == 1 else f"{request_id}.{number}"
        with contextlib.suppress(FileExistsError):
            (undo_dir() / name).mkdir(mode=0o700)
            return name, undo_dir() / name
        number += 1


def remove(folder: Path) -> None:
    """Forget a transaction; its manifest goes first, so that half of one is never taken for one."""
    for name in (*_WHOLE, "state.json"):
        (folder / name).unlink(missing_ok=True)
    remove_tree(folder)


def prune(settings: UndoSettings) -> list[str]:
    """Remove what has expired and what is over the quota; the ids. Call it `locked`."""
    kept = [entry for entry in entries() if not entry.state.doing]
    oldest = time.time() - settings.max_age_days * DAY_S
    expired = [entry for entry in kept if max(entry.header.time, entry.state.time) < oldest]
    gone = [*expired, *_over(settings.max_bytes, [entry for entry in kept if entry not in expired])]
    for entry in gone:
        remove(entry.folder)
    return [entry.header.id for entry in gone]


def _over(max_bytes: int, kept: list[Entry]) -> Iterator[Entry]:
    """What has to go for the quota: the oldest of whoever keeps most, so that nobody pushes out others'."""
    total = sum(entry.header.kept_bytes for entry in kept)
    held: Counter[int] = Counter()
    for entry in kept:
        held[entry.header.uid] += entry.header.kept_bytes
    while total > max_bytes:
        uid = max(held, key=held.__getitem__)
        entry = next(entry for entry in kept if entry.header.uid == uid)
        kept.remove(entry)
        held[uid] -= entry.header.kept_bytes
        total -= entry.header.kept_bytes
        yield entry


def remove_attempts() -> None:
    """Folders of attempts that were cut off before they touched anything. Call it `locked`."""
    for folder in _folders():
        if not _is_whole(folder):
            remove_tree(folder)
