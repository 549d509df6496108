"""Points in time as people write them: `yesterday`, `2 hours ago`, `10:30`, `2026-11-25 08:00`. Pure."""

from __future__ import annotations

import datetime
import re

_AGO = re.compile(
    r"-?\s*(\d{1,6})\s*(s|sec|secs|seconds?|m|min|mins|minutes?|h|hr|hrs|hours?|d|days?|w|weeks?|mon|months?|y|years?)"
    r"\s*(?:ago)?",
    re.IGNORECASE | re.ASCII,
)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "mon": 2592000, "y": 31536000}
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_DAYS = {"today": 0, "今天": 0, "midnight": 0, "yesterday": 1, "昨天": 1, "前天": 2}
EXAMPLES = "yesterday, 2 hours ago, 30m, 10:30 or 2026-11-25 08:00"


def moment(text: str, now: datetime.datetime) -> datetime.datetime:
    """The local time that is meant, seen from `now`. Raises ValueError saying what could be written."""
    said = " ".join(text.strip().casefold().split())
    if said in ("now", "现在"):
        return now
    if said in _DAYS:
        return _midnight(now) - datetime.timedelta(days=_DAYS[said])
    if found := _AGO.fullmatch(said):
        return _ago(int(found[1]), found[2], now)
    if found := _CLOCK.fullmatch(said):
        return _clock(found, now)
    try:
        return datetime.datetime.fromisoformat(said.replace("/", "-")).replace(tzinfo=None)
    except ValueError:
        raise ValueError(f"a time such as {EXAMPLES}") from None


def _midnight(now: datetime.datetime) -> datetime.datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _ago(count: int, unit: str, now: datetime.datetime) -> datetime.datetime:
    key = "mon" if unit.startswith("mon") else unit[0]
    try:
        return now - datetime.timedelta(seconds=count * _SECONDS[key])
    except OverflowError:
        raise ValueError(f"a time such as {EXAMPLES}") from None


def _clock(found: re.Match[str], now: datetime.datetime) -> datetime.datetime:
    """The last time the clock showed that: before now, if need be yesterday."""
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    then = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    return then if then <= now else then - datetime.timedelta(days=1)
