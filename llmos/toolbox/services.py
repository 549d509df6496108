"""systemd units, read: state, failures, timers, journal. Changing them is `servicechanges`' business.

An observer is told the caller's uid by the planner here (never by the call's arguments) and looks with
their rights: a plain user sees the machine's units, which are no secret, and their own manager's.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

from llmos.errors import CallFailed, LlmosError, UsageError
from llmos.messages import JsonObject, Observe
from llmos.toolbox import journal, manager, moments, schedules
from llmos.toolbox.context import Args, Context, Draft, Pair
from llmos.toolbox.manager import Manager, Scope, Unit
from llmos.toolbox.values import human_duration, human_size, shown, table

_UNKNOWN = (1 << 64) - 1  # systemd's "not set", and its "infinity"
_LAST_LINES = 5
_PARTIAL = (
    "(You see only your own part of the journal. An administrator can open the rest to you: "
    "usermod -aG systemd-journal YOU)"
)


def observing(observer: str, command: str, **left_out: str) -> Pair:
    """A tool that looks as the caller; `command` is what would show a person the same, `left_out` what stands
    in it for arguments that were not given.
    """

    def plan(args: Args, context: Context) -> Draft:
        given = {key: value for key, value in args.items() if value is not None}
        words = command.format_map(left_out | {key: str(value) for key, value in given.items()}).strip()
        return Draft((Observe(observer=observer, args=given | {"uid": context.uid}),), command=words)

    return Pair(plan)


def plan_status(args: Args, context: Context) -> Draft:
    name = manager.unit_name(args["name"])
    step = Observe(observer="service.status", args={"name": name, "uid": context.uid})
    return Draft((step,), command=f"systemctl status {name}")


def status(args: JsonObject) -> str:
    name, uid = str(args["name"]), int(args["uid"])
    scope = manager.scope_of(name, uid)
    with manager.connect(scope, uid) as link:
        facts = link.load(name)
    return table(list(_status_rows(facts, scope))) + _recent(facts["Id"], scope, uid)


def _status_rows(facts: dict[str, Any], scope: Scope) -> Iterator[tuple[str, str]]:
    own = " (your own)" if scope == "user" else ""
    yield "Unit", f"{facts['Id']}{own}: {shown(facts['Description'])}"
    yield "State", _state(facts)
    yield "Loaded", _loaded(facts)
    if pid := facts.get("MainPID") or 0:
        tasks = _set(facts.get("TasksCurrent"))
        yield "Process", f"{pid}, {tasks} tasks in all" if tasks else str(pid)
    if (memory := _set(facts.get("MemoryCurrent"))) is not None:
        yield "Memory", human_size(memory)
    if (nanoseconds := _set(facts.get("CPUUsageNSec"))) is not None:
        yield "CPU time", f"{nanoseconds / 1e9:.1f} s"
    if restarts := facts.get("NRestarts"):
        yield "Restarts", str(restarts)
    if text := facts.get("StatusText"):
        yield "Says", shown(text)


def _state(facts: dict[str, Any]) -> str:
    """`active (running) since …`, with the reason where it failed."""
    text = f"{facts['ActiveState']} ({facts['SubState']})"
    if since := facts.get("StateChangeTimestamp"):
        text += f" since {_stamp(since)}, {human_duration(time.time() - since / 1e6)} ago"
    result = facts.get("Result", "success")
    if result != "success":
        text += f"; {result}{_exit(facts)}"
    return text


def _exit(facts: dict[str, Any]) -> str:
    """How its main process ended (CLD_EXITED is 1)."""
    code, number = facts.get("ExecMainCode", 0), facts.get("ExecMainStatus", 0)
    return f", exit status {number}" if code == 1 else f", signal {number}" if code in (2, 3) else ""


def _loaded(facts: dict[str, Any]) -> str:
    words = [facts["LoadState"]]
    if facts.get("FragmentPath"):
        words.append(facts["FragmentPath"])
    if facts.get("UnitFileState"):
        words.append(facts["UnitFileState"])
    if facts.get("NeedDaemonReload"):
        words.append("changed on disk since (systemctl daemon-reload)")
    return ", ".join(words)


def _set(value: Any) -> int | None:
    return None if value is None or value == _UNKNOWN else int(value)


def _stamp(usec: int) -> str:
    return datetime.datetime.fromtimestamp(usec / 1e6).isoformat(" ", "seconds")


def _recent(unit: str, scope: Scope, uid: int) -> str:
    """Its last lines, where the journal can be read; the state is worth telling without them."""
    wanted = journal.Wanted(unit=unit, own_manager=scope == "user", lines=_LAST_LINES)
    try:
        lines = journal.read(wanted, uid)
    except LlmosError:
        return ""
    return "".join(f"{line}\n" for line in ["", *lines]) if lines else ""


# --- failed, timers ------------------------------------------------------------------------------


def failed(args: JsonObject) -> str:
    uid = int(args["uid"])
    rows = [
        (unit.name, whose, f"{unit.active} ({unit.sub})", unit.description) for whose, unit in failing(uid)
    ]
    if not rows:
        return "No unit has failed.\n"
    return table([("UNIT", "OF", "STATE", "DESCRIPTION"), *rows])


def failing(uid: int) -> Iterator[tuple[str, Unit]]:
    """Whose, and which: units that failed, or that systemd cannot read."""
    for whose, link in _managers(uid):
        for unit in link.units():
            if unit.active == "failed" or unit.load in ("error", "bad-setting"):
                yield whose, unit


def _managers(uid: int) -> Iterator[tuple[str, Manager]]:
    """The machine's manager, then the caller's own if there is one."""
    with manager.connect("system", uid) as link:
        yield "system", link
    if manager.has_manager(uid):
        with manager.connect("user", uid) as link:
            yield "user", link


def timers(args: JsonObject) -> str:
    """Timers of systemd, soonest first, then what cron has."""
    uid = int(args["uid"])
    rows = sorted(_timer_rows(uid), key=lambda row: row[0]) if manager.is_running() else []
    jobs = schedules.cron_jobs(uid)
    if not rows and not jobs:
        return "Nothing is scheduled, neither by timers nor by cron.\n"
    shown_rows = [(_next(when), _past(last), name, unit, whose) for when, last, name, unit, whose in rows]
    text = table([("NEXT", "LAST", "TIMER", "STARTS", "OF"), *shown_rows]) if rows else ""
    return (
        text
        + ("\n" if rows and jobs else "")
        + (table([("WHEN", "USER", "COMMAND", "FROM"), *jobs]) if jobs else "")
    )


def _timer_rows(uid: int) -> Iterator[tuple[float, float, str, str, str]]:
    for whose, link in _managers(uid):
        for unit in link.units():
            if unit.name.endswith(".timer") and unit.load == "loaded":
                facts = link.properties(unit.path, "Timer")
                yield _elapse(facts), facts["LastTriggerUSec"] / 1e6, unit.name, facts["Unit"], whose


def _elapse(facts: dict[str, Any]) -> float:
    """When it comes next, in seconds since the epoch; infinity when it does not."""
    found = []
    if (usec := _set(facts["NextElapseUSecRealtime"])) and usec:
        found.append(usec / 1e6)
    if (usec := _set(facts["NextElapseUSecMonotonic"])) and usec:
        found.append(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + usec / 1e6)
    return min(found, default=float("inf"))


def _next(when: float) -> str:
    if when == float("inf"):
        return "-"
    return f"{_stamp(int(when * 1e6))} (in {human_duration(when - time.time())})"


def _past(when: float) -> str:
    return f"{human_duration(time.time() - when)} ago" if when else "-"


# --- logs ----------------------------------------------------------------------------------------


def plan_logs(args: Args, context: Context) -> Draft:
    unit = manager.unit_name(args["name"]) if args["name"] else ""
    words = ["journalctl", *(["-u", unit] if unit else [])]
    given: JsonObject = {
        "unit": unit,
        "lines": args["lines"],
        "priority": args["priority"],
        "uid": context.uid,
    }
    now = datetime.datetime.now()
    for key in ("since", "until"):
        if args[key]:
            when = _moment(key, args[key], now)
            given[key] = when.timestamp()
            words.append(f'--{key}="{when.isoformat(" ", "seconds")}"')
    words += [f"-p {args['priority']}"] if args["priority"] else []
    step = Observe(observer="service.logs", args={k: v for k, v in given.items() if v is not None})
    return Draft((step,), command=" ".join([*words, f"-n {args['lines']}"]))


def _moment(key: str, text: str, now: datetime.datetime) -> datetime.datetime:
    try:
        return moments.moment(text, now)
    except ValueError as error:
        raise UsageError(
            f"service.logs: argument `{key}`: expected {error}, not {text[:80]!r}",
            "See: llmos tools service.logs",
        ) from error


def logs(args: JsonObject) -> str:
    uid, unit = int(args["uid"]), str(args["unit"])
    wanted = journal.Wanted(
        unit=unit,
        own_manager=bool(unit) and _scope(unit, uid) == "user",
        since=float(args.get("since", 0)),
        until=float(args.get("until", 0)),
        priority=journal.PRIORITIES.index(args.get("priority", "debug")),
        lines=int(args["lines"]),
    )
    lines = journal.read(wanted, uid) or [_nothing(unit, uid)]
    if not wanted.own_manager and journal.is_partial(uid):
        lines.append(_PARTIAL)
    return "".join(f"{line}\n" for line in lines)


def _nothing(unit: str, uid: int) -> str:
    """Raises UsageError for a unit that is not there: an empty answer about a misspelt one would mislead."""
    if unit and manager.is_running():
        manager.scope_of(unit, uid)
    return f"The journal has nothing of {unit or 'this machine'} for that."


def _scope(unit: str, uid: int) -> Scope:
    """The machine's, where it cannot be told: a unit that is gone may have left its lines."""
    try:
        return manager.scope_of(unit, uid)
    except (UsageError, CallFailed):
        return "system"


PAIRS = {
    "service.status": Pair(plan_status),
    "service.failed": observing("service.failed", "systemctl --failed"),
    "service.timers": observing("service.timers", "systemctl list-timers --all"),
    "service.logs": Pair(plan_logs),
}
OBSERVERS = {
    "service.status": status,
    "service.failed": failed,
    "service.timers": timers,
    "service.logs": logs,
}
