"""What an archive may put where, checked before anything is written.

Refused as a whole: absolute names, `..`, links that lead out of the folder (through other links as well),
entries that go through a link, hard links to what is not in the archive, devices, pipes and sockets, names
that are two things at once, and whatever stands there already. Set-id bits are dropped and counted.

Not protected against: somebody who puts links into the folder while it is being filled; the sandbox's
write roots bound that.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from llmos.toolbox.inside.formats import MAX_BYTES, Entry
from llmos.toolbox.inside.told import Refused, count, shown, size, some

MAX_ENTRIES = 500_000
_MAX_HOPS = 40  # links on the way of one path, as in Linux
_SET_ID = 0o6000


@dataclass(slots=True)
class Ledger:
    """What an archive would put into `folder`: `add` checks one entry, `finish` what takes all of them."""

    folder: Path
    limit: int | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)  # of symbolic links
    hard: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)  # files that stand there with the very content
    num_bytes: int = 0
    set_id: int = 0
    _parents: dict[str, bool] = field(default_factory=dict)

    def add(self, entry: Entry) -> str:
        """The entry's path below the folder; empty for the folder itself. Raises Refused."""
        path = inner_path(entry.name)
        if entry.kind == "special file":
            raise Refused(f"{shown(entry.name)} is a device, pipe or socket")
        if not path:
            return ""
        known = self.kinds.get(path)
        if known is not None and (known != entry.kind or known != "folder"):
            raise Refused(f"it names {shown(path)} twice")
        if len(self.kinds) >= MAX_ENTRIES:
            raise Refused(f"it has more than {MAX_ENTRIES:,} entries")
        self.kinds[path] = entry.kind
        self._note(path, entry)
        return path

    def _note(self, path: str, entry: Entry) -> None:
        if entry.kind == "link":
            self.targets[path] = entry.target
        elif entry.kind == "hard link":
            self.hard[path] = inner_path(entry.target)
        self.num_bytes += entry.size
        if self.num_bytes > (self.limit or MAX_BYTES):
            most = size(self.limit or MAX_BYTES)
            raise Refused(f"it unpacks to more than {most}. If that is right, give a higher `limit`.")
        self.set_id += entry.kind == "file" and entry.mode & _SET_ID != 0
        if not self._stays_inside(path.rpartition("/")[0]):
            raise Refused(f"{shown(path)} would go through a link out of {shown(str(self.folder))}")

    def _stays_inside(self, parent: str) -> bool:
        """Whether a folder of the archive is below ours, by what stands on disk now."""
        if parent not in self._parents:
            top = os.path.realpath(self.folder)
            place = os.path.realpath(self.folder / parent)
            self._parents[parent] = place == top or place.startswith(f"{top.rstrip('/')}/")
        return self._parents[parent]

    def finish(self) -> None:
        """What can be said once all entries are known. Raises Refused."""
        for path in self.kinds:
            for parent in _parents_of(path):
                if self.kinds.get(parent, "folder") != "folder":
                    raise Refused(f"{shown(path)} lies below {shown(parent)}, which is no folder")
        for path, target in self.targets.items():
            if not target or self._leads_out(path):
                raise Refused(f"the link {shown(path)} leads out of the archive, to {shown(target)}")
        for path, target in self.hard.items():
            if self.kinds.get(target) != "file":
                raise Refused(f"the hard link {shown(path)} is to {shown(target)}, which is no file in it")

    def _leads_out(self, path: str) -> bool:
        here = path.split("/")[:-1]
        ahead = deque(self.targets[path].split("/"))
        hops = 0
        if self.targets[path].startswith("/"):
            return True
        while ahead:
            part = ahead.popleft()
            if part == "..":
                if not here:
                    return True
                here.pop()
            elif part not in ("", "."):
                here.append(part)
                target = self.targets.get("/".join(here))
                if target is not None:
                    hops += 1
                    if hops > _MAX_HOPS or target.startswith("/"):
                        return True
                    here.pop()
                    ahead.extendleft(reversed(target.split("/")))
        return False

    def refuse_what_stands(self) -> None:
        """Nothing is replaced: raises Refused naming what is there already."""
        there = [
            path for path, kind in self.kinds.items() if self._stands(path, kind) and path not in self.kept
        ]
        if there:
            raise Refused(
                f"{count(len(there), 'entry')} would replace what is there already: {some(there)}. "
                "Nothing was extracted; name another folder with `to`."
            )

    def _stands(self, path: str, kind: str) -> bool:
        place = self.folder / path
        return os.path.lexists(place) and not (kind == "folder" and place.is_dir())

    def refuse_full_disk(self) -> None:
        place = self.folder
        while not place.exists():
            place = place.parent
        free = os.statvfs(place)
        if self.num_bytes > free.f_bavail * free.f_frsize:
            raise Refused(
                f"it takes {size(self.num_bytes)}, and {size(free.f_bavail * free.f_frsize)} are free"
            )


def inner_path(name: str) -> str:
    """The name of an entry as a path below the folder. Raises Refused for one that leads elsewhere."""
    if name.startswith("/"):
        raise Refused(f"{shown(name)} is an absolute name, which would lead out of the folder")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise Refused(f"{shown(name)} would lead out of the folder")
    return "/".join(parts)


def _parents_of(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]
