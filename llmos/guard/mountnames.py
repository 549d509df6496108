"""Other names of a path: what a bind mount shows twice, and a second /proc, is judged under each name.

Read from /proc/self/mountinfo (proc(5)) at most once a second. What it does not see: mounts in other
mount namespaces, and a mount made after the look; the sandbox makes its own.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmos.guard.sandbox import is_within

MAX_NAMES = 64
# File systems that are the kernel's own, wherever they are mounted, and where they belong.
_KERNEL = {"proc": "/proc", "sysfs": "/sys", "devtmpfs": "/dev", "securityfs": "/sys/kernel/security",
           "debugfs": "/sys/kernel/debug", "tracefs": "/sys/kernel/tracing", "bpf": "/sys/fs/bpf",
           "cgroup": "/sys/fs/cgroup", "cgroup2": "/sys/fs/cgroup", "configfs": "/sys/kernel/config",
           "efivarfs": "/sys/firmware/efi/efivars", "pstore": "/sys/fs/pstore",
           "binfmt_misc": "/proc/sys/fs/binfmt_misc"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    root: str  # which part of the file system is shown here
    device: str
    kind: str


@dataclass(frozen=True, slots=True)
class Table:
    at: dict[str, Mount]
    of_device: dict[str, tuple[Mount, ...]]


def other_names(path: str) -> tuple[str, ...]:
    """The path's names through other mounts; mostly none."""
    return tuple(dict.fromkeys(names(path, table(int(time.monotonic())))))[:MAX_NAMES]


def names(path: str, mounts: Table) -> Iterator[str]:
    """The other names by this table of mounts."""
    mount = _holding(path, mounts)
    if mount is None:
        return
    inside = _join(mount.root, path[len(mount.point.rstrip("/")) :])
    if (home := _KERNEL.get(mount.kind)) and mount.point != home:
        yield _join(home, inside)
    for other in mounts.of_device[mount.device]:
        if other is not mount and is_within(inside, other.root):
            name = _join(other.point, inside[len(other.root.rstrip("/")) :])
            if name != path:
                yield name


def _holding(path: str, mounts: Table) -> Mount | None:
    while True:
        if found := mounts.at.get(path or "/"):
            return found
        if not path:
            return None
        path = path.rpartition("/")[0]


def _join(folder: str, rest: str) -> str:
    return f"{folder.rstrip('/')}/{rest.lstrip('/')}".rstrip("/") or "/"


@functools.lru_cache(maxsize=2)
def table(_second: int) -> Table:
    """The mounts as they are now (the argument is the second, so that an old answer is dropped)."""
    try:
        return parse(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:  # no /proc: then nothing of this can be known, nor mounted by a caller
        return Table({}, {})


def parse(text: str) -> Table:
    """A later mount on the same point hides the earlier one."""
    at: dict[str, Mount] = {}
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        at[_plain(words[4])] = Mount(_plain(words[4]), _plain(words[3]), words[2], rest.split(" ")[0])
    of_device: dict[str, tuple[Mount, ...]] = {}
    for mount in at.values():
        of_device[mount.device] = (*of_device.get(mount.device, ()), mount)
    return Table(at, of_device)


def _plain(field: str) -> str:
    """Blanks and backslashes stand there as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
