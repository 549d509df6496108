"""What was measured, as frozen facts, and how far a growth may be thought on. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Series = tuple[tuple[float, float], ...]  # moments in seconds, and amounts

# A forecast reaches no further than a multiple of the time that was looked at: two seconds of growth say
# something about the next twenty minutes, an hour about a day. A day, because by then somebody has looked.
REACH = 600
FAR_S = 86_400.0
_FEWEST = 4  # with three moments two equal slopes are chance


@dataclass(frozen=True, slots=True)
class Growth:
    per_s: float
    over_s: float  # the time looked at
    full_in_s: float | None  # None: not within what can be foreseen


def growth(series: Sequence[Series], room: float) -> Growth | None:
    """The first series that grows steadily, and when `room` is used up. None where none does."""
    return next(filter(None, (_growth(one, room) for one in series)), None)


def _growth(series: Series, room: float) -> Growth | None:
    """Steadily: never down, and up in three of four steps. The slope is the median of all (Theil and Sen)."""
    if len(series) < _FEWEST:
        return None
    steps = [after[1] - before[1] for before, after in itertools.pairwise(series)]
    if min(steps) < 0 or sum(step > 0 for step in steps) * 4 < len(steps) * 3:
        return None
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(series, 2) if b[0] > a[0]]
    if not slopes or (per_s := statistics.median(slopes)) <= 0:
        return None
    over_s = series[-1][0] - series[0][0]
    left_s = max(0.0, room) / per_s
    return Growth(per_s, over_s, left_s if left_s <= min(FAR_S, REACH * over_s) else None)


@dataclass(frozen=True, slots=True)
class Pressure:
    """PSI of one resource: per cent of the time in which some task, or all of them, waited for it."""

    some_10s: float
    full_10s: float
    some_now: float  # over the time looked at


@dataclass(frozen=True, slots=True)
class Memory:
    total: int
    available: int
    swap_total: int
    swap_free: int


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    started: float
    name: str
    command: str
    user: str
    parent: int
    state: str  # psutil's word, and the same at the beginning and the end, else empty
    nice: int
    cpu_percent: float  # of one CPU
    resident: tuple[Series, ...]  # bytes, longest series first
    protected: bool  # init, the kernel's, llmos: not to be changed
    group: str = ""  # its control group for memory
    io_bytes_s: float = 0.0  # read and written; of others' processes not known
    waits_in: str = ""  # the kernel's function, where that may be seen

    @property
    def bytes_now(self) -> float:
        return self.resident[-1][-1][1] if self.resident and self.resident[-1] else 0.0

    @property
    def told(self) -> str:
        return f"{self.name} (pid {self.pid}, {self.user})"


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system that can be written to; `free` is what everybody but root may still use."""

    place: str
    kind: str
    total: int
    free: int
    percent: float
    inodes_percent: float
    used: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Log:
    path: str
    size: tuple[Series, ...]
    disk: str
    disk_free: int
    writer: Process | None


@dataclass(frozen=True, slots=True)
class Group:
    """A control group's memory. `used` is without file pages that are dropped as soon as room is needed."""

    path: str
    container: str  # id, where it is one's
    ours: bool  # made by llmos
    used: int
    limit: int | None
    hits: int  # how often the limit was met while we looked
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    name: str
    scope: str
    description: str
    state: str


@dataclass(frozen=True, slots=True)
class OomKill:
    """A process that the kernel ended because memory ran out: the machine's, or a group's own."""

    at: float
    pid: int
    name: str
    uid: int
    group: str  # whose limit it was; empty for the machine's memory
    container: str = ""  # id, where it was in one
    resident: int = 0


@dataclass(frozen=True, slots=True)
class Complaints:
    """Entries of the journal of err and worse, of one unit."""

    unit: str
    scope: str
    errors: int
    over_s: float
    last: str
    before: int  # in as long a time before: what it always says


@dataclass(frozen=True, slots=True)
class Container:
    """A container as its engine tells it. `restarts` are those that its restart policy made."""

    id: str
    name: str
    state: str
    pid: int
    restarts: int
    exit_code: int
    out_of_memory: bool
    recent: bool
    health: str
    said: str  # by its health check
    memory: int  # its limit, 0 for none


@dataclass(frozen=True, slots=True)
class EngineSpace:
    """What nobody uses on the engine's disk: images without a name, volumes without a container."""

    place: str
    dangling: int
    dangling_bytes: int
    volumes: int
    volume_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was measured at one time."""

    over_s: float
    cpus: int
    busy_percent: float  # of all CPUs
    pressure: dict[str, Pressure]
    memory: Memory
    processes: tuple[Process, ...] = ()
    disks: tuple[Disk, ...] = ()
    logs: tuple[Log, ...] = ()
    groups: tuple[Group, ...] = ()
    units: tuple[Unit, ...] = ()
    ooms: tuple[OomKill, ...] = ()
    complaints: tuple[Complaints, ...] = ()
    containers: tuple[Container, ...] = ()
    space: EngineSpace | None = None
    unseen: tuple[str, ...] = ()  # what could not be looked at, and why
