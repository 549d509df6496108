"""`llmos doctor`: what this machine has of what llmos needs, and the command that mends what it has not.

It looks and tries (a sandbox is really started) but changes nothing and starts no daemon. A finding is
ok, warn (llmos works, something is missing or slower) or fail (the main job cannot run). The exit code
is 0 when the main job can run, 8 when the sandbox cannot be had, 5 otherwise.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from llmos import paths
from llmos.console import dial
from llmos.errors import LlmosError

State = Literal["ok", "warn", "fail"]

MIN_FREE_BYTES = 1 << 30
LIVE_CHECKS = ("sandbox", "canary", "ownership")
DOCKER_SOCKETS = (Path("/var/run/docker.sock"), Path("/run/podman/podman.sock"))


@dataclass(frozen=True)
class Finding:
    """`mend` is the command, or the sentence, that makes it ok; `sandbox`: a failure of it is exit 8."""

    name: str
    state: State
    detail: str
    mend: str = ""
    sandbox: bool = False


def examine() -> list[Finding]:
    """All findings, the ones that stop the main job included; raises nothing."""
    found: list[Finding] = []
    for check in (
        _programs,
        _settings,
        _disk,
        _sandbox,
        _model,
        _journal,
        _socket_folder,
        _daemon,
        _docker,
        _systemd,
    ):
        try:
            found.extend(check())
        except Exception as error:  # one broken check must not hide what the others found
            name = check.__name__.strip("_").replace("_", " ")
            found.append(Finding(name, "fail", f"{type(error).__name__}: {error}", "Please report this."))
    return found


def exit_code(found: Sequence[Finding]) -> int:
    failed = [finding for finding in found if finding.state == "fail"]
    if any(finding.sandbox for finding in failed):
        return 8
    return 5 if failed else 0


def as_json(found: Sequence[Finding]) -> dict[str, Any]:
    """One object: `ok`, and the findings in the order they were made."""
    return {"ok": exit_code(found) == 0, "checks": [asdict(finding) for finding in found]}


# --- the checks, each a generator of findings ------------------------------------------------------


def _programs() -> Iterator[Finding]:
    enough = sys.version_info >= (3, 11)
    yield Finding(
        "python", "ok" if enough else "fail", platform.python_version(), "Install Python 3.11 or later."
    )
    yield _package("torch")


def _package(name: str) -> Finding:
    """Installed or not, by its metadata: importing torch would take seconds."""
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "fail", "not installed", f"{sys.executable} -m pip install llmos")


def _settings() -> Iterator[Finding]:
    from llmos import config

    try:
        settings = config.load()
    except LlmosError as error:
        yield Finding("settings", "fail", str(error), error.next_step)
        return
    yield Finding("settings", "ok", f"policy {settings.policy}, model {settings.model.name}")


def _disk() -> Iterator[Finding]:
    for name, folder in (("disk for models", paths.models_dir()), ("disk for records", paths.state_dir())):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        state: State = "ok" if free >= MIN_FREE_BYTES else "warn"
        yield Finding(
            name, state, f"{free / 1e9:.1f} GB free in {existing}", f"Free some space in {existing}."
        )


def _sandbox() -> Iterator[Finding]:
    """What the guard finds. Where a command really ran as it must, the other findings are only hints."""
    from llmos.guard import probe

    found = probe.probe()
    works = all(any(check.name == name and check.ok for check in found) for name in LIVE_CHECKS)
    for check in found:
        state: State = "ok" if check.ok else "warn" if works else "fail"
        yield Finding(check.name, state, check.detail, check.mend, sandbox=True)


def _model() -> Iterator[Finding]:
    """The configured weights are here and are what they should be. Without them only `call` works."""
    from llmos.engine import store

    try:
        name = store.current()
        yield Finding("model", "ok", f"{name}: {store.resolve(name)}")
    except LlmosError as error:
        yield Finding("model", "fail", str(error), error.next_step.removeprefix("Run: "))


def _journal() -> Iterator[Finding]:
    """Whoever takes the machine over can rewrite the journal only while its verification key lies here."""
    from llmos.guard import audit_files

    path = paths.audit_file()
    if audit_files.key_file(path).exists():
        detail = f"{path}; its verification key still lies beside it"
        yield Finding(
            "journal", "warn", detail, "llmos audit key --move FILE  (on another machine or a stick)"
        )
    elif path.exists():
        yield Finding("journal", "ok", f"{path}; its verification key is elsewhere")
    else:
        yield Finding("journal", "ok", "nothing has been recorded yet")


def _socket_folder() -> Iterator[Finding]:
    path = paths.socket_path()
    folder = path.parent
    if len(os.fsencode(path)) > 107:  # sockaddr_un.sun_path, unix(7)
        yield Finding("socket", "fail", f"{path} is too long for a socket", "export LLMOS_SOCKET=/tmp/…")
    elif not folder.exists():
        yield Finding("socket", "ok", f"{folder} will be created, for you alone")
    elif folder.stat().st_uid not in (0, os.getuid()):
        yield Finding("socket", "fail", f"{folder} belongs to uid {folder.stat().st_uid}", f"rm -r {folder}")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("socket", "fail", f"{folder} is not writable", "export LLMOS_SOCKET=$HOME/llmos.sock")
    else:
        yield Finding("socket", "ok", str(path))


def _daemon() -> Iterator[Finding]:
    for path in paths.sockets():
        try:
            found = dial.connect(path, timeout_s=2.0)
        except LlmosError as error:
            yield Finding("daemon", "fail", str(error), error.next_step)
            return
        if found is not None:
            found.close()
            yield Finding("daemon", "ok", f"pid {found.hello.get('pid')} answers at {path}")
            return
    yield Finding("daemon", "ok", "not running; the first request starts it")


def _docker() -> Iterator[Finding]:
    """Only containers need it; llmos itself does not."""
    there = [path for path in DOCKER_SOCKETS if path.exists()]
    if not there:
        detail = "no Docker or Podman socket; requests about containers will not work"
        yield Finding("docker", "warn", detail, "Install docker.io, or: systemctl --user start podman.socket")
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2.0)
        try:
            sock.connect(str(there[0]))
        except OSError as error:
            mend = f"sudo usermod -aG docker {os.environ.get('USER', '$USER')}, then log in again"
            if not isinstance(error, PermissionError):  # nobody listens
                mend = "sudo systemctl start docker"
            yield Finding("docker", "warn", f"{there[0]}: {error.strerror or error}", mend)
            return
    yield Finding("docker", "ok", f"answers at {there[0]}")


def _systemd() -> Iterator[Finding]:
    """sd_booted(3): the folder exists exactly where systemd is the init system."""
    if Path("/run/systemd/system").is_dir():
        yield Finding("systemd", "ok", "it runs this machine")
    else:
        detail = "not the init system here; the daemon runs per user, started by the first request"
        yield Finding("systemd", "warn", detail, "Nothing to do, unless you want a system service.")
