"""`llmos service`: install, uninstall and show the units of systemd, for the machine or for one person.

What is to be done is worked out first, shown, and asked about; doing it again does nothing. Files are ours
(`cli_unit_files`), everything else is said to the service manager over D-Bus, as root or as the person who
asks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos import cli_unit_files as files
from llmos import paths
from llmos.cli_requests import guarded, print_json
from llmos.cli_unit_files import UnitFile
from llmos.console import dial, screen
from llmos.errors import CallFailed, LlmosError, NeedsApproval, UsageError
from llmos.toolbox import manager, transient
from llmos.toolbox.dbus import BusError
from llmos.toolbox.manager import Manager, Scope

SERVICE, SOCKET = "llmosd.service", "llmosd.socket"
PARTS = ("llmosd-launcher.socket", "llmosd-planner.socket")
SLICE = "llmos.slice"
_HELPER_TIMEOUT_S = 60.0
JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to be done: the line that tells it, and how."""

    line: str
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Target:
    """Whose service manager, and which files are its."""

    scope: Scope
    uid: int
    files: tuple[UnitFile, ...]

    @contextmanager
    def manager(self) -> Iterator[Manager]:
        with manager.connect(self.scope, self.uid) as link:
            try:
                yield link
            except BusError as error:
                raise manager.explain(error, SERVICE) from error


def service(options: argparse.Namespace) -> int:
    return guarded(options, lambda: _ACTIONS[options.action](options, _target(options)))


def _target(options: argparse.Namespace) -> Target:
    uid = os.geteuid()
    if options.user and uid == 0:
        raise UsageError("root's own service is the machine's", "Leave --user out, or run it as that user.")
    if not options.user:
        return Target("system", uid, files.system_files())
    return Target("user", uid, files.user_files())


# --- install -------------------------------------------------------------------------------------


def install(options: argparse.Namespace, target: Target) -> int:
    _check_rights(target)
    return _carry_out(options, list(_to_install(target)), "It is installed already, as this version has it.")


def _to_install(target: Target) -> Iterator[Action]:
    changed = [file for file in target.files if file.state != "same"]
    for file in changed:
        verb = "write" if file.state == "missing" else "replace"
        yield Action(f"{verb} {file.place}", lambda file=file: files.place(file))  # type: ignore[misc]
    if target.scope == "system" and (changed or not _group_exists()):
        yield _helper("systemd-sysusers", "llmos.conf", "make the group llmos")
        yield _helper("systemd-tmpfiles", "--create llmos.conf", "make its folders")
    with target.manager() as link:
        states = _states(link, target)
    if changed:
        yield Action("have systemd read its units anew", lambda: _reload(target))
    sockets = _sockets(target)
    if changed or any(states[name][1] != "enabled" for name in sockets):
        yield Action(f"enable {' and '.join(sockets)}", lambda: _enable(target, sockets))
    for name in sockets:
        if states[name][0] != "active":
            yield Action(f"start {name}", lambda name=name: _job(target, "StartUnit", name))  # type: ignore[misc]
    if changed and states[SERVICE][0] == "active":
        yield Action(f"restart {SERVICE}", lambda: _job(target, "RestartUnit", SERVICE))


def _check_rights(target: Target) -> None:
    if not manager.is_running():
        raise CallFailed(
            "this machine is not run by systemd",
            "Nothing is needed: the first request starts a daemon of yours. Or run: llmos daemon",
        )
    if target.scope == "system" and target.uid != 0:
        raise UsageError("only root installs a service for all", "Run: sudo llmos service …, or add --user")
    if target.scope == "user" and not manager.has_manager(target.uid):
        raise CallFailed("your own service manager does not run", "Log in anew, or: loginctl enable-linger")


def _helper(program: str, words: str, line: str) -> Action:
    def do() -> None:
        path = shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if path is None:
            raise CallFailed(f"{program} is missing", "Install systemd's own package whole.")
        ended = transient.run([path, *words.split()], os.geteuid(), timeout_s=_HELPER_TIMEOUT_S)
        if ended.exit_code not in (0, 65, 73):  # tmpfiles(8): lines of other packages were wrong
            raise CallFailed(f"{program} failed: {ended.output.strip()[-300:]}", f"Run: {program} {words}")

    return Action(f"{line} ({program} {words})", do)


def _group_exists() -> bool:
    import grp

    return any(group.gr_name == "llmos" for group in grp.getgrall())


def _sockets(target: Target) -> tuple[str, ...]:
    return (SOCKET, *PARTS) if target.scope == "system" else (SOCKET,)


def _states(link: Manager, target: Target) -> dict[str, tuple[str, str]]:
    """By unit: how it stands, and whether it is started at boot."""
    found = {}
    for name in (SERVICE, *_sockets(target)):
        try:
            facts = link.load(name)
        except LlmosError:
            found[name] = ("missing", "")
        else:
            found[name] = (facts["ActiveState"], facts.get("UnitFileState", ""))
    return found


def _reload(target: Target) -> None:
    with target.manager() as link:
        link.call("Reload")


def _enable(target: Target, names: tuple[str, ...]) -> None:
    with target.manager() as link:
        link.call("EnableUnitFiles", "asbb", list(names), False, True)
        link.call("Reload")


def _job(target: Target, method: str, name: str) -> None:
    with target.manager() as link:
        state = link.wait(link.call(method, "ss", name, "replace")[0], name)
    if method != "StopUnit" and state["ActiveState"] != "active":
        raise CallFailed(f"{name} did not start: {state.get('Result')}", f"See: journalctl -u {name}")


# --- uninstall -----------------------------------------------------------------------------------


def uninstall(options: argparse.Namespace, target: Target) -> int:
    _check_rights(target)
    code = _carry_out(options, list(_to_uninstall(target)), "It is not installed.")
    if code == 0 and target.scope == "system" and not options.json and not options.plan:
        screen.say("/var/lib/llmos (journal, undo), /var/cache/llmos and the group llmos are left.")
    return code


def _to_uninstall(target: Target) -> Iterator[Action]:
    present = [file for file in target.files if file.state != "missing"]
    sockets = _sockets(target)
    with target.manager() as link:
        states = _states(link, target)
    for name in (*sockets, SERVICE):  # sockets first: a client would start it again
        if states[name][0] not in ("missing", "inactive", "failed"):
            yield Action(f"stop {name}", lambda name=name: _job(target, "StopUnit", name))  # type: ignore[misc]
    if any(states[name][1] == "enabled" for name in sockets):
        yield Action(f"disable {' and '.join(sockets)}", lambda: _disable(target, sockets))
    for file in present:
        yield Action(f"remove {file.place}", lambda file=file: files.remove(file))  # type: ignore[misc]
    if present:
        yield Action("have systemd read its units anew", lambda: _reload(target))
    if present and target.scope == "system":
        yield Action(
            f"stop {SLICE}, unless something that was started runs on in it", lambda: _end_slice(target)
        )


def _end_slice(target: Target) -> None:
    """What somebody started to stay is not ours to end."""
    with target.manager() as link:
        if link.is_loaded(SLICE) and not link.call("GetUnitProcesses", "s", SLICE)[0]:
            link.wait_gone(link.call("StopUnit", "ss", SLICE, "replace")[0])


def _disable(target: Target, names: tuple[str, ...]) -> None:
    with target.manager() as link:
        link.call("DisableUnitFiles", "asb", list(names), False)


# --- carrying out --------------------------------------------------------------------------------


def _carry_out(options: argparse.Namespace, actions: list[Action], nothing: str) -> int:
    """Show, ask, do one after the other. Raises NeedsApproval, and what an action raises."""
    lines = [action.line for action in actions]
    if not options.json:
        screen.say("\n".join(f"  {line}" for line in lines) or nothing)
    if actions and not options.plan:
        _consent(options)
        for action in actions:
            action.do()
    if options.json:
        print_json({"status": "planned" if options.plan else "done", "actions": lines})
    elif actions and not options.plan:
        screen.say("done")
    return 0


def _consent(options: argparse.Namespace) -> None:
    if options.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NeedsApproval("nobody is here to say yes to that", "Add --yes, or run it at a terminal.")
    sys.stderr.write("Do that? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise NeedsApproval("nothing was done", "Run it again when you are sure.")


# --- status --------------------------------------------------------------------------------------


def status(options: argparse.Namespace, target: Target) -> int:
    """Whether it is installed, as this version has it, and how it stands. Exit 7 when it does not answer."""
    found = _facts(target)
    if options.json:
        print_json(found)
    else:
        screen.write(sys.stdout, "".join(f"{name:<12} {value}\n" for name, value in found.items()))
    return 0 if found["answers"] == "yes" or found["installed"] == "no" else 7


def _facts(target: Target) -> JsonObject:
    states = {file.state for file in target.files}
    installed = "no" if states == {"missing"} else "yes" if states == {"same"} else "other version"
    found: JsonObject = {"installed": installed}
    if manager.is_running():
        with target.manager() as link:
            found |= {name: " ".join(filter(None, state)) for name, state in _states(link, target).items()}
            if found[SERVICE].startswith("active"):
                facts = link.load(SERVICE)
                found |= {"pid": facts["MainPID"], "says": facts.get("StatusText", "")}
    path = paths.SYSTEM_SOCKET if target.scope == "system" else _own_socket()
    return found | {"socket": str(path), "answers": _answers(path)}


def _own_socket() -> Path:
    return Path(f"/run/user/{os.geteuid()}/llmos.sock")


def _answers(path: Path) -> str:
    """Asking starts it, where the socket listens and it does not run yet."""
    try:
        found = dial.connect(path)
    except LlmosError as error:
        return str(error)
    if found is None:
        return "no"
    found.close()
    return "yes"


_ACTIONS = {"install": install, "uninstall": uninstall, "status": status}
VERBS = {"service": service}
