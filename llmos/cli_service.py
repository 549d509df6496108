"""The verbs about the service itself: status, tools, history, policy, audit, model, daemon, doctor.

Short questions to the daemon, shown as tables or printed as the JSON the daemon gave.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmos import paths
from llmos.cli_requests import connected, error_result, print_json
from llmos.console import dial, listings, screen
from llmos.console.client import Client
from llmos.errors import DaemonUnreachable, LlmosError, UsageError

JsonObject = dict[str, Any]

STOP_TIMEOUT_S = 10.0


def _show(text: str) -> None:
    screen.write(sys.stdout, text)


def _ask_daemon(method: str, params: JsonObject | None = None, *, start: bool = True) -> JsonObject:
    with connected(start=start) as daemon:
        return daemon.call(method, params, timeout_s=30.0)


def status(options: argparse.Namespace) -> int:
    """What the running daemon says of itself; it is not started for that (exit 7 when none runs)."""
    try:
        found = _ask_daemon("status", start=False)
    except LlmosError as error:
        if not options.json:
            raise
        print_json({"status": "failed", "answer": error_result(error)["answer"]})
        return error.exit_code
    if options.json:
        print_json(found)
    else:
        _show(listings.status(found, screen.look_of(sys.stdout)))
    return 0


def tools(options: argparse.Namespace) -> int:
    found = _ask_daemon("tools")
    specs: list[JsonObject] = found.get("tools") or found.get("value") or []
    if options.name:
        specs = [spec for spec in specs if spec.get("name") == options.name]
        if not specs:
            import difflib

            names = [str(spec.get("name")) for spec in found.get("tools") or ()]
            near = difflib.get_close_matches(options.name, names, 1)
            step = f"Did you mean {near[0]}?" if near else "See: llmos tools"
            raise UsageError(f"there is no tool {options.name!r}", step)
    if options.json:
        print_json(specs[0] if options.name else {"tools": specs})
    elif options.name:
        _show(listings.tool(specs[0]))
    else:
        _show(listings.tools(specs, screen.width(sys.stdout)))
    return 0


def history(options: argparse.Namespace) -> int:
    found = _ask_daemon("history", {"limit": options.n})
    if options.json:
        print_json(found)
    else:
        _show(listings.history(found, screen.look_of(sys.stdout), screen.width(sys.stdout)))
    return 0


def model(options: argparse.Namespace) -> int:
    from llmos import model_cli

    return model_cli.run(options.words)


# --- policy and audit ----------------------------------------------------------------------------


def policy(options: argparse.Namespace) -> int:
    from llmos import cli_rules

    return cli_rules.ACTIONS[options.action](options)


def audit(options: argparse.Namespace) -> int:
    from llmos import cli_audit

    return cli_audit.run(options)


# --- daemon and doctor ---------------------------------------------------------------------------


def daemon(options: argparse.Namespace) -> int:
    """Serve in the foreground until a signal, or stop the one that runs, or have it read its files anew."""
    if options.action:
        act = stop_daemon if options.action == "stop" else reload_daemon
        return act(Path(options.socket) if options.socket else None)
    from llmos.daemon import lean

    if options.launcher:
        _become_launcher()
    if options.planner:
        return _be_planner()
    lean.leave_out()
    from llmos.daemon import server

    return server.run(Path(options.socket).absolute() if options.socket else None)


def _become_launcher() -> None:
    """The service manager has started us for a daemon's connection (sd_listen_fds(3))."""
    from llmos.daemon import systemd
    from llmos.guard import identity, launcher

    launcher.become(_given(systemd.listening_socket()).detach(), identity.stand_in_id())


def _be_planner() -> int:
    from llmos.daemon import planner_unit, systemd
    from llmos.planner import worker

    sock = _given(systemd.listening_socket())
    settings = planner_unit.introduce(sock)
    return worker.main(["--fd", str(sock.detach()), "--settings", settings])


def _given(sock: socket.socket | None) -> socket.socket:
    if sock is None:
        raise UsageError("that is started by its socket's unit alone", "See: llmos service status")
    return sock


def stop_daemon(path: Path | None) -> int:
    """End the daemon by a signal to the process that greeted us, and wait until it is gone."""
    if pid := _running(path):
        _signal(pid, signal.SIGTERM, "stop llmosd.socket llmosd", wait=True)
        screen.say(f"stopped the llmos daemon (pid {pid})")
    return 0


def reload_daemon(path: Path | None) -> int:
    """Have the running daemon read settings, tools and policies anew, as `systemctl reload` has it."""
    if pid := _running(path):
        _signal(pid, signal.SIGHUP, "reload llmosd", wait=False)
        screen.say(f"the llmos daemon (pid {pid}) reads its files anew; what is wrong with one: llmos status")
    return 0


def _running(path: Path | None) -> int:
    """The process of the daemon that greets us, or 0, and it is said that none does."""
    where = (path,) if path else paths.sockets()
    found = next((daemon for daemon in map(_answering, where) if daemon is not None), None)
    if found is None:
        screen.say("no daemon is running")
        return 0
    pid = int(found.hello.get("pid") or 0)
    found.close()
    if pid <= 1:
        raise DaemonUnreachable("the daemon did not say which process it is", "Stop it by hand: ps -C llmos")
    return pid


def _answering(path: Path) -> Client | None:
    """The daemon there, or None; the system's, which is not everybody's to speak with, is passed over."""
    try:
        return dial.connect(path)
    except DaemonUnreachable:
        if path != paths.SYSTEM_SOCKET:
            raise
        return None


def _signal(pid: int, number: signal.Signals, instead: str, *, wait: bool) -> None:
    """Through a pidfd, so that no other process can be hit should the pid be reused."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        if wait and not select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise DaemonUnreachable(
                f"the daemon (pid {pid}) did not stop within {STOP_TIMEOUT_S:g} s", f"Run: kill -9 {pid}"
            )
    except PermissionError as error:
        raise DaemonUnreachable(
            f"the daemon (pid {pid}) is not yours", f"Run: sudo systemctl {instead}"
        ) from error
    finally:
        os.close(pidfd)


def doctor(options: argparse.Namespace) -> int:
    from llmos import cli_doctor as checks

    found = checks.examine()
    if options.json:
        print_json(checks.as_json(found))
    else:
        _show(listings.checks([vars(check) for check in found], screen.look_of(sys.stdout)))
    return checks.exit_code(found)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "policy": policy,
    "history": history,
    "audit": audit,
    "tools": tools,
    "model": model,
    "status": status,
    "doctor": doctor,
    "daemon": daemon,
}
