"""Facts of the machine: identity, memory, disks, load and pressure, listening ports. Read-only and bounded.

Observers run in the broker, so they see what its user may see: as a plain user, the owner of another
user's port stays unknown and is shown as `-`.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.messages import JsonObject, Observe
from llmos.toolbox.context import Args, Context, Draft, Machine, Pair
from llmos.toolbox.values import cpu_set, human_duration, human_size, table

_PRESSURE = Path("/proc/pressure")


def _observing(observer: str) -> Pair:
    def plan(args: Args, context: Context) -> Draft:
        given = {key: value for key, value in args.items() if value is not None}
        if "path" in given:
            given["path"] = context.absolute(given["path"])
        return Draft((Observe(observer=observer, args=given),))

    return Pair(plan)


def size() -> Machine:
    online = Path("/sys/devices/system/cpu/online").read_text().strip()
    return Machine(frozenset(cpu_set(online)), int(psutil.virtual_memory().total))


def info(args: JsonObject) -> str:
    return table(
        [
            ("Host", socket.gethostname()),
            ("System", _os_name()),
            ("Kernel", f"{platform.release()} ({platform.machine()})"),
            ("Processor", _cpu_name()),
            ("CPUs", str(psutil.cpu_count())),
            ("Memory", human_size(psutil.virtual_memory().total)),
            ("Up", human_duration(time.time() - psutil.boot_time())),
        ]
    )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def memory(args: JsonObject) -> str:
    main, swap = psutil.virtual_memory(), psutil.swap_memory()
    rows: list[tuple[str, ...]] = [("", "TOTAL", "USED", "AVAILABLE", "USE%")]
    rows.append(("Memory", *map(human_size, (main.total, main.used, main.available)), f"{main.percent:.0f}%"))
    rows.append(("Swap", *map(human_size, (swap.total, swap.used, swap.free)), f"{swap.percent:.0f}%"))
    return table(rows, frozenset({1, 2, 3}))


def disk(args: JsonObject) -> str:
    """Every real file system, or the one that holds `path`."""
    path = args.get("path")
    places = [(str(path), "")] if path else _mounts()
    rows = [("SIZE", "USED", "FREE", "USE%", "MOUNTED ON"), *filter(None, map(_disk_row, places))]
    return table(rows, frozenset({0, 1, 2, 3})) if len(rows) > 1 else f"No file system at {path or '/'}.\n"


def _mounts() -> list[tuple[str, str]]:
    """One mount of each device; the root always, also where it is an overlay."""
    found: dict[str, str] = {"root": "/"}
    for part in psutil.disk_partitions(all=False):
        if part.mountpoint != "/" and Path(part.mountpoint).is_dir():
            found.setdefault(part.device, part.mountpoint)
    return [(place, device) for device, place in found.items()]


def _disk_row(place: tuple[str, str]) -> tuple[str, ...] | None:
    try:
        usage = psutil.disk_usage(place[0])
    except OSError:
        return None
    sizes = map(human_size, (usage.total, usage.used, usage.free))
    return (*sizes, f"{usage.percent:.0f}%", place[0])


def load(args: JsonObject) -> str:
    one, five, fifteen = os.getloadavg()
    rows = [
        ("Load", f"{one:.2f} (1 min)  {five:.2f} (5 min)  {fifteen:.2f} (15 min)"),
        ("CPUs", str(psutil.cpu_count())),
        ("CPU use", f"{psutil.cpu_percent(interval=0.2):.0f}%"),
        *((f"{name} pressure", text) for name, text in pressure()),
    ]
    return table(rows)


def pressure() -> list[tuple[str, str]]:
    """PSI: the share of the last 10 s and 60 s in which some task waited (kernel: accounting/psi)."""
    found = []
    for name in ("cpu", "memory", "io"):
        try:
            words = (_PRESSURE / name).read_text().splitlines()[0].split()
        except (OSError, IndexError):
            continue  # a kernel without PSI
        shares = dict(word.split("=") for word in words[1:])
        found.append((name.capitalize(), f"{shares['avg10']}% (10 s)  {shares['avg60']}% (60 s)"))
    return found


def ports(args: JsonObject) -> str:
    """Listening TCP and bound UDP sockets with their process; `port` keeps one."""
    wanted = args.get("port")
    found = {
        ("tcp" if c.type == socket.SOCK_STREAM else "udp", c.laddr.ip, c.laddr.port, c.pid or 0)
        for c in psutil.net_connections(kind="inet")
        if c.laddr and (c.status == psutil.CONN_LISTEN or (c.type == socket.SOCK_DGRAM and not c.raddr))
    }
    chosen = sorted((row for row in found if wanted in (None, row[2])), key=lambda row: (row[2], row))
    if not chosen:
        return f"Nothing listens on port {wanted}.\n" if wanted else "Nothing listens.\n"
    rows = [(kind, str(port), address, _owner(pid)) for kind, address, port, pid in chosen]
    return table([("KIND", "PORT", "ADDRESS", "PROCESS"), *rows], frozenset({1}))


def _owner(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} ({pid})" if pid else "-"
    except psutil.Error:
        return str(pid)


OBSERVERS: dict[str, Callable[[JsonObject], str]] = {
    "system.info": info,
    "system.memory": memory,
    "system.disk": disk,
    "system.load": load,
    "system.ports": ports,
}
PAIRS = {name: _observing(name) for name in OBSERVERS}
