"""Bounds what a running call writes to disk, by looking while it runs and ending it.

    in sum      what lies in the call's stage, where its changes are kept apart from the write roots
    free space  of the disks that hold the stage and the write roots: never less than a floor

One file is bounded by RLIMIT_FSIZE and what is in memory by the control group. It looks a few times a second
(less often when looking takes long), so a fast disk gives somewhat more than the bound before the end;
what a command writes into write roots themselves, without a stage, is bounded by the floor alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from llmos.guard.program import Program

_LOOK_S = 0.25
_BYTES_PER_FILE = (
    4096  # at least: an empty file takes room in its folder and one of the disk's numbered places
)
_SHARE = 20  # at most one part in this many of the time goes into looking


@dataclass(frozen=True, slots=True)
class Quota:
    stage: str
    write_roots: tuple[str, ...]
    max_written_bytes: int
    min_free_bytes: int

    @contextlib.contextmanager
    def watch(self, program: Program) -> Iterator[None]:
        """While it lasts, `program` is ended with a reason as soon as it exceeds a bound."""
        if not self.write_roots:
            yield
            return
        watcher = asyncio.ensure_future(self._watch(program))
        try:
            yield
        finally:
            watcher.cancel()

    async def _watch(self, program: Program) -> None:
        # A disk that was nearly full before is no fault of the call's; then only the sum counts.
        tight = [place for place in self._places() if _free(place) < self.min_free_bytes]
        pause_s = _LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            if reason := await asyncio.to_thread(self._exceeded, tight):
                program.end(reason)
                return
            pause_s = max(_LOOK_S, (time.monotonic() - began) * _SHARE)

    def _places(self) -> tuple[str, ...]:
        return (self.stage,) if self.stage else self.write_roots

    def _exceeded(self, tight: list[str]) -> str:
        bound = self.max_written_bytes
        if self.stage and written_bytes(self.stage, bound) > bound:
            return _reason(f"wrote more than {_mib(bound)}", "bound is max_written_bytes")
        for place in self._places():
            if place not in tight and (free := _free(place)) < self.min_free_bytes:
                return _reason(f"left only {_mib(free)} free at {place}", "floor is min_free_bytes")
        return ""


def _reason(what: str, bound: str) -> str:
    return f"[the call {what} and was ended; the {bound} in the [sandbox] section of config.toml]\n"


def written_bytes(folder: str, enough: int) -> int:
    """Disk space taken below `folder`, links not followed; stops counting beyond `enough`."""
    total, waiting = 0, [folder]
    while waiting and total <= enough:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as listing:
            for entry in listing:
                with contextlib.suppress(OSError):
                    total += max(entry.stat(follow_symlinks=False).st_blocks * 512, _BYTES_PER_FILE)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total


def _free(place: str) -> int:
    try:
        found = os.statvfs(place)
    except OSError:
        return 1 << 62
    free = found.f_bavail * found.f_frsize
    return min(free, found.f_favail * _BYTES_PER_FILE) if found.f_files else free


def _mib(num_bytes: int) -> str:
    return f"{num_bytes >> 20} MiB"
