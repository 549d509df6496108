"""Facts in, findings out: what is wrong, how that is known, and which call would mend or explain it. Pure.

A suggestion is a typed call and nothing more: whoever makes it goes through the policy and is asked like
anybody else. Every bound below says why it is what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmos.toolbox.advisor import troubles
from llmos.toolbox.advisor.facts import Disk, Facts, Group, Growth, Log, Process, growth
from llmos.toolbox.advisor.finding import Finding, Suggestion, bounding, details
from llmos.toolbox.values import human_duration, human_size

_ORDER = {"high": 0, "medium": 1, "low": 2}

# Waiting for a tenth of the time is a tenth of the throughput lost (kernel: accounting/psi).
_PSI_PERCENT = 10.0
# With "some" for CPU one waiting task is enough, which every busy machine has now and then: a quarter.
_PSI_CPU_PERCENT = 25.0
# Some task waiting for a disk is everyday life while files are copied; for two fifths of the time it is not.
_PSI_IO_PERCENT = 40.0
_BUSY_BYTES_S = 1 << 20  # below that, waiting is not for how much somebody moves
_BUSY_PERCENT = 90.0  # else tasks wait because of a quota or a pin, not because CPUs are short
_AVAILABLE_PERCENT = 10.0  # where earlyoom begins to end processes
# ext4 keeps 5 % for root; what others may use is counted here, and below 5 % file systems slow down.
_DISK_PERCENT = 95.0
_GROUP_PERCENT = 95.0  # of its limit: the kernel begins to reclaim, then to kill
# What journald bounds itself to, 4 GiB, written in a day: the time between two rotations of logrotate.
_LOG_BYTES_S = 4 * 1024**3 / 86_400
_SURE_S = 60.0  # what loads a large file grows as steadily for some seconds
_SHORT_LOOK = "it may be loading something: ask again in a minute, sizes are noted meanwhile"
_LEAK_BYTES = 8 << 20  # while looked at: a program that has just started grows less, or not steadily
_MANY = 10


def findings(facts: Facts, about: str = "all") -> list[Finding]:
    """What is wrong, worst first."""
    found = [one for look in LOOKS for one in look(facts) if about in ("all", one.about)]
    return sorted(found, key=lambda one: _ORDER[one.severity])


# --- memory ------------------------------------------------------------------------------------------


def _memory(facts: Facts) -> Iterator[Finding]:
    """Memory of the whole machine, with who holds most of it."""
    memory, waits = facts.memory, facts.pressure.get("memory")
    share = memory.available * 100 / max(1, memory.total)
    waited = max(waits.some_10s, waits.some_now) if waits else 0.0
    if share >= _AVAILABLE_PERCENT and waited < _PSI_PERCENT:
        return
    culprit = max(facts.processes, key=lambda one: one.bytes_now, default=None)
    evidence = [f"{human_size(memory.available)} of {human_size(memory.total)} is available ({share:.0f} %)"]
    if waits:
        evidence.append(f"PSI: tasks waited for memory {waits.some_10s:.0f} % of the last 10 s")
    if memory.swap_total:
        evidence.append(f"swap: {human_size(memory.swap_free)} of {human_size(memory.swap_total)} free")
    if culprit:
        evidence.append(f"{culprit.told} holds most: {human_size(culprit.bytes_now)}")
    yield Finding(
        "memory-pressure", "memory", "high" if share < _AVAILABLE_PERCENT else "medium",
        "Memory is short" + (f"; {culprit.told} holds the most of it" if culprit else ""),
        tuple(evidence),
        {"available_bytes": memory.available, "total_bytes": memory.total, "psi_some_percent": waited,
         "pid": culprit.pid if culprit else None},
        bounding(culprit, facts.memory.total) if culprit else (),
    )  # fmt: skip


def _full_groups(facts: Facts) -> Iterator[Finding]:
    """Control groups at their own limit, while the machine may have plenty."""
    for group in facts.groups:
        if group.limit is None or not _is_full(group):
            continue
        culprit = max((one for one in facts.processes if one.pid in group.pids), default=None,
                      key=lambda one: one.bytes_now)  # fmt: skip
        whose = f"container {group.container[:12]}" if group.container else f"control group {group.path}"
        share = group.used * 100 / group.limit
        told = f"; {culprit.told} holds the most" if culprit else ""
        evidence = [f"{human_size(group.used)} of {human_size(group.limit)} is in use ({share:.0f} %)",
                    f"the limit was met {group.hits} times in {facts.over_s:.1f} s"]  # fmt: skip
        if culprit:
            evidence.append(f"{culprit.told}: {human_size(culprit.bytes_now)} resident")
        yield Finding(
            "memory-limit", "memory", "high", f"The memory of {whose} is at its limit{told}", tuple(evidence),
            {"used_bytes": group.used, "limit_bytes": group.limit, "hits": group.hits,
             "pid": culprit.pid if culprit else None},
            _widening(group, culprit, facts),
        )  # fmt: skip


def _is_full(group: Group) -> bool:
    """Near the limit and running into it; being near alone is what a cache does."""
    near = group.limit is not None and group.used * 100 >= group.limit * _GROUP_PERCENT
    return near or (group.hits > 0 and group.limit is not None and group.used * 100 >= group.limit * 80)


def _widening(group: Group, culprit: Process | None, facts: Facts) -> tuple[Suggestion, ...]:
    if culprit is None:
        return ()
    wider = min((group.limit or 0) * 3 // 2, facts.memory.total)
    more = Suggestion("resource.limit", {"target": str(culprit.pid), "memory": f"{wider >> 20}M"},
                      "half as much again")  # fmt: skip
    return (more, details(culprit)) if group.ours and not culprit.protected else (details(culprit),)


def _leaks(facts: Facts) -> Iterator[Finding]:
    """Processes that grow steadily, and would use up what they may have."""
    limits = {pid: group.limit - group.used
              for group in facts.groups if group.limit is not None for pid in group.pids}  # fmt: skip
    for one in facts.processes:
        room = min(facts.memory.available, limits.get(one.pid, facts.memory.available))
        found = growth(one.resident, room)
        if found is None or found.full_in_s is None or found.per_s * found.over_s < _LEAK_BYTES:
            continue
        sure = found.over_s >= _SURE_S
        yield Finding(
            "memory-leak", "memory", "high" if sure and found.full_in_s < 3600 else "medium",
            f"{one.told} grows steadily and would have used up its memory in "
            f"{human_duration(found.full_in_s)}",
            (f"it grew {_told(found)}, and never shrank", f"{human_size(one.bytes_now)} resident now",
             f"{human_size(room)} is left for it", *(() if sure else (_SHORT_LOOK,))),
            {"pid": one.pid, "bytes_per_s": round(found.per_s), "full_in_s": round(found.full_in_s),
             "resident_bytes": round(one.bytes_now)},
            bounding(one, facts.memory.total),
        )  # fmt: skip


def _told(found: Growth) -> str:
    return f"by {human_size(found.per_s)} a second over {human_duration(max(1, found.over_s))}"


# --- CPU ---------------------------------------------------------------------------------------------


def _contention(facts: Facts) -> Iterator[Finding]:
    waits = facts.pressure.get("cpu")
    waited = max(waits.some_10s, waits.some_now) if waits else 0.0
    if waited < _PSI_CPU_PERCENT or facts.busy_percent < _BUSY_PERCENT:
        return
    busiest = sorted(facts.processes, key=lambda one: -one.cpu_percent)[:3]
    culprit = next((one for one in busiest if not one.protected and one.cpu_percent >= 10), None)
    yield Finding(
        "cpu-contention", "cpu", "medium",
        "More wants to run than there are CPUs" + (f"; {culprit.told} takes the most" if culprit else ""),
        (f"PSI: tasks waited for a CPU {waited:.0f} % of the time", f"{facts.busy_percent:.0f} % of the "
         f"{facts.cpus} CPUs are in use", *(f"{one.told}: {one.cpu_percent:.0f} % of a CPU, nice {one.nice}"
                                            for one in busiest)),
        {"psi_some_percent": round(waited, 1), "busy_percent": round(facts.busy_percent, 1),
         "pid": culprit.pid if culprit else None},
        _yielding(culprit, facts) if culprit else (),
    )  # fmt: skip


def _yielding(culprit: Process, facts: Facts) -> tuple[Suggestion, ...]:
    """Politeness costs nothing while nobody else wants the CPU; a quota does, so it comes second."""
    nicer = Suggestion("resource.priority", {"target": str(culprit.pid), "nice": 10},
                       f"{culprit.name} goes behind the others, and has all that is left")  # fmt: skip
    half = max(10, int(culprit.cpu_percent / 2))
    quota = Suggestion("resource.limit", {"target": str(culprit.pid), "cpu": half},
                       f"at most {half} % of a CPU, half of what it takes now")  # fmt: skip
    return (nicer, quota) if culprit.nice < 10 else (quota, details(culprit))


def _waiting_for_disks(facts: Facts) -> Iterator[Finding]:
    waits = facts.pressure.get("io")
    if waits is None or (waits.full_10s < _PSI_PERCENT and waits.some_10s < _PSI_IO_PERCENT):
        return
    busiest = sorted(facts.processes, key=lambda one: -one.io_bytes_s)[:3]
    moving = [one for one in busiest if one.io_bytes_s >= _BUSY_BYTES_S]
    culprit = next((one for one in moving if not one.protected), None)
    yield Finding(
        "io-pressure", "io", "medium",
        "The disks are the bottleneck" + (f"; {culprit.told} moves the most" if culprit else ""),
        (f"PSI: everything that could run waited for disks {waits.full_10s:.0f} % of the last 10 s, "
         f"something {waits.some_10s:.0f} %",
         *(f"{one.told} reads and writes {human_size(one.io_bytes_s)} a second" for one in moving)),
        {"psi_full_percent": waits.full_10s, "psi_some_percent": waits.some_10s,
         "pid": culprit.pid if culprit else None},
        (*(_politely(culprit) if culprit else ()),
         Suggestion("resource.status", {}, "who reads and writes, and how much")),
    )  # fmt: skip


def _politely(culprit: Process) -> tuple[Suggestion, ...]:
    """The class first, which costs nothing where the scheduler knows classes; then a bound."""
    half = max(1, int(culprit.io_bytes_s / 2) >> 20)
    return (
        Suggestion("resource.priority", {"target": str(culprit.pid), "io": "idle"},
                   f"{culprit.name} gets at the disks when nobody else wants to"),
        Suggestion("resource.limit", {"target": str(culprit.pid), "io": f"{half}M"},
                   f"at most {half}M a second, half of what it moves now"),
    )  # fmt: skip


# --- processes ---------------------------------------------------------------------------------------


def _zombies(facts: Facts) -> Iterator[Finding]:
    """What has ended and is not reaped, by the parent that does not. Brief ones are everyday life."""
    by_parent: dict[int, list[Process]] = {}
    for one in facts.processes:
        if one.state == "zombie":
            by_parent.setdefault(one.parent, []).append(one)
    known = {one.pid: one for one in facts.processes}
    for number, dead in sorted(by_parent.items()):
        parent = known.get(number)
        whose = parent.told if parent else f"pid {number}"
        some = ", ".join(f"{one.name} ({one.pid})" for one in dead[:_MANY])
        mend = () if parent is None else (details(parent),)
        if parent is not None and not parent.protected:
            mend = (*mend, Suggestion("process.stop", {"pid": number}, "its zombies go with it"))
        yield Finding(
            "zombie", "processes", "medium" if len(dead) >= _MANY else "low",
            f"{whose} does not reap {len(dead)} ended process{'es' if len(dead) > 1 else ''}",
            (f"zombies for all of {facts.over_s:.1f} s: {some}",
             "a zombie holds a pid and nothing else; it goes when its parent waits for it, or ends"),
            {"count": len(dead), "parent": number, "pids": [one.pid for one in dead[:_MANY]]}, mend,
        )  # fmt: skip


def _stuck(facts: Facts) -> Iterator[Finding]:
    """In uninterruptible sleep all the time, and using nothing: a disk or a network file system hangs."""
    for one in facts.processes:
        if one.state == "disk-sleep" and one.cpu_percent == 0 and not one.protected:
            yield Finding(
                "stuck", "io", "medium", f"{one.told} hangs in the kernel",
                (f"in uninterruptible sleep for all of {facts.over_s:.1f} s, without any CPU time"
                 + (f", in the kernel's {one.waits_in}" if one.waits_in else ""),
                 "no signal reaches it until the disk or server it waits for answers"),
                {"pid": one.pid}, (details(one),),
            )  # fmt: skip


# --- disks and logs ----------------------------------------------------------------------------------


def _disks(facts: Facts) -> Iterator[Finding]:
    for disk in facts.disks:
        found = growth(disk.used, disk.free)
        soon = found if found and found.full_in_s is not None else None
        if disk.percent < _DISK_PERCENT and disk.inodes_percent < _DISK_PERCENT and soon is None:
            continue
        yield Finding(
            "disk-filling" if soon and disk.percent < _DISK_PERCENT else "disk-full", "disk",
            "high" if disk.free == 0 or (soon and (soon.full_in_s or 0) < 3600) else "medium",
            _disk_words(disk, soon), tuple(_disk_evidence(disk, soon)),
            {"place": disk.place, "percent": disk.percent, "free_bytes": disk.free,
             "inodes_percent": disk.inodes_percent,
             "bytes_per_s": round(soon.per_s) if soon else None,
             "full_in_s": round(soon.full_in_s or 0) if soon else None},
            (Suggestion("file.usage", {"path": disk.place}, "which folders take the space"),
             Suggestion("process.holders", {"deleted": True}, "deleted files that are still held open")),
        )  # fmt: skip


def _disk_words(disk: Disk, soon: Growth | None) -> str:
    if disk.inodes_percent >= _DISK_PERCENT > disk.percent:
        return f"{disk.place} has no room for more files: {disk.inodes_percent:.0f} % of its inodes are used"
    when = f" and full in {human_duration(soon.full_in_s or 0)} if it goes on so" if soon else ""
    return f"{disk.place} is {disk.percent:.0f} % full{when}"


def _disk_evidence(disk: Disk, soon: Growth | None) -> Iterator[str]:
    yield f"{human_size(disk.free)} of {human_size(disk.total)} free on {disk.kind}"
    yield f"{disk.inodes_percent:.0f} % of the inodes used"
    if soon:
        yield f"it grew {_told(soon)}"


def _runaway_logs(facts: Facts) -> Iterator[Finding]:
    for log in facts.logs:
        found = growth(log.size, log.disk_free)
        if found is None or (found.per_s < _LOG_BYTES_S and found.full_in_s is None):
            continue
        size = log.size[-1][-1][1]
        day = human_size(found.per_s * 86_400)
        evidence = [f"it grew {_told(found)}: {day} a day", f"{human_size(size)} now",
                    f"{human_size(log.disk_free)} free on {log.disk}"]  # fmt: skip
        if log.writer:
            evidence.append(f"{log.writer.told} has it open for writing")
        yield Finding(
            "runaway-log", "disk", "high" if found.full_in_s is not None else "medium",
            f"{log.path} grows by {human_size(found.per_s)} a second", tuple(evidence),
            {"path": log.path, "bytes_per_s": round(found.per_s), "size_bytes": round(size),
             "full_in_s": found.full_in_s and round(found.full_in_s),
             "pid": log.writer.pid if log.writer else None},
            tuple(_quieting(log)),
        )  # fmt: skip


def _quieting(log: Log) -> Iterator[Suggestion]:
    yield Suggestion("text.tail", {"path": log.path}, "what it says over and over")
    if log.writer and not log.writer.protected:
        yield Suggestion("process.suspend", {"pid": log.writer.pid},
                         f"stop {log.writer.name} for now; process.resume lets it go on")  # fmt: skip


LOOKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _memory, _full_groups, _leaks, _contention, _waiting_for_disks, _zombies, _stuck, _disks, _runaway_logs,
    *troubles.LOOKS,
)  # fmt: skip
