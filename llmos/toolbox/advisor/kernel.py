"""What the kernel's log says of memory that ran out: which process it ended, whose limit it was, and when.

    oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/x,task_memcg=/x,task=python3,pid=8824,uid=0
    Memory cgroup out of memory: Killed process 8824 (python3) total-vm:…kB, anon-rss:29056kB, …

Parsing is pure. Names in it were chosen by whoever ran the program, and are data. The log is a ring: what was
pushed out of it is not seen. A plain user sees it where the machine lets everybody (kernel.dmesg_restrict).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from llmos.toolbox import processes
from llmos.toolbox.advisor.facts import OomKill
from llmos.toolbox.values import shown

_RECENT_S = 86_400.0
_RECORD_BYTES = 8192  # the kernel hands out no larger record
_MOST_RECORDS = 50_000
_CHOSEN = re.compile(
    r"oom-kill:constraint=(?P<why>\w+).*?(?:,oom_memcg=(?P<group>[^,]*))?(?:,global_oom)?"
    r",task_memcg=(?P<own>[^,]*),task=(?P<name>.*),pid=(?P<pid>\d+),uid=(?P<uid>\d+)"
)
_KILLED = re.compile(r"Killed process (?P<pid>\d+) \(.*\) total-vm:\d+kB, anon-rss:(?P<kib>\d+)kB")


def oom_kills(uid: int) -> tuple[tuple[OomKill, ...], str]:
    """Those of the last day, oldest first; and why it could not be looked, if so."""
    if uid != 0 and not _open_to_all():
        return (), "the kernel's log: only root may read it here"
    try:
        records = list(_records())
    except OSError as error:
        return (), f"the kernel's log: {error.strerror}"
    return tuple(parsed(records, time.time() - time.clock_gettime(time.CLOCK_MONOTONIC))), ""


def _open_to_all() -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "0"
    return False


def _records() -> Iterator[str]:
    """Each record there is now, as /dev/kmsg writes it: `level,number,µs since boot,flags;text`."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_MOST_RECORDS):
            try:
                yield os.read(fd, _RECORD_BYTES).decode("utf-8", "replace")
            except BlockingIOError:
                return
            except BrokenPipeError:  # overwritten while we read: go on with the oldest there is
                continue
    finally:
        os.close(fd)


def parsed(records: Iterable[str], booted_at: float) -> list[OomKill]:
    """The kills in these records that are not too old."""
    found: list[OomKill] = []
    for record in records:
        head, _, text = record.partition(";")
        if match := _CHOSEN.search(text):
            at = booted_at + int(head.split(",")[2]) / 1e6
            found.append(_kill(match, at))
        elif found and (match := _KILLED.search(text)) and int(match["pid"]) == found[-1].pid:
            found[-1] = replace(found[-1], resident=int(match["kib"]) << 10)
    return [one for one in found if one.at > time.time() - _RECENT_S]


def _kill(match: re.Match[str], at: float) -> OomKill:
    own = match["group"] if match["why"] == "CONSTRAINT_MEMCG" else ""
    container = next(filter(None, map(processes.container_id, match["own"].split("/"))), "")
    return OomKill(at, int(match["pid"]), shown(match["name"]), int(match["uid"]), own or "", container)
