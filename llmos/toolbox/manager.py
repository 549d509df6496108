"""A conversation with a systemd manager: its units, their properties, its jobs.

Two managers matter: the machine's and the caller's own (`--user`). Root speaks to the machine's over its
private socket, as systemctl does, which needs no bus daemon; everybody else over the system bus, where
systemd asks polkit about *them*. Reference: org.freedesktop.systemd1(5). Nothing here decides whether
something may be done.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmos.errors import CallFailed, Denied, LlmosError, UsageError
from llmos.messages import JsonObject
from llmos.toolbox import dbus
from llmos.toolbox.dbus import BusError, Link

Scope = Literal["system", "user"]

JOB_TIMEOUT_S = 100.0  # systemd's own limit for a start is 90 s
_PRIVATE = "/run/systemd/private"
_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_LOGIN = "org.freedesktop.login1"
_SUFFIXES = ("service", "socket", "timer", "target", "mount", "automount", "path", "slice", "scope", "swap",
             "device")  # fmt: skip
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}")


@dataclass(frozen=True, slots=True)
class Unit:
    """One line of ListUnits: how it stands now. `path` is its D-Bus object."""

    name: str
    description: str
    load: str
    active: str
    sub: str
    path: str


def unit_name(text: str) -> str:
    """`nginx` is nginx.service; a name with a known ending stays. Raises UsageError for what is no name."""
    name = text.strip()
    if not _UNIT.fullmatch(name) or name.startswith("-"):
        raise UsageError(
            f"{text[:80]!r} is not the name of a unit", "Names are like `nginx` or `backup.timer`."
        )
    return name if "." in name and name.rpartition(".")[2] in _SUFFIXES else f"{name}.service"


@dataclass(frozen=True, slots=True)
class Manager:
    """Use `connect`."""

    link: Link

    def call(self, member: str, signature: str = "", *args: Any) -> tuple[Any, ...]:
        """A method of the manager itself. Raises BusError, CallFailed."""
        return self.link.call(_NAME, _PATH, f"{_NAME}.Manager", member, signature, *args)

    def units(self) -> list[Unit]:
        """All units that are loaded."""
        return [
            Unit(name, description, load, active, sub, path)
            for name, description, load, active, sub, _, path, *_ in self.call("ListUnits")[0]
        ]

    def unit_files(self) -> dict[str, str]:
        """Names of installed units and whether they are enabled."""
        return {Path(file).name: state for file, state in self.call("ListUnitFiles")[0]}

    def properties(self, path: str, kind: str = "Unit") -> dict[str, Any]:
        return self.link.properties(_NAME, path, f"{_NAME}.{kind}")

    def is_loaded(self, name: str) -> bool:
        return any(unit.name == name for unit in self.units())

    def wait(self, job: str, name: str) -> dict[str, Any]:
        """Wait until a job is done; how its unit stands then. Raises CallFailed after JOB_TIMEOUT_S."""
        self.wait_gone(job, name)
        return self.load(name)

    def wait_gone(self, job: str, name: str = "it") -> None:
        """Wait until a job is done, also one whose unit goes with it. Raises CallFailed."""
        deadline, pause_s = time.monotonic() + JOB_TIMEOUT_S, 0.01
        while self.has_job(job):
            if time.monotonic() > deadline:
                raise CallFailed(
                    f"{name} is not done after {JOB_TIMEOUT_S:.0f} s; systemd goes on with it",
                    f"See how it goes: systemctl status {name}",
                )
            time.sleep(pause_s)
            pause_s = min(0.2, pause_s * 1.5)

    def has_job(self, path: str) -> bool:
        """Whether this job is still waiting or running: its object goes with it."""
        try:
            self.link.properties(_NAME, path, f"{_NAME}.Job")
        except BusError:
            return False
        return True

    def load(self, name: str) -> dict[str, Any]:
        """A unit's properties, those of its kind among them; raises UsageError naming the nearest units."""
        try:
            path = str(self.call("LoadUnit", "s", name)[0])
            found = self.properties(path)
        except BusError as error:
            raise explain(error, name) from error
        if found["LoadState"] == "not-found":
            raise self.unknown(name)
        kind = name.rpartition(".")[2].capitalize()
        if kind != "Target":  # it has no properties of its own
            found |= self.properties(path, kind)
        return found

    def unknown(self, name: str) -> UsageError:
        """That there is no such unit, and which there are."""
        known = {unit.name for unit in self.units() if unit.load != "not-found"} | set(self.unit_files())
        close = nearest(name, sorted(known))
        step = "Did you mean: " + ", ".join(close) + "?" if close else "See them: systemctl list-unit-files"
        return UsageError(f"there is no unit {name}", step)


def nearest(name: str, known: list[str]) -> list[str]:
    """Units whose name contains this one, or is spelt nearly like it."""
    stem, _, kind = name.rpartition(".")
    same = [unit for unit in known if unit.endswith("." + kind)]
    within = [unit for unit in same if stem.casefold() in unit.casefold()]
    stems = {unit.rpartition(".")[0]: unit for unit in same}
    close = [stems[word] for word in difflib.get_close_matches(stem, stems, 4, 0.6)]
    return list(dict.fromkeys(within[:4] + close))[:4]


# --- connecting --------------------------------------------------------------------------------


def is_running() -> bool:
    """Whether this machine is run by systemd (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def has_manager(uid: int) -> bool:
    """Whether this user's own manager runs. Root's units are the machine's."""
    return uid != 0 and os.path.exists(_private_of(uid))  # noqa: PTH110 - Path raises without permission


def _private_of(uid: int) -> str:
    return f"/run/user/{uid}/systemd/private"


@contextmanager
def connect(scope: Scope, uid: int) -> Iterator[Manager]:
    """Speak with the machine's manager, or with that of `uid`. Raises CallFailed where there is none."""
    if not is_running():
        first = Path("/proc/1/comm").read_text(errors="replace").strip()
        raise CallFailed(
            f"this machine is not run by systemd (process 1 is {first}), so it has no units",
            "See what runs: llmos call process.list",
        )
    if scope == "system" and uid != 0:
        with dbus.system_bus(uid) as link:
            yield Manager(link)
    else:
        with dbus.peer(_PRIVATE if scope == "system" else _private_of(uid), uid) as link:
            yield Manager(link)


def scope_of(name: str, uid: int) -> Scope:
    """Whose unit a name means: the machine's, or else the caller's own if only they have it.

    Raises UsageError naming the nearest units, CallFailed without systemd.
    """
    with connect("system", uid) as manager:
        try:
            manager.load(name)
            return "system"
        except UsageError as missing:
            if not has_manager(uid):
                raise
            unknown = missing
    with connect("user", uid) as own:
        try:
            own.load(name)
        except UsageError:
            raise unknown from None
    return "user"


def sessions(uid: int) -> list[JsonObject]:
    """Properties of logind's sessions. Raises CallFailed where it does not run."""
    with dbus.system_bus(uid) as link:
        try:
            found = link.call(_LOGIN, "/org/freedesktop/login1", f"{_LOGIN}.Manager", "ListSessions")[0]
            return [link.properties(_LOGIN, path, f"{_LOGIN}.Session") for *_, path in found]
        except BusError as error:
            raise CallFailed(f"logind does not answer: {error}", "See: loginctl list-sessions") from error


# --- errors --------------------------------------------------------------------------------------


def explain(error: BusError, name: str) -> LlmosError:
    """A manager's refusal in words a person can act on."""
    text = str(error).rstrip(".")
    if error.kind in ("AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed"):
        return Denied(
            f"you may not change {name}: {text}",
            "Ask an administrator, or make the request as root: sudo llmos …",
        )
    step = _NEXT.get(error.kind, "See: systemctl status {name}")
    return CallFailed(f"{name}: {text}", step.format(name=name))


_NEXT = {
    "NoSuchUnit": "See what there is: systemctl list-unit-files",
    "UnitMasked": "It was masked so that nothing starts it: systemctl unmask {name}",
    "OnlyByDependency": "It is started by others only: systemctl list-dependencies --reverse {name}",
    "TransactionIsDestructive": "The machine goes down, or another job is in the way: systemctl list-jobs",
    "LoadFailed": "Its file is wrong: systemd-analyze verify {name}",
    "BadUnitSetting": "Its file is wrong: systemd-analyze verify {name}",
    "JobTypeNotApplicable": "That kind of unit cannot do this: systemctl status {name}",
}
