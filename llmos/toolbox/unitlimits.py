"""Limits of a systemd unit, and of processes that are put into one of their own: properties over D-Bus.

    a unit        SetUnitProperties, until the next boot or for good (systemd.resource-control(5))
    processes     StartTransientUnit: a scope around them, which systemd removes when they have ended. Where
                  systemd runs, control groups are its to write, so this goes before `groups`

Spoken with the caller's ids: systemd and polkit say what they may. A property that reads back as it was set
is what systemd promises; whether this kernel lets it be kept, resource.status shows by the group's own files.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llmos.cgroupfs import own_groups
from llmos.errors import CallFailed
from llmos.messages import Caller, Change, Changed, JsonObject, Message
from llmos.toolbox import groups, manager, scheduling
from llmos.toolbox.dbus import BusError
from llmos.toolbox.limits import Limits
from llmos.toolbox.manager import Manager

INFINITE = (1 << 64) - 1
TYPES: Mapping[str, str] = {
    "CPUQuotaPerSecUSec": "t", "CPUWeight": "t", "MemoryMax": "t", "MemoryHigh": "t", "TasksMax": "t",
    "IOWeight": "t", "IOReadBandwidthMax": "a(st)", "IOWriteBandwidthMax": "a(st)", "AllowedCPUs": "ay",
}  # fmt: skip
_MANY = "a(sv)"
_SCOPE = re.compile(rf"{groups.PREFIX}\d+\.\d+\.\d+\.scope")


class UnitStep(Message):
    """Which unit, and the properties to set, in systemd's own values."""

    unit: str
    scope: Literal["system", "user"]
    properties: dict[str, Any]
    persist: bool = False


def step(
    unit: str, scope: str, properties: Mapping[str, Any], shows: str, *, persist: bool = False
) -> Change:
    args = {"unit": unit, "scope": scope, "properties": dict(properties), "persist": persist}
    return Change(changer="resource.unit", args=args, shows=shows)


def change(args: JsonObject, caller: Caller) -> Changed:
    """Set the properties of a unit and read them back. Raises Denied, CallFailed."""
    wanted = UnitStep.model_validate(args)
    with manager.connect(wanted.scope, caller.uid) as link:
        before = _chosen(link.load(wanted.unit), wanted.properties)
        try:
            link.call(
                "SetUnitProperties", "sb" + _MANY, wanted.unit, not wanted.persist, _typed(wanted.properties)
            )
        except BusError as error:
            raise manager.explain(error, wanted.unit) from error
        found = _chosen(link.load(wanted.unit), wanted.properties)
    _check(wanted.unit, wanted.properties, found)
    how = "for good" if wanted.persist else "until the next boot"
    text = f"{wanted.unit}: set by systemd over D-Bus, {how}. Read back:\n" + _lines(found)
    shows = f"set {', '.join(before)} of {wanted.unit} as before"
    return Changed(
        text=text, reverse=(step(wanted.unit, wanted.scope, before, shows, persist=wanted.persist),)
    )


def release(unit: str, scope: Literal["system", "user"], caller: Caller) -> Changed:
    """No bound on anything that was bounded by SetUnitProperties; the way back sets each again."""
    with manager.connect(scope, caller.uid) as link:
        facts = link.load(unit)
    bounded = {name: _free(name) for name in TYPES if name in facts and _was_set(name, unit, facts)}
    if not bounded:
        raise CallFailed(
            f"{unit} has no limit but those of its own file",
            f"See: systemctl show {unit} -p MemoryMax,CPUQuota",
        )
    for_good = any(path.startswith("/etc/") for path in facts.get("DropInPaths") or ())
    args = {"unit": unit, "scope": scope, "properties": bounded, "persist": for_good}
    return change(args, caller)


def _free(name: str) -> Any:
    return INFINITE if TYPES[name] == "t" else []


def _was_set(name: str, unit: str, facts: Mapping[str, Any]) -> bool:
    """SetUnitProperties writes a file of its own for each property (its directive's name is in it)."""
    if facts[name] == _free(name):
        return False
    if unit.startswith(groups.PREFIX):
        return True
    directive = "CPUQuota" if name == "CPUQuotaPerSecUSec" else name
    return any(".control/" in path and path.endswith(f"-{directive}.conf") for path in facts["DropInPaths"])


def ours_of(pid: int) -> str:
    """The scope of ours that a process is in, or nothing."""
    try:
        found = own_groups(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError:
        return ""
    names = (path.rpartition("/")[2] for _, path in found)
    return next((name for name in names if _SCOPE.fullmatch(name)), "")


def limit(limits: Limits, pids: Sequence[int], caller: Caller, label: str) -> Changed:
    """Other limits for the scope that holds them all already, or a scope around them. Raises as those do."""
    units = {ours_of(pid) for pid in pids}
    if len(units) == 1 and (unit := units.pop()):
        which = _manager_of(caller)
        return change({"unit": unit, "scope": which, "properties": values(limits)}, caller)
    return scope_around(limits, pids, caller.uid, caller, label)


def _manager_of(caller: Caller) -> Literal["system", "user"]:
    return "user" if manager.has_manager(caller.uid) else "system"


def scope_around(limits: Limits, pids: Sequence[int], owner: int, caller: Caller, label: str) -> Changed:
    """Put processes into a scope with these limits. Raises Denied, CallFailed: then nothing has happened."""
    unit = f"{groups.PREFIX}{owner}.{pids[0]}.{scheduling.started_ticks(pids[0])}.scope"
    origins = {pid: _group(pid) for pid in pids}
    which = _manager_of(caller)
    properties = [("Description", ("s", f"llmos limits {label[:80]}")), ("PIDs", ("au", list(pids)))]
    with manager.connect(which, caller.uid) as link:
        try:
            link.call("StartTransientUnit", "ss" + _MANY + "a(sa(sv))", unit, "fail",
                      [*properties, *_typed(values(limits))], [])  # fmt: skip
        except BusError as error:
            raise manager.explain(error, unit) from error
        found = _settled(link, unit, limits)
    text = f"{label} is limited to {limits.told}, by systemd (scope {unit}). Read back:\n" + _lines(found)
    back = {"unit": unit, "scope": which, "origins": origins, "label": label, "limits": limits.model_dump()}
    leave = Change(changer="resource.leave", args=back, shows=f"take the limits of {label} off")
    return Changed(text=text, reverse=(leave,))


def _settled(link: Manager, unit: str, limits: Limits) -> dict[str, Any]:
    """The scope's properties once it is active."""
    deadline = time.monotonic() + 5
    while (facts := link.load(unit))["ActiveState"] != "active":
        if time.monotonic() > deadline or facts["ActiveState"] == "failed":
            raise CallFailed(f"{unit} does not start", f"See: systemctl status {unit}")
        time.sleep(0.02)
    found = _chosen(facts, values(limits))
    _check(unit, values(limits), found)
    return found


def leave(args: JsonObject, caller: Caller) -> Changed:
    """Everybody goes back to the group they came from, and systemd removes the empty scope; where only
    systemd may move them, the scope stays without limits until they end."""
    unit, label = str(args["unit"]), str(args["label"])
    with manager.connect(args["scope"], caller.uid) as link:
        if link.load(unit)["ActiveState"] != "active":
            return Changed(text=f"{label} has ended, and its limits with it.\n")
    moved = [_moved(int(pid), str(path), caller) for pid, path in args["origins"].items()]
    if all(moved):
        return Changed(text=f"{label} has no limit of llmos any more.\n")
    return release(unit, args["scope"], caller)


def _moved(pid: int, path: str, caller: Caller) -> bool:
    from llmos import rights

    points = {tree.point for tree in groups.trees().values() if tree.version == 2}
    try:
        with rights.acting_as(caller.uid):
            for point in points:
                groups.put(Path(f"{point}{path}/cgroup.procs"), str(pid))
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return bool(points)


def _group(pid: int) -> str:
    """Its group in version 2, where systemd keeps units."""
    try:
        return dict(own_groups(Path(f"/proc/{pid}/cgroup").read_text())).get("", "/")
    except OSError:
        return "/"


# --- values ----------------------------------------------------------------------------------------


def values(limits: Limits) -> dict[str, Any]:
    return {name: value for name, (_, value) in limits.properties.items()}


def _typed(properties: Mapping[str, Any]) -> list[tuple[str, tuple[str, Any]]]:
    """As D-Bus wants them; what came through JSON has lists where there were pairs."""
    found = []
    for name, value in properties.items():
        kind = TYPES[name]
        plain = int(value) if kind == "t" else bytes(value) if kind == "ay" else [tuple(row) for row in value]
        found.append((name, (TYPES[name], plain)))
    return found


def _chosen(facts: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    lacking = [name for name in names if name not in facts]
    if lacking:
        raise CallFailed(f"this systemd knows no {', '.join(lacking)}", "Leave that limit out.")
    return {name: facts[name] for name in names}


def _check(unit: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if not _is_same(TYPES[name], found[name], value):
            raise CallFailed(f"{name} of {unit} is {found[name]} after {value} was set", "Try again.")


def _is_same(kind: str, found: Any, wanted: Any) -> bool:
    """systemd writes sets of CPUs as long as it likes, and disks by other names."""
    if kind == "t":
        return int(found) == int(wanted)
    if kind == "ay":
        return bytes(found).rstrip(b"\0") == bytes(wanted).rstrip(b"\0")
    return len(found) == len(wanted)


def _lines(found: Mapping[str, Any]) -> str:
    return "".join(
        f"  {name}: {'infinity' if value == INFINITE else value}\n" for name, value in found.items()
    )


CHANGERS = {"resource.unit": change, "resource.leave": leave}
