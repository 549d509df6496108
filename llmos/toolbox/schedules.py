"""What cron will run: the machine's tables, and the caller's own. Read-only, standard library only.

Other people's tables are theirs (cron keeps them unreadable) and are not looked for.
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterator
from pathlib import Path

from llmos import rights
from llmos.toolbox.values import shown

_TABLES = (Path("/etc/crontab"), Path("/etc/cron.d"))
_SPOOLS = (Path("/var/spool/cron/crontabs"), Path("/var/spool/cron"))
_NAMED = re.compile(r"@(reboot|yearly|annually|monthly|weekly|daily|midnight|hourly)", re.ASCII)
_SETTING = re.compile(r"\w+\s*=")
_PERIODS = ("hourly", "daily", "weekly", "monthly")

Job = tuple[str, str, str, str]  # when, user, command, where it stands


def cron_jobs(uid: int) -> list[Job]:
    """All jobs the caller may see."""
    with rights.acting_as(uid):
        return [*_system(), *_own(uid), *_periodic()]


def _system() -> Iterator[Job]:
    for place in _TABLES:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        for file in files:
            if not file.name.startswith(".") and not file.name.endswith("~"):
                yield from (job(line, str(file), "") for line in _lines(file))


def _own(uid: int) -> Iterator[Job]:
    """With crontab(5)'s form of five fields: the user is whose table it is."""
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        return
    for file in (spool / user for spool in _SPOOLS):
        yield from (job(line, "crontab -l", user) for line in _lines(file))


def _periodic() -> Iterator[Job]:
    """Scripts that run-parts starts."""
    for period in _PERIODS:
        folder = Path(f"/etc/cron.{period}")
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if re.fullmatch(r"[A-Za-z0-9_-]+", file.name):  # run-parts(8) starts no others
                yield f"@{period}", "root", str(file), str(folder)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and line[0] != "#" and not _SETTING.match(line)]


def job(line: str, where: str, user: str) -> Job:
    """Split a table's line: when, the user unless it is known, the command."""
    fields = 1 if _NAMED.match(line) else 5
    words = line.split(None, fields if user else fields + 1)
    when = " ".join(words[:fields])
    owner = user or (words[fields] if len(words) > fields else "?")
    command = words[-1] if len(words) > fields + (0 if user else 1) else ""
    return when, owner, shown(command)[:100], where
