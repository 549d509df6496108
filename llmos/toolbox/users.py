"""Accounts and who is logged in, read from the system's own databases (getpwent(3), lastlog, utmp).

Nothing of /etc/shadow is looked at: whether a password is set is nobody's business here.
"""

from __future__ import annotations

import datetime
import difflib
import grp
import os
import pwd
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos.errors import CallFailed, UsageError
from llmos.messages import JsonObject
from llmos.toolbox import manager
from llmos.toolbox.services import observing
from llmos.toolbox.values import human_duration, shown, table

_LOGIN_DEFS = Path("/etc/login.defs")
_LASTLOG = Path("/var/log/lastlog")
_LASTLOG_ENTRY = struct.Struct("=I32s256s")  # time, line, host (lastlog(8))
_ONESELF = frozenset({"me", "myself", "$user", "我"})  # unless somebody is called so
_NO_SHELLS = frozenset({"nologin", "false", "sync"})


def people(args: JsonObject) -> str:
    """Accounts people use; `system` shows all others too."""
    found = sorted(pwd.getpwall(), key=lambda entry: entry.pw_uid)
    if not args.get("system"):
        first, last = _human_uids()
        found = [entry for entry in found if entry.pw_uid == 0 or first <= entry.pw_uid <= last]
    rows = [(e.pw_name, str(e.pw_uid), _real_name(e), e.pw_dir, e.pw_shell) for e in found]
    return table([("USER", "UID", "NAME", "HOME", "SHELL"), *rows], frozenset({1}))


def _human_uids() -> tuple[int, int]:
    """UID_MIN and UID_MAX of login.defs(5)."""
    bounds = {"UID_MIN": 1000, "UID_MAX": 60000}
    try:
        lines = _LOGIN_DEFS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for words in map(str.split, lines):
        if len(words) == 2 and words[0] in bounds and words[1].isdecimal():
            bounds[words[0]] = int(words[1])
    return bounds["UID_MIN"], bounds["UID_MAX"]


def _real_name(entry: pwd.struct_passwd) -> str:
    return shown(entry.pw_gecos.partition(",")[0])


def person(args: JsonObject) -> str:
    entry = _entry(str(args.get("name", "me")).strip(), int(args["uid"]))
    groups = [_group(gid) for gid in os.getgrouplist(entry.pw_name, entry.pw_gid)]
    rows = [
        ("User", f"{entry.pw_name} ({entry.pw_uid})"),
        ("Name", _real_name(entry)),
        ("Groups", ", ".join(groups)),
        ("Home", entry.pw_dir + ("" if Path(entry.pw_dir).is_dir() else " (is not there)")),
        ("Shell", entry.pw_shell + (" (cannot log in)" if _no_login(entry) else "")),
        ("Last login", _last_login(entry.pw_uid)),
        ("Processes", str(sum(process.uids().real == entry.pw_uid for process in _processes()))),
    ]
    return table([row for row in rows if row[1]])


def _entry(name: str, caller: int) -> pwd.struct_passwd:
    """By name or number, or the caller's own; raises UsageError with the nearest names."""
    everybody = [entry.pw_name for entry in pwd.getpwall()]
    if name.casefold() in _ONESELF and name not in everybody:
        name = str(caller)
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError, ValueError):
        close = difflib.get_close_matches(name, everybody, 3)
        step = f"Did you mean: {', '.join(close)}?" if close else "See: llmos call user.list"
        raise UsageError(f"there is no user {name[:80]!r}", step) from None


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _no_login(entry: pwd.struct_passwd) -> bool:
    return Path(entry.pw_shell).name in _NO_SHELLS


def _last_login(uid: int) -> str:
    now = [user for user in psutil.users() if _uid(user.name) == uid]
    if now:
        return "logged in now, on " + ", ".join(str(user.terminal or "?") for user in now)
    try:
        with _LASTLOG.open("rb") as file:
            file.seek(uid * _LASTLOG_ENTRY.size)
            when, line, host = _LASTLOG_ENTRY.unpack(file.read(_LASTLOG_ENTRY.size))
    except (OSError, struct.error):
        return "never, as far as is recorded"
    if not when:
        return "never"
    where = " from ".join(word for word in (_text(line), _text(host)) if word)
    return f"{datetime.datetime.fromtimestamp(when).isoformat(' ', 'seconds')} on {where}"


def _text(field: bytes) -> str:
    return shown(field.rstrip(b"\0").decode("utf-8", "replace"))


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return -1


def _processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            process.uids()
        except psutil.Error:
            continue
        yield process


# --- sessions ------------------------------------------------------------------------------------

_Row = tuple[str, str, str, str]  # user, on, from, since


def sessions(args: JsonObject) -> str:
    """Logins of utmp, and sessions of logind that utmp does not know (a desktop, a user's manager)."""
    rows = [
        (shown(user.name), shown(user.terminal or "?"), shown(user.host or "here"), _since(user.started))
        for user in psutil.users()
    ]
    known = {(user, on) for user, on, *_ in rows}
    rows += [row for row in _logind(int(args["uid"])) if row[:2] not in known]
    return table([("USER", "ON", "FROM", "SINCE"), *rows]) if rows else "Nobody is logged in.\n"


def _since(when: float) -> str:
    stamp = datetime.datetime.fromtimestamp(when).isoformat(" ", "minutes")
    return f"{stamp}, {human_duration(time.time() - when)} ago"


def _logind(uid: int) -> list[_Row]:
    """Sessions as logind lists them; none where it does not run."""
    try:
        return [_session(facts) for facts in manager.sessions(uid)]
    except CallFailed:
        return []


def _session(facts: JsonObject) -> _Row:
    terminal = facts["TTY"] or facts["Display"] or facts["Class"]
    where = facts["RemoteHost"] or "here"
    return shown(facts["Name"]), shown(terminal), shown(where), _since(facts["Timestamp"] / 1e6)


OBSERVERS = {"user.list": people, "user.info": person, "session.list": sessions}
PAIRS = {
    "user.list": observing("user.list", "getent passwd"),
    "user.info": observing("user.info", "id {name}", name=""),
    "session.list": observing("session.list", "who"),
}
