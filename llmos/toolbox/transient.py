"""One program as root, by the machine's service manager: a transient unit, waited for, its output kept.

For the few programs that must be root and belong to the system (its package manager). The broker starts no
program as root itself, and where its own unit is hardened it could not: systemd starts this one outside of
it. Only for a caller who is root. What it writes is one fixed argv; there is no shell.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmos import paths
from llmos.errors import CallFailed, Denied
from llmos.messages import new_id
from llmos.toolbox import manager
from llmos.toolbox.dbus import BusError
from llmos.toolbox.manager import Manager

_MAX_OUTPUT_BYTES = 1 << 20
_ENVIRONMENT = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND=noninteractive",
    "LC_ALL=C.UTF-8",
    "HOME=/root",
]


@dataclass(frozen=True, slots=True)
class Ended:
    exit_code: int
    output: str


def run(argv: Sequence[str], uid: int, *, timeout_s: float) -> Ended:
    """Run `argv` (its program by absolute path) to its end. Raises Denied, CallFailed."""
    if uid != 0 or os.geteuid() != 0:
        raise Denied(
            f"only root may run {Path(argv[0]).name} for the whole machine",
            "Make the request as root, to a daemon of root's: sudo llmos …",
        )
    with manager.connect("system", uid) as link, _output() as file:
        unit = f"llmos-{new_id()}.service"
        try:
            job = _start(link, unit, argv, file, timeout_s)
            code = _await(link, unit, job, time.monotonic() + timeout_s)
        except BusError as error:
            raise manager.explain(error, unit) from error
        finally:
            _forget(link, unit)
        with file.open("rb") as out:
            return Ended(code, out.read(_MAX_OUTPUT_BYTES).decode("utf-8", "replace"))


@contextlib.contextmanager
def _output() -> Iterator[Path]:
    fd, name = tempfile.mkstemp(prefix="output-", dir=paths.ensure_private(paths.state_dir()))
    os.close(fd)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _start(link: Manager, unit: str, argv: Sequence[str], file: Path, timeout_s: float) -> str:
    """The job that starts it. RemainAfterExit keeps a unit that has ended well until we have read how."""
    properties = [
        ("Description", ("s", f"llmos: {' '.join(argv)[:200]}")),
        ("Type", ("s", "oneshot")),
        ("RemainAfterExit", ("b", True)),
        ("Environment", ("as", _ENVIRONMENT)),
        ("StandardInput", ("s", "null")),
        ("StandardOutputFile", ("s", str(file))),
        ("StandardErrorFile", ("s", str(file))),
        ("TimeoutStartUSec", ("t", int(timeout_s * 1e6))),
        ("ExecStart", ("a(sasb)", [(argv[0], list(argv), False)])),
    ]
    return str(link.call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", properties, [])[0])


def _await(link: Manager, unit: str, job: str, deadline: float) -> int:
    """A unit whose job still waits is `inactive`, too: the job of a oneshot is over when its program is."""
    pause_s = 0.02
    while time.monotonic() < deadline:
        if not link.has_job(job):
            facts = link.load(unit)
            if facts["ExecMainCode"] == 1:  # CLD_EXITED
                return int(facts["ExecMainStatus"])
            raise CallFailed(f"it was ended: {facts['Result']}", f"See: journalctl -u {unit}")
        time.sleep(pause_s)
        pause_s = min(0.5, pause_s * 1.5)
    raise CallFailed("it did not end in time, and was stopped", f"See: journalctl -u {unit}")


def _forget(link: Manager, unit: str) -> None:
    for method, signature, args in (("StopUnit", "ss", (unit, "replace")), ("ResetFailedUnit", "s", (unit,))):
        with contextlib.suppress(BusError, CallFailed):
            link.call(method, signature, *args)
