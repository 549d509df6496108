"""Reads the systemd journal through libsystemd's own reader (sd-journal(3)), with the caller's file rights.

The library reads every format its journald writes, and volatile journals in /run, which a sandboxed
journalctl would not see. What a caller may not read is not opened, so it is neither shown nor counted. Lines
are data: their control characters are made visible.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmos import rights
from llmos.errors import CallFailed, Denied
from llmos.toolbox.values import shown

PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_LOCAL_ONLY = 1  # SD_JOURNAL_LOCAL_ONLY
_FOLDERS = ("/var/log/journal", "/run/log/journal")
_MAX_MESSAGE_CHARS = 2000
_MOST_COUNTED = 20_000  # entries: some tenths of a second


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: the newest `lines` of them. Times are seconds since the epoch."""

    unit: str = ""
    own_manager: bool = False  # a unit of the caller's own manager
    since: float = 0.0
    until: float = 0.0  # 0: no end
    priority: int = 7
    lines: int = 50


def read(wanted: Wanted, uid: int) -> list[str]:
    """The entries as lines, oldest first. Raises CallFailed without a journal, Denied when none is
    readable."""
    with rights.acting_as(uid):
        _check_readable()
        with _opened() as journal:
            _match(journal, wanted, uid)
            return list(reversed(list(_backwards(journal, wanted))))


Counts = dict[tuple[str, str], tuple[str, int]]  # unit and whose: its last message, and how many


def errors_by_unit(begin: float, middle: float, uid: int) -> tuple[Counts, Counts]:
    """Entries of err and worse by unit, from `begin` to `middle` and since. Raises as `read` does."""
    before: Counts = {}
    since: Counts = {}
    wanted = Wanted(since=begin, priority=PRIORITIES.index("err"), lines=_MOST_COUNTED)
    with rights.acting_as(uid):
        _check_readable()
        with _opened() as journal:
            _match(journal, wanted, uid)
            for when in _each_backwards(journal, wanted):
                unit = _field(journal, "_SYSTEMD_UNIT") or "kernel"
                own = _field(journal, "_SYSTEMD_USER_UNIT")
                counts = since if when >= middle else before
                key = (own, "user") if own else (unit, "system")
                last, number = counts.get(key) or (_message(journal), 0)
                counts[key] = last, number + 1
    return before, since


def is_partial(uid: int) -> bool:
    """Whether the machine's own part is closed to this user, who then sees only what concerns them."""
    with rights.acting_as(uid):
        return not any(_can_read(file) for file in _files("*/system.journal"))


def _files(pattern: str) -> list[Path]:
    return [file for folder in _FOLDERS if Path(folder).is_dir() for file in Path(folder).glob(pattern)]


def _check_readable() -> None:
    folders = [folder for folder in _FOLDERS if Path(folder).is_dir()]
    files = _files("*/*.journal")
    if not files and all(os.access(folder, os.X_OK) for folder in folders):
        raise CallFailed("this machine keeps no systemd journal", "Read the files in /var/log instead.")
    if not any(map(_can_read, files)):
        raise Denied(
            "you may not read the journal",
            "An administrator can allow it: usermod -aG systemd-journal YOU (then log in again).",
        )


def _can_read(file: Path) -> bool:
    """Tried, because access(2) asks about the real ids."""
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@contextmanager
def _opened() -> Iterator[ctypes.c_void_p]:
    journal = ctypes.c_void_p()
    _check(_library().sd_journal_open(ctypes.byref(journal), _LOCAL_ONLY))
    try:
        yield journal
    finally:
        _library().sd_journal_close(journal)


def _match(journal: ctypes.c_void_p, wanted: Wanted, uid: int) -> None:
    """What `journalctl -u` looks for: the unit's own words, and what the manager says of it."""
    groups = _user_groups(wanted.unit, uid) if wanted.own_manager else _system_groups(wanted.unit)
    for group in groups if wanted.unit else ():
        for field in group:
            _add(journal, field)
        _check(_library().sd_journal_add_disjunction(journal))
    if wanted.priority < len(PRIORITIES) - 1:
        _check(_library().sd_journal_add_conjunction(journal))
        for number in range(wanted.priority + 1):
            _add(journal, f"PRIORITY={number}")


def _system_groups(unit: str) -> tuple[tuple[str, ...], ...]:
    return (
        (f"_SYSTEMD_UNIT={unit}",),
        ("_PID=1", f"UNIT={unit}"),
        ("_UID=0", f"OBJECT_SYSTEMD_UNIT={unit}"),
        ("_UID=0", f"COREDUMP_UNIT={unit}"),
    )


def _user_groups(unit: str, uid: int) -> tuple[tuple[str, ...], ...]:
    own = f"_UID={uid}"
    return ((f"_SYSTEMD_USER_UNIT={unit}", own), (f"USER_UNIT={unit}", own))


def _add(journal: ctypes.c_void_p, field: str) -> None:
    data = field.encode()
    _check(_library().sd_journal_add_match(journal, data, len(data)))


def _backwards(journal: ctypes.c_void_p, wanted: Wanted) -> Iterator[str]:
    for when in _each_backwards(journal, wanted):
        yield _line(journal, when)


def _each_backwards(journal: ctypes.c_void_p, wanted: Wanted) -> Iterator[float]:
    """The time of each entry, which can be looked into then, from the newest that is wanted to the oldest;
    stops at `since`, or after `lines`."""
    library = _library()
    if wanted.until:
        _check(library.sd_journal_seek_realtime_usec(journal, ctypes.c_uint64(int(wanted.until * 1e6) + 1)))
    else:
        _check(library.sd_journal_seek_tail(journal))
    for _ in range(wanted.lines):
        if _check(library.sd_journal_previous(journal)) == 0:
            return
        when = _realtime(journal)
        if when < wanted.since:
            return
        yield when


def _realtime(journal: ctypes.c_void_p) -> float:
    found = ctypes.c_uint64()
    _check(_library().sd_journal_get_realtime_usec(journal, ctypes.byref(found)))
    return found.value / 1e6


def _line(journal: ctypes.c_void_p, when: float) -> str:
    """As `journalctl -o short-iso`: time, who, and the message on one line."""
    stamp = datetime.datetime.fromtimestamp(when).isoformat(" ", "seconds")
    who = _field(journal, "SYSLOG_IDENTIFIER") or _field(journal, "_COMM") or "kernel"
    pid = _field(journal, "_PID")
    return f"{stamp} {shown(who)}{f'[{pid}]' if pid else ''}: {_message(journal)}"


def _message(journal: ctypes.c_void_p) -> str:
    return shown(_field(journal, "MESSAGE").rstrip("\n"))[:_MAX_MESSAGE_CHARS]


def _field(journal: ctypes.c_void_p, name: str) -> str:
    data, length = ctypes.c_void_p(), ctypes.c_size_t()
    key = name.encode()
    code = _library().sd_journal_get_data(journal, key, ctypes.byref(data), ctypes.byref(length))
    if code < 0 or not data.value:  # this entry has no such field, or it is broken
        return ""
    return ctypes.string_at(data.value, length.value)[len(key) + 1 :].decode("utf-8", "replace")


def _check(code: int) -> int:
    if code < 0:
        raise CallFailed(f"the journal cannot be read: {os.strerror(-code)}", "Check it: journalctl --verify")
    return code


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        found = ctypes.CDLL("libsystemd.so.0")
    except OSError as error:
        raise CallFailed(
            "libsystemd is not installed, so there is no journal to read",
            "Read the files in /var/log instead.",
        ) from error
    found.sd_journal_close.restype = None
    found.sd_journal_add_match.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
    found.sd_journal_seek_realtime_usec.argtypes = (ctypes.c_void_p, ctypes.c_uint64)
    return found
