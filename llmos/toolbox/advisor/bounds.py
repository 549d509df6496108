"""The control groups that anybody is in: what they hold of memory, their limits, whether they are frozen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import CallFailed
from llmos.toolbox import groups as control
from llmos.toolbox import processes
from llmos.toolbox.advisor.facts import Group

_NO_LIMIT = 1 << 62  # what version 1 says for none


def groups() -> dict[Path, list[int]]:
    """The control groups for memory that anybody is in."""
    tree = control.trees().get("memory")
    found: dict[Path, list[int]] = {}
    for pid in psutil.pids() if tree else ():
        with contextlib.suppress(CallFailed):
            assert tree
            found.setdefault(tree.folder(pid, "memory"), []).append(pid)
    return found


def limit_hits(folders: Iterable[Path]) -> dict[Path, int]:
    return {folder: _hits(folder) for folder in folders}


def _hits(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((folder / "memory.failcnt").read_text())
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _stat(folder / "memory.events")["max"]
    return 0


def _stat(file: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in file.read_text().splitlines())}


def measured(before: Mapping[Path, list[int]], failures: Mapping[Path, int]) -> Iterator[Group]:
    for folder, pids in sorted(before.items()):
        with contextlib.suppress(OSError, ValueError):
            container = next(filter(None, map(processes.container_id, folder.parts)), "")
            used, limit = _memory_of(folder)
            hits = _hits(folder) - failures.get(folder, 0)
            yield Group(str(folder), container, control.is_ours(folder), used, limit, hits, tuple(pids))


def _memory_of(folder: Path) -> tuple[int, int | None]:
    """What cannot be dropped at once, and the limit. Raises OSError, ValueError."""
    first = (folder / "memory.usage_in_bytes").exists()
    now, most = (
        ("memory.usage_in_bytes", "memory.limit_in_bytes") if first else ("memory.current", "memory.max")
    )
    used = int((folder / now).read_text())
    kept = _stat(folder / "memory.stat")
    text = (folder / most).read_text().strip()
    limit = None if text == "max" or int(text) >= _NO_LIMIT else int(text)
    return max(0, used - kept.get("total_inactive_file", kept.get("inactive_file", 0))), limit


def is_frozen(pid: int) -> bool:
    """Whether its control group is stopped as a whole, as `docker pause` does."""
    with contextlib.suppress(CallFailed, OSError):
        if tree := control.trees().get("freezer"):
            return (tree.folder(pid, "freezer") / "freezer.state").read_text().strip() != "THAWED"
        if tree := control.trees().get("memory"):
            return "frozen 1" in (tree.folder(pid, "memory") / "cgroup.events").read_text()
    return False
