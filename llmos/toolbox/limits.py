"""Limits on processor, memory, disks and number of processes: as asked, checked, and in the kernel's words.

Pure but for the list of the machine's disks. CPU is in per cent of one processor, as top shows it:
200 is two whole ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.errors import UsageError
from llmos.messages import Message
from llmos.toolbox.context import Machine
from llmos.toolbox.values import cpu_list, cpu_set, human_size

PERIOD_US = 100_000
_MIN_QUOTA_US = 1_000  # the kernel takes no smaller one
_MIN_MEMORY_BYTES = 1 << 20
_NOT_DISKS = ("loop", "ram", "zram", "sr", "fd", "dm-", "md")  # what lies on others is counted there


@dataclass(frozen=True, slots=True)
class Setting:
    """One value in one file of a control group; `key` is the device, where a file has a line for each."""

    controller: str
    file: str
    value: str
    key: str = ""

    @property
    def line(self) -> str:
        return f"{self.key} {self.value}" if self.key else self.value


class Limits(Message):
    """What was asked for; None is not asked for."""

    cpu: int | None = None
    memory: int | None = None
    io: int | None = None
    pids: int | None = None
    cpu_weight: int | None = None
    io_weight: int | None = None
    memory_high: int | None = None
    cpus: str | None = None  # as the kernel writes them: 0-3,6

    @property
    def told(self) -> str:
        return ", ".join(_told(self))

    def settings(self, version: int) -> tuple[Setting, ...]:
        """What to write into a group of this version of cgroups(7). Raises UsageError for what it lacks."""
        return tuple(_second(self) if version == 2 else _first(self))

    @property
    def properties(self) -> dict[str, tuple[str, Any]]:
        """The same as properties of a systemd unit, with their D-Bus types (systemd.resource-control(5))."""
        return dict(_properties(self))


def read(args: dict[str, Any], machine: Machine, tool: str = "resource.limit") -> Limits:
    """The limits of a call's checked arguments. Raises UsageError for impossible ones and for none."""
    given = {name: args.get(name) for name in Limits.model_fields}
    if given["cpus"] is not None:
        given["cpus"] = asked_cpus(tool, given["cpus"], machine)
    limits = Limits(**given)
    if limits == Limits():
        raise UsageError(
            f"{tool}: no limit is given", "Give cpu (per cent), memory, io (per second) or pids."
        )
    for problem, step in _problems(limits, machine):
        raise UsageError(f"{tool}: {problem}", step)
    return limits


def asked_cpus(tool: str, text: str, machine: Machine) -> str:
    """CPUs that this machine has, in the kernel's words. Raises UsageError."""
    there = machine.cpus
    try:
        wanted = cpu_set(text) if text.strip() != "all" else set(there)
    except ValueError as error:
        raise UsageError(f"{tool}: argument `cpus`: {error}", "Write 0-3, or 0,2, or all.") from None
    if lacking := wanted - there:
        raise UsageError(
            f"{tool}: argument `cpus`: this machine has no CPU {min(lacking)}; it has {cpu_list(there)}",
            "Name some of these.",
        )
    if not wanted:
        raise UsageError(f"{tool}: argument `cpus`: {text!r} is no CPU at all", "Write 0-3, or 0,2, or all.")
    return cpu_list(wanted)


def _problems(limits: Limits, machine: Machine) -> Iterator[tuple[str, str]]:
    cpus, memory = len(machine.cpus), machine.memory_bytes
    if limits.cpu is not None and not 1 <= limits.cpu <= 100 * cpus:
        yield (
            f"argument `cpu`: {limits.cpu} % is not between 1 and {100 * cpus} "
            f"(100 is one of the {cpus} processors)",
            "Give less than all of them, or leave it out for no limit.",
        )
    for name in ("memory", "memory_high"):
        size = getattr(limits, name)
        if size is not None and not _MIN_MEMORY_BYTES <= size <= memory:
            yield (
                f"argument `{name}`: {human_size(size)} is not between 1.0M and the machine's "
                f"{human_size(memory)}",
                "Give less than all of it, or leave it out for no limit.",
            )
    if limits.io is not None and limits.io < 4096:
        yield "argument `io`: less than 4096 bytes a second stops it", "Suspend it instead, or give more."
    if limits.pids is not None and not 1 <= limits.pids <= 4_194_304:
        yield f"argument `pids`: {limits.pids} is not between 1 and 4194304", "Give a number in between."


def _told(limits: Limits) -> Iterator[str]:
    if limits.cpu is not None:
        yield f"{limits.cpu} % of a CPU"
    if limits.cpus is not None:
        yield f"CPU {limits.cpus} alone"
    if limits.memory is not None:
        yield f"{human_size(limits.memory)} of memory"
    if limits.memory_high is not None:
        yield f"slowed above {human_size(limits.memory_high)} of memory"
    if limits.io is not None:
        yield f"{human_size(limits.io)} a second from and to each disk"
    if limits.pids is not None:
        yield f"{limits.pids} processes"
    for name in ("cpu_weight", "io_weight"):
        if (weight := getattr(limits, name)) is not None:
            yield f"{name.replace('_', ' ')} {weight} (of 1 to 10000, usual is 100)"


# --- cgroups(7), version 2 and 1 ---------------------------------------------------------------------


def _second(limits: Limits) -> Iterator[Setting]:
    if limits.cpu is not None:
        yield Setting("cpu", "cpu.max", f"{_quota_us(limits.cpu)} {PERIOD_US}")
    if limits.cpu_weight is not None:
        yield Setting("cpu", "cpu.weight", str(limits.cpu_weight))
    if limits.cpus is not None:
        yield Setting("cpuset", "cpuset.cpus", limits.cpus)
    if limits.memory is not None:
        yield Setting("memory", "memory.max", str(limits.memory))
    if limits.memory_high is not None:
        yield Setting("memory", "memory.high", str(limits.memory_high))
    if limits.pids is not None:
        yield Setting("pids", "pids.max", str(limits.pids))
    if limits.io is not None:
        for disk in disks():
            yield Setting("io", "io.max", f"rbps={limits.io} wbps={limits.io}", disk)
    if limits.io_weight is not None:
        yield Setting("io", "io.weight", str(limits.io_weight), "default")


def _first(limits: Limits) -> Iterator[Setting]:
    if limits.cpu is not None:
        yield Setting("cpu", "cpu.cfs_quota_us", str(_quota_us(limits.cpu)))
    if limits.cpu_weight is not None:
        yield Setting("cpu", "cpu.shares", str(shares(limits.cpu_weight)))
    if limits.cpus is not None:
        yield Setting("cpuset", "cpuset.cpus", limits.cpus)
    if limits.memory is not None:
        yield Setting("memory", "memory.limit_in_bytes", str(limits.memory))
    if limits.memory_high is not None:
        raise UsageError(
            "resource.limit: argument `memory_high`: cgroups of version 1, as here, cannot do that",
            "Use `memory`.",
        )
    if limits.pids is not None:
        yield Setting("pids", "pids.max", str(limits.pids))
    if limits.io is not None:
        for disk in disks():
            yield Setting("blkio", "blkio.throttle.read_bps_device", str(limits.io), disk)
            yield Setting("blkio", "blkio.throttle.write_bps_device", str(limits.io), disk)
    if limits.io_weight is not None:
        yield Setting("blkio", "blkio.bfq.weight", str(min(1000, limits.io_weight)))


def shares(weight: int) -> int:
    """A weight, of which 100 is usual, as version 1 and Docker count it: 1024 is usual there."""
    return max(2, round(weight * 1024 / 100))


def weighs_io() -> bool:
    """Whether any disk is shared out by weight: its scheduler is bfq."""
    places = (place for place in Path("/sys/block").glob("*") if not place.name.startswith(_NOT_DISKS))
    found = (place / "queue/scheduler" for place in places)
    return any("[bfq]" in file.read_text() for file in found if file.exists())


def _quota_us(percent: int) -> int:
    return max(_MIN_QUOTA_US, percent * PERIOD_US // 100)


def disks() -> tuple[str, ...]:
    """The whole disks of this machine as MAJOR:MINOR."""
    places = sorted(Path("/sys/block").iterdir()) if Path("/sys/block").is_dir() else []
    return tuple(
        (place / "dev").read_text().strip() for place in places if not place.name.startswith(_NOT_DISKS)
    )


# --- systemd -----------------------------------------------------------------------------------------


def _properties(limits: Limits) -> Iterator[tuple[str, tuple[str, Any]]]:
    if limits.cpu is not None:
        yield "CPUQuotaPerSecUSec", ("t", limits.cpu * 10_000)
    if limits.cpu_weight is not None:
        yield "CPUWeight", ("t", limits.cpu_weight)
    if limits.cpus is not None:
        yield "AllowedCPUs", ("ay", _mask(limits.cpus))
    if limits.memory is not None:
        yield "MemoryMax", ("t", limits.memory)
    if limits.memory_high is not None:
        yield "MemoryHigh", ("t", limits.memory_high)
    if limits.pids is not None:
        yield "TasksMax", ("t", limits.pids)
    if limits.io is not None:
        disk = [(f"/dev/block/{number}", limits.io) for number in disks()]
        yield "IOReadBandwidthMax", ("a(st)", disk)
        yield "IOWriteBandwidthMax", ("a(st)", disk)
    if limits.io_weight is not None:
        yield "IOWeight", ("t", limits.io_weight)


def _mask(cpus: str) -> list[int]:
    """A list of CPUs as systemd has it: a bit for each, in bytes."""
    bits = sum(1 << cpu for cpu in cpu_set(cpus))
    return list(bits.to_bytes((bits.bit_length() + 7) // 8, "little"))
