"""`llmos top`: CPU, memory, pressure and disks as they go, the goals, and what runs. Drawn with rich.

Sampling looks at /proc through psutil as whoever asks; goals and running requests are the daemon's to tell,
and without one their places stay empty. Drawing is pure: history and size in, lines out. Needs no more of a
terminal than that it can clear the screen; blocks become plain characters where its encoding has none.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llmos.amounts import human_size
from llmos.console import safetext

JsonObject = dict[str, Any]
_KEPT = 600  # samples of history: more than any screen is wide
_BLOCKS = " ▁▂▃▄▅▆▇█"
_PLAIN = " .:-=+*#%"  # where the terminal's encoding has no blocks
_LABEL, _VALUE = 16, 26  # columns
_TOP = 8


@dataclass(frozen=True, slots=True)
class Busy:
    """One process."""

    pid: int
    user: str
    name: str
    cpu_percent: float
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The machine between two looks. Pressure is the per cent of that time in which something waited."""

    at: float
    cpu_percent: float
    memory_percent: float
    memory_used: int
    memory_total: int
    pressure_percent: dict[str, float]
    read_bytes_s: float
    written_bytes_s: float
    busiest: tuple[Busy, ...] = ()
    goals: tuple[JsonObject, ...] = ()
    running: tuple[JsonObject, ...] = ()

    @property
    def as_json(self) -> JsonObject:
        return asdict(self)


@dataclass
class Sampler:
    """Looks again and again; each sample is about the time since the look before."""

    told: Callable[[], JsonObject]  # the daemon's status, or nothing
    _at: float = 0.0
    _stalls: dict[str, int] = field(default_factory=dict)
    _io: tuple[int, int] = (0, 0)
    _cpu: dict[int, float] = field(default_factory=dict)

    def look(self) -> Sample:
        now, status = time.time(), self.told()
        over_s = max(0.01, now - self._at)
        stalls, io, memory = dict(_stalls()), _io(), psutil.virtual_memory()
        waited = {name: min(100.0, (total - self._stalls.get(name, total)) / 1e4 / over_s)
                  for name, total in stalls.items()}  # fmt: skip
        read, written = (
            max(0, new - old) / over_s if self._at else 0.0 for new, old in zip(io, self._io, strict=True)
        )
        sample = Sample(
            now, psutil.cpu_percent(), memory.percent, memory.total - memory.available, memory.total, waited,
            read, written, tuple(self._busiest(over_s)), tuple(status.get("goals") or ()),
            tuple(status.get("requests") or ()),
        )  # fmt: skip
        self._at, self._stalls, self._io = now, stalls, io
        return sample

    def _busiest(self, over_s: float) -> list[Busy]:
        before, self._cpu = self._cpu, {}
        found = []
        for process in psutil.process_iter(["name", "username", "cpu_times", "memory_info"]):
            info = process.info
            if info["cpu_times"] is None or info["memory_info"] is None:
                continue
            used = self._cpu[process.pid] = info["cpu_times"].user + info["cpu_times"].system
            percent = (used - before.get(process.pid, used)) * 100 / over_s
            name = safetext.one_line(info["name"] or "?")
            found.append(Busy(process.pid, info["username"] or "?", name, percent, info["memory_info"].rss))
        return sorted(found, key=lambda one: (-one.cpu_percent, -one.resident_bytes))[:_TOP]


def _stalls() -> Iterator[tuple[str, int]]:
    """PSI's totals in µs; nothing on a kernel without it."""
    for name in ("cpu", "memory", "io"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            first = Path("/proc/pressure", name).read_text().splitlines()[0]
            yield name, int(first.rpartition("=")[2])


def _io() -> tuple[int, int]:
    found = psutil.disk_io_counters()
    return (found.read_bytes, found.write_bytes) if found else (0, 0)


# --- drawing -------------------------------------------------------------------------------------------


def sparkline(values: Sequence[float], width: int, most: float, blocks: str = _BLOCKS) -> str:
    """The newest values, at the right, each as high as its share of `most`."""
    steps = len(blocks) - 1
    shown = [blocks[round(min(1.0, value / most) * steps)] if most > 0 else blocks[0]
             for value in values[max(0, len(values) - max(0, width)):]]  # fmt: skip
    return "".join(shown).rjust(max(0, width))


def draw(history: Sequence[Sample], width: int, *, blocks: str = _BLOCKS) -> Group:
    """The whole screen for the newest sample; lines are cut where the terminal ends."""
    now = history[-1]
    parts = [_line(*row, width=width, blocks=blocks) for row in _rows(history)]
    parts.append(Text())
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name, right in (("PID", True), ("USER", False), ("CPU%", True), ("MEMORY", True), ("NAME", False)):
        # A name may be as long as it likes: its column alone gives way.
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "NAME")
    for one in now.busiest:
        title = Text(one.name, no_wrap=True, overflow="ellipsis")
        table.add_row(str(one.pid), one.user, f"{one.cpu_percent:.0f}", human_size(one.resident_bytes), title)
    told = [safetext.one_line(f"  {one['id']}  {one['goal']}: {one['told']}") for one in now.goals]
    calls = [safetext.one_line(f"  {one['age_s']:.0f}s  {one['text']}") for one in now.running]
    lines = ["", "Goals", *(told or ["  none"]), "Running", *(calls or ["  nothing"])]
    tail = [Text(line[:width], style="" if line.startswith(" ") else "bold") for line in lines]
    return Group(*parts, table, *tail)


def _rows(history: Sequence[Sample]) -> Iterator[tuple[str, str, list[float], float]]:
    """Label, value now, all values, and what a full block is."""
    now = history[-1]
    yield "CPU", f"{now.cpu_percent:.0f} %", [one.cpu_percent for one in history], 100.0
    used = f"{human_size(now.memory_used)} of {human_size(now.memory_total)}"
    yield "Memory", used, [one.memory_percent for one in history], 100.0
    for name in now.pressure_percent:
        values = [one.pressure_percent.get(name, 0.0) for one in history]
        yield f"{name} pressure", f"{values[-1]:.0f} % of the time", values, 100.0
    for label, values in (("Disk read", [one.read_bytes_s for one in history]),
                          ("Disk written", [one.written_bytes_s for one in history])):  # fmt: skip
        yield label, f"{human_size(values[-1])} a second", values, max(*values, 1.0)


def _line(label: str, value: str, values: list[float], most: float, *, width: int, blocks: str) -> Text:
    room = width - _LABEL - _VALUE - 1
    line = f"{label:<{_LABEL}}{value:<{_VALUE}}" + (sparkline(values, room, most, blocks) if room > 0 else "")
    return Text(line[:width])


# --- on a terminal -------------------------------------------------------------------------------------


def once(sampler: Sampler, over_s: float) -> Sample:
    psutil.cpu_percent()
    sampler.look()
    time.sleep(over_s)
    return sampler.look()


def show_once(sampler: Sampler, over_s: float) -> None:
    console = Console(highlight=False)
    console.print(draw([once(sampler, over_s)], console.width, blocks=_blocks(console)))


def live(sampler: Sampler, every_s: float) -> None:
    """Until q or Ctrl-C. The screen is drawn anew each time, in the size it then has."""
    console = Console(highlight=False)
    history: deque[Sample] = deque([once(sampler, 0.2)], maxlen=_KEPT)
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            console.size = ConsoleDimensions(*os.get_terminal_size(sys.stdout.fileno()))
            screen.update(draw(list(history), console.width, blocks=_blocks(console)), refresh=True)
            if _pressed(every_s) in ("q", "Q", "\x04"):
                return
            history.append(sampler.look())


def can_be_live() -> bool:
    """Whether there is a terminal whose screen can be drawn anew."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _blocks(console: Console) -> str:
    return _BLOCKS if console.encoding.lower().startswith("utf") else _PLAIN


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys one by one, unseen; as it was, afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed(timeout_s: float) -> str:
    if not sys.stdin.isatty():
        time.sleep(timeout_s)
        return ""
    return sys.stdin.read(1) if select.select([sys.stdin], [], [], timeout_s)[0] else ""
