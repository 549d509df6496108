"""systemd's timers for schedules: the unit files, and the few commands that put them in force.

The only programs started are systemctl and systemd-analyze, by fixed paths and with argument lists of our
own. A schedule's service only tells the daemon to make the request (`llmos schedule run ID`); what it does
is the daemon's to judge. Where no systemd runs, that is said: there is no cron of our own behind it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from llmos.errors import CallFailed, UsageError

PREFIX = "llmos-schedule-"
TIMEOUT_S = 30.0
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/run/current-system/sw/bin"
# What the command that the timer starts needs to find its daemon.
_KEPT = ("LLMOS_SOCKET", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "LLMOS_MODELS_DIR")


@dataclass(frozen=True, slots=True)
class Manager:
    """root's schedules are the system's, everybody else's their own user manager's."""

    user: bool

    @property
    def folder(self) -> Path:
        if not self.user:
            return Path("/etc/systemd/system")
        base = os.environ.get("XDG_CONFIG_HOME", "")
        return (Path(base) if base.startswith("/") else Path.home() / ".config") / "systemd/user"

    def systemctl(self, *words: str) -> str:
        """Raises CallFailed with systemctl's own words."""
        return _run("systemctl", *(["--user"] if self.user else []), *words)


def manager() -> Manager:
    """The service manager of this person. Raises CallFailed where none runs."""
    if not Path("/run/systemd/system").is_dir():
        raise CallFailed(
            "schedules are systemd timers, and systemd does not run on this machine",
            "Run a script from what starts things here (cron, a CI): llmos run FILE",
        )
    found = Manager(user=os.geteuid() != 0)
    if found.user and not Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "systemd").is_dir():
        raise CallFailed(
            "your systemd user manager cannot be reached",
            "Log in on the machine itself, or: loginctl enable-linger",
        )
    return found


def checked_calendar(said: str, expression: str | None) -> tuple[str, str]:
    """(normalised expression, when it comes next), by systemd-analyze. Raises UsageError."""
    try:
        told = _run("systemd-analyze", "calendar", "--", expression or said)
    except CallFailed as error:
        step = 'As in: "every weekday at 2 am", "every 15 minutes", or as systemd has it: "Mon *-*-* 04:00"'
        raise UsageError(f"{said!r} is no time that is understood", step) from error
    lines = dict(line.strip().split(": ", 1) for line in told.splitlines() if ": " in line)
    return lines.get("Normalized form", expression or said), lines.get("Next elapse", "never")


def units(trigger_id: str, calendar: str, said: str) -> dict[str, str]:
    """The unit files of one schedule, by name."""
    words = (sys.executable, "-I", "-m", "llmos", "schedule", "run", trigger_id)
    command = " ".join(_quoted(word) for word in words)
    kept = "".join(
        f"Environment={_quoted(f'{name}={os.environ[name]}')}\n" for name in _KEPT if os.environ.get(name)
    )
    about = " ".join(said.split()).replace("%", "%%")[:200]
    return {
        f"{PREFIX}{trigger_id}.service": (
            f"# Written by `llmos schedule`; taken away by `llmos schedule remove {trigger_id}`.\n"
            f"[Unit]\nDescription=llmos: {about}\n\n"
            f"[Service]\nType=oneshot\nExecStart={command}\n{kept}"
            "# 4: it waits in the inbox for a person, which is no failure.\nSuccessExitStatus=4\n"
            "TimeoutStartSec=1h\nNoNewPrivileges=yes\n"
        ),
        f"{PREFIX}{trigger_id}.timer": (
            f"[Unit]\nDescription=llmos: when to {about}\n\n"
            f"[Timer]\nOnCalendar={calendar}\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
        ),
    }


def _quoted(word: str) -> str:
    """As one word of ExecStart= and Environment= (systemd.service(5), "Command lines")."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"'


def install(found: Manager, trigger_id: str, calendar: str, said: str) -> None:
    """Write the units and start the timer; takes back what it wrote where that fails."""
    try:
        found.folder.mkdir(parents=True, exist_ok=True)
        for name, text in units(trigger_id, calendar, said).items():
            (found.folder / name).write_text(text, encoding="utf-8")
        found.systemctl("daemon-reload")
        found.systemctl("enable", "--now", f"{PREFIX}{trigger_id}.timer")
    except OSError as error:
        uninstall(found, trigger_id)
        raise CallFailed(f"{error.filename}: {error.strerror}", "Make that folder writable.") from error
    except CallFailed:
        uninstall(found, trigger_id)
        raise


def uninstall(found: Manager, trigger_id: str) -> None:
    """Stop the timer and take its units away; says nothing of what is gone already."""
    timer = f"{PREFIX}{trigger_id}.timer"
    if (found.folder / timer).exists():
        try:
            found.systemctl("disable", "--now", timer)
        except CallFailed:
            pass  # it was never started
    for name in units(trigger_id, "", ""):
        (found.folder / name).unlink(missing_ok=True)
    found.systemctl("daemon-reload")


def pause(found: Manager, trigger_id: str, *, paused: bool) -> None:
    found.systemctl("disable" if paused else "enable", "--now", f"{PREFIX}{trigger_id}.timer")


def _run(program: str, *words: str) -> str:
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise CallFailed(f"there is no {program} on this machine", "Schedules need systemd.")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    try:
        done = subprocess.run(
            [path, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CallFailed(
            f"{program} did not answer within {TIMEOUT_S:g} s", "See: systemctl status"
        ) from error
    if done.returncode:
        raise CallFailed(
            f"{program} {words[0]}: {done.stderr.strip() or done.returncode}", "See: systemctl status"
        )
    return done.stdout
