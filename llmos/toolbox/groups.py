"""Control groups around processes that already run: made, entered, read back, and given up again.

    version 1   a group for each controller, below the one the processes are in: what bounds them goes on
    version 2   a group beside theirs with its settings copied: one with processes in it can have no
                children with controllers. In the top group itself, below it

A group's name says who made it for which process and, in version 2, what it stands beside; so nothing
has to be remembered: llmos-limit-UID.PID.STARTED[@NEIGHBOUR]. Groups nobody is in any more are swept away, by
a thread that lives as long as there are any, and by whoever comes next.
Not undone by a move: memory stays charged to the group in which it was first used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.cgroupfs import mounted, own_groups
from llmos.errors import CallFailed
from llmos.toolbox.limits import PERIOD_US, Limits, Setting

PREFIX = "llmos-limit-"
_NAME = re.compile(rf"{PREFIX}(\d+)\.(\d+)\.(\d+)(?:@(.+))?")
_TRIES = 3
_PASSES = 20  # of moving what a process has forked meanwhile
_SWEEP_S = 1.0
_INHERITED = ("cpu.max", "cpu.weight", "memory.max", "memory.high", "memory.swap.max", "pids.max", "io.max",
              "cpuset.cpus", "cpuset.mems")  # fmt: skip
_NO_LIMITS = (("cpu.cfs_quota_us", "-1"), ("memory.limit_in_bytes", "-1"), ("pids.max", "max"))
_PF_EXITING = 0x4  # include/linux/sched.h; field 9 of proc_pid_stat(5)
_lock = threading.Lock()
_sweeping = threading.Event()


class Ended(CallFailed):
    """There is no such process any more."""


def _ended(pid: int) -> Ended:
    return Ended(f"process {pid} has ended", "List the processes again.")


@dataclass(frozen=True, slots=True)
class Tree:
    """A mounted hierarchy."""

    version: int
    point: str

    def folder(self, pid: int, controller: str) -> Path:
        """The group a process is in. Raises Ended when it is gone, CallFailed when it is out of sight."""
        try:
            own = dict(own_groups(Path(f"/proc/{pid}/cgroup").read_text()))
            flags = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6])
        except OSError as error:
            raise _ended(pid) from error
        if flags & _PF_EXITING:  # version 1 shows it in the root group then
            raise _ended(pid)
        path = own.get(controller if self.version == 1 else "", "/..")
        if path.startswith("/.."):
            raise CallFailed(f"process {pid} is in a control group that is not seen from here", "See: doctor")
        return Path(os.path.normpath(self.point + path))


@dataclass(frozen=True, slots=True)
class Written:
    """A value that stands in a group now, and what stood there before."""

    folder: Path
    setting: Setting
    before: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done: groups made, and values changed in groups that were ours already."""

    version: str
    made: tuple[Path, ...] = ()
    written: tuple[Written, ...] = ()


@dataclass(frozen=True, slots=True)
class Members:
    """Whom a group is for: who asked, its first process and when that started, and who belongs to it now."""

    owner: int
    pid: int
    started: int
    listed: Callable[[], list[int]]

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.owner}.{self.pid}.{self.started}"


def trees() -> dict[str, Tree]:
    """Controller by name, with where it is mounted; version 1 where both have it."""
    found: dict[str, Tree] = {}
    table = mounted(Path("/proc/self/mountinfo").read_text())
    for point, kind, options in sorted(table, key=lambda row: row[1], reverse=True):
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                names = Path(point, "cgroup.controllers").read_text().split()
                found |= dict.fromkeys(names, Tree(2, point))
            continue
        found |= {name: Tree(1, point) for name in options if "=" not in name}
    return found


# --- limiting ----------------------------------------------------------------------------------------


def limit(limits: Limits, members: Members) -> Applied:
    """Put processes under limits, all or nothing.

    Raises CallFailed, and PermissionError where only root, or whoever has the hierarchy delegated, may.
    """
    applied = Applied("")
    try:
        for tree, settings in _by_tree(limits).items():
            applied = _within(tree, settings, members, applied)
    except (OSError, CallFailed) as error:
        take_back(applied)
        if isinstance(error, PermissionError) or not isinstance(error, OSError):
            raise
        raise _explained(error) from error
    sweep_on()
    return applied


def _by_tree(limits: Limits) -> dict[Tree, list[Setting]]:
    """The settings for each hierarchy that has to be touched."""
    there = trees()
    first = {setting.controller for setting in _settings(limits, 1)}
    versions = {name: tree.version for name, tree in there.items()}
    wanted: dict[Tree, list[Setting]] = {}
    for version in (1, 2):
        for setting in _settings(limits, version):
            if versions.get(setting.controller) == version:
                wanted.setdefault(there[setting.controller], []).append(setting)
    named = {setting.controller for settings in wanted.values() for setting in settings}
    lacking = first - named - ({"blkio"} if "io" in named else set())
    if lacking or not wanted:
        raise CallFailed(
            f"this kernel offers no control group for: {', '.join(sorted(lacking)) or 'any of it'}",
            "See what is mounted: llmos doctor",
        )
    return wanted


def _settings(limits: Limits, version: int) -> tuple[Setting, ...]:
    from llmos.errors import UsageError

    try:
        return limits.settings(version)
    except UsageError:
        if any(tree.version == 1 for tree in trees().values()):
            raise
        return ()


def _within(tree: Tree, settings: list[Setting], members: Members, applied: Applied) -> Applied:
    """One hierarchy: the group that is theirs already, or a fresh one. Returns what was done in all."""
    for _ in range(_TRIES):
        pids = members.listed()
        folder = _common(tree, settings[0].controller, pids)
        done = Applied(f"cgroup v{tree.version}", applied.made, applied.written)
        if is_ours(folder) and maker(folder) == members.owner and set(pids_in(folder)) <= set(pids):
            return _tuned(folder, settings, done)
        fresh = _beside(tree, folder, members.name)
        with _lock:
            try:
                _make(tree, fresh, folder, {setting.controller for setting in settings})
                done = _tuned(fresh, settings, Applied(done.version, (*done.made, fresh), done.written))
                _enter(fresh, members.listed)
                return done
            except FileNotFoundError:  # another daemon swept it away before anybody was in it
                continue
            except BaseException:
                _give_up(fresh, folder)
                raise
    raise CallFailed("the control group does not stay", "Try again.")


def _common(tree: Tree, controller: str, pids: Sequence[int]) -> Path:
    """The one group that all are in who have not ended. Raises CallFailed where they are in several."""
    folders: dict[Path, int] = {}
    for pid in pids:
        with contextlib.suppress(Ended):
            folders.setdefault(tree.folder(pid, controller), pid)
    if not folders:
        raise _ended(pids[0])
    if len(folders) > 1:
        some = "; ".join(
            f"{pid} in {str(folder).removeprefix(tree.point) or '/'}" for folder, pid in folders.items()
        )
        raise CallFailed(
            f"they are in several control groups already: {some[:300]}",
            "Release what is limited by itself first (resource.release), or limit them one by one.",
        )
    return next(iter(folders))


def _beside(tree: Tree, folder: Path, name: str) -> Path:
    """Where a fresh group goes, seen from the one the processes are in."""
    if tree.version == 1 or folder == Path(tree.point):
        return folder / name
    if is_ours(folder):
        raise CallFailed("others are under the same limit of llmos", "Release that first: resource.release")
    return folder.parent / f"{name}@{folder.name}"


def _make(tree: Tree, fresh: Path, folder: Path, controllers: set[str]) -> None:
    if tree.version == 2:
        _hand_down(fresh.parent, controllers)
    fresh.mkdir(0o755, exist_ok=True)
    if tree.version == 1 and "cpuset" in controllers:  # whose groups begin with nothing, and take nobody then
        for file in ("cpuset.mems", "cpuset.cpus"):
            put(fresh / file, (folder / file).read_text().strip())
    if tree.version == 2 and folder != Path(tree.point):
        _inherit(folder, fresh)


def _hand_down(parent: Path, controllers: set[str]) -> None:
    """Children have the controllers that their parent hands down."""
    handed = (parent / "cgroup.subtree_control").read_text().split()
    for controller in sorted(controllers - set(handed)):
        put(parent / "cgroup.subtree_control", f"+{controller}")


def _inherit(folder: Path, fresh: Path) -> None:
    """What bounded the processes in their own group bounds them in the one beside it."""
    for file in _INHERITED:
        with contextlib.suppress(FileNotFoundError):
            for line in filter(None, (folder / file).read_text().splitlines()):
                put(fresh / file, line)


def _tuned(folder: Path, settings: Sequence[Setting], done: Applied) -> Applied:
    """Write each value and read it back."""
    for setting in settings:
        before = value_of(folder, setting)
        put(folder / setting.file, setting.line)
        done = Applied(done.version, done.made, (*done.written, Written(folder, setting, before)))
        found = value_of(folder, setting)
        if not _same(setting.value, found):
            raise CallFailed(
                f"{folder}/{setting.file} says {found!r} after {setting.value!r} was written",
                "The group above bounds it more tightly, perhaps: resource.status shows it.",
            )
    return done


def _same(wanted: str, found: str) -> bool:
    """The kernel rounds sizes down to pages and adds what was not named."""
    if wanted.lstrip("-").isdecimal() and found.lstrip("-").isdecimal():
        return 0 <= int(wanted) - int(found) < 65_536
    return set(wanted.split()) <= set(found.split())


def _enter(folder: Path, members: Callable[[], list[int]]) -> None:
    """Move them in, and what they forked meanwhile. Raises CallFailed when none is left."""
    inside: set[int] = set()
    for _ in range(_PASSES):
        missing = [pid for pid in members() if pid not in inside]
        if not missing:
            break
        for pid in missing:
            with contextlib.suppress(ProcessLookupError):
                put(folder / "cgroup.procs", str(pid))
            inside.add(pid)
    if not pids_in(folder):
        raise CallFailed("the process has ended", "List the processes again.")


# --- taking back -------------------------------------------------------------------------------------


def take_back(applied: Applied) -> None:
    """As it was before; what has ended meanwhile needs nothing."""
    for one in reversed(applied.written):
        if one.folder not in applied.made:
            with contextlib.suppress(OSError):
                put(one.folder / one.setting.file, f"{one.setting.key} {one.before}".strip())
    for folder in applied.made:
        _give_up(folder, origin(folder))


def release(folder: Path) -> None:
    """Everybody in it goes back to where they came from, and the group goes. Raises CallFailed."""
    target = origin(folder)
    if not target.is_dir():
        raise CallFailed(
            f"the control group it came from is gone: {target}", "End the process, or change its limits."
        )
    with _lock:
        _give_up(folder, target)
    if pids_in(folder):
        raise CallFailed(f"{folder} does not empty", "Try again.")
    if folder.is_dir():  # processes in it have limits of their own, in groups below: theirs alone go on
        for file, line in _NO_LIMITS:
            with contextlib.suppress(OSError):
                put(folder / file, line)


def _give_up(folder: Path, target: Path) -> None:
    for _ in range(_PASSES):
        left = pids_in(folder)
        for pid in left:
            with contextlib.suppress(OSError):
                put(target / "cgroup.procs", str(pid))
        if _removed(folder) or not left:
            break
    sweep_on()


def origin(folder: Path) -> Path:
    """Where the processes of a group of ours came from."""
    neighbour = _name_parts(folder.name)[3]
    return folder.parent / neighbour if neighbour else folder.parent


def ours_of(pid: int) -> set[Path]:
    """The groups of ours that a process is in."""
    found = set()
    for controller, tree in trees().items():
        with contextlib.suppress(CallFailed):
            found.add(tree.folder(pid, controller))
    return {folder for folder in found if is_ours(folder)}


def limits_of(folders: Sequence[Path]) -> Limits:
    """What groups limit, as it would be asked for."""
    found: dict[str, Any] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            own, above = ((place / "cpuset.cpus").read_text().strip() for place in (folder, folder.parent))
            found |= {"cpus": own} if own and own != above else {}
        for name, file in (*_FILES.items(), *_FIRST_FILES.items()):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[name] = _amount(name, file, (folder / file).read_text())
    return Limits(**found)


def _amount(name: str, file: str, text: str) -> int:
    """The number in a file, in the unit it is asked for in. Raises ValueError where there is no limit."""
    words = re.split(r"[\s=]+", text.strip())
    if file == "cpu.max":
        return int(words[0]) * 100 // int(words[1])
    if file.startswith(("io.max", "blkio.throttle")):
        return int(words[2 if file == "io.max" else 1])
    value = int(words[-1])
    if value < 0 or value >= _NO_AMOUNT or (file, value) in _USUAL:
        raise ValueError("no limit")
    return (
        value * 100 // PERIOD_US
        if name == "cpu"
        else round(value * 100 / 1024)
        if file == "cpu.shares"
        else value
    )


_FILES = {
    "cpu": "cpu.max", "memory": "memory.max", "memory_high": "memory.high", "pids": "pids.max",
    "io": "io.max", "cpu_weight": "cpu.weight", "io_weight": "io.weight",
}  # fmt: skip
_FIRST_FILES = {
    "cpu": "cpu.cfs_quota_us", "memory": "memory.limit_in_bytes", "pids": "pids.max",
    "io": "blkio.throttle.read_bps_device", "cpu_weight": "cpu.shares", "io_weight": "blkio.bfq.weight",
}  # fmt: skip
_NO_AMOUNT = 1 << 62  # what version 1 says for none
_USUAL = {("cpu.shares", 1024), ("cpu.weight", 100), ("blkio.bfq.weight", 100), ("io.weight", 100)}


def maker(folder: Path) -> int:
    """The uid for which a group of ours was made."""
    return int(_name_parts(folder.name)[0])


def is_ours(folder: Path) -> bool:
    return bool(_NAME.fullmatch(folder.name))


def _name_parts(name: str) -> tuple[str, str, str, str | None]:
    found = _NAME.fullmatch(name)
    assert found, name
    return found[1], found[2], found[3], found[4]


# --- sweeping ----------------------------------------------------------------------------------------


def sweep() -> bool:
    """Remove every group of ours that nobody is in; returns whether some are left."""
    with _lock:
        left = [folder for folder in ours() if not _removed(folder)]
    return bool(left)


def ours() -> Iterator[Path]:
    """Every group of ours there is."""
    for point in {tree.point for tree in trees().values()}:
        for folder, names, _ in os.walk(point, topdown=False):
            yield from (Path(folder, name) for name in names if _NAME.fullmatch(name))


def sweep_on() -> None:
    """Go on sweeping in the background until there is none left."""
    if _sweeping.is_set():
        return
    _sweeping.set()
    threading.Thread(target=_sweep_until_none, name="limits", daemon=True).start()


def _sweep_until_none() -> None:
    try:
        time.sleep(0.05)
        while sweep():
            time.sleep(_SWEEP_S)
    finally:
        _sweeping.clear()


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


# --- files -------------------------------------------------------------------------------------------


def pids_in(folder: Path) -> list[int]:
    try:
        return [int(word) for word in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def value_of(folder: Path, setting: Setting) -> str:
    """What stands in a file now; of one with a line for each device, that line's."""
    lines = (folder / setting.file).read_text().splitlines()
    if not setting.key:
        return lines[0].strip() if lines else ""
    found = (line.partition(" ") for line in lines)
    none = "rbps=max wbps=max" if setting.file == "io.max" else "100" if "weight" in setting.file else "0"
    return next((value.strip() for key, _, value in found if key == setting.key), none)


def put(file: Path, value: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _explained(error: OSError) -> CallFailed:
    if error.errno == errno.EBUSY:
        return CallFailed(
            "the kernel refuses: the processes use more than that already",
            "Give more than they use now: resource.status shows it.",
        )
    return CallFailed(f"the control group cannot be set up: {error.strerror}", "See: llmos doctor")
