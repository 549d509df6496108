"""systemd units, changed: start, stop, restart, reload, enable. Each is verified by reading back.

A changer speaks to the manager as the caller, so systemd (and polkit) decide what they may do: root
everything, a plain user their own units. What was done comes back with the step that takes it back. A job
that does not end is not waited for beyond manager.JOB_TIMEOUT_S: it goes on in systemd, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmos.errors import CallFailed, LlmosError, UsageError
from llmos.messages import Caller, Change, Changed, Effects, JsonObject
from llmos.toolbox import journal, manager
from llmos.toolbox.context import Args, Context, Draft, Pair
from llmos.toolbox.dbus import BusError
from llmos.toolbox.manager import Manager, Scope

_RUNNING = ("active", "reloading", "activating", "refreshing")
_Facts = dict[str, Any]


# --- planning ------------------------------------------------------------------------------------


def _plan(verb: str) -> Callable[[Args, Context], Draft]:
    return lambda args, context: _draft(verb, args["name"], context)


def _plan_restart(args: Args, context: Context) -> Draft:
    return _draft("reload" if args["reload"] else "restart", args["name"], context)


def _plan_enable(args: Args, context: Context) -> Draft:
    return _draft("enable" if args["on"] else "disable", args["name"], context)


def _draft(verb: str, text: str, context: Context) -> Draft:
    name = manager.unit_name(text)
    scope = context.find_unit(name, context.uid)
    return Draft((_step(verb, name, scope),), Effects(units=(name if scope == "system" else f"user/{name}",)))


def _step(verb: str, name: str, scope: Scope) -> Change:
    own = "--user " if scope == "user" else ""
    return Change(
        changer="service",
        args={"verb": verb, "name": name, "scope": scope},
        shows=f"systemctl {own}{verb} {name}",
    )


# --- carrying out --------------------------------------------------------------------------------


def change(args: JsonObject, caller: Caller) -> Changed:
    """Do one verb to one unit. Raises UsageError, CallFailed, Denied; then nothing of it is half done."""
    verb, name, scope = str(args["verb"]), str(args["name"]), args["scope"]
    with manager.connect(scope, caller.uid) as link:
        before = link.load(name)
        try:
            return _VERBS[verb](_Work(link, before["Id"], scope, caller.uid), before)
        except BusError as error:
            raise manager.explain(error, name) from error


class _Work:
    """One unit under change."""

    def __init__(self, link: Manager, name: str, scope: Scope, uid: int) -> None:
        self.link, self.name, self.scope, self.uid = link, name, scope, uid

    def job(self, method: str) -> _Facts:
        """Queue a job and wait until it is done; how the unit stands then."""
        return self.link.wait(str(self.link.call(method, "ss", self.name, "replace")[0]), self.name)

    def reverse(self, verb: str) -> tuple[Change, ...]:
        return (_step(verb, self.name, self.scope),)

    def failed(self, what: str, facts: _Facts) -> CallFailed:
        """With what the unit said last: that is what one would look for next."""
        result = facts.get("Result", "")
        reason = f": {result}" if result not in ("", "success") else ""
        status = facts.get("ExecMainStatus")
        reason += f", exit status {status}" if status and facts.get("ExecMainCode") == 1 else ""
        last = self._last_words()
        return CallFailed(
            f"{self.name} {what}{reason}{f'; it said: {last}' if last else ''}",
            f'Read more: llmos call service.logs --args \'{{"name": "{self.name}"}}\'',
        )

    def _last_words(self) -> str:
        wanted = journal.Wanted(self.name, own_manager=self.scope == "user", lines=6)
        try:
            lines = [
                line.partition(": ")[2] for line in journal.read(wanted, self.uid) if "systemd[" not in line
            ]
        except LlmosError:
            return ""
        return lines[-1] if lines else ""


def _start(work: _Work, before: _Facts) -> Changed:
    if before["ActiveState"] in ("active", "reloading"):
        return Changed(text=f"{work.name} is running already ({_state(before)})\n")
    after = work.job("StartUnit")
    _check_runs(work, after, "did not start")
    lasting = after["ActiveState"] != "inactive"  # a task that ran to its end leaves nothing to stop
    return Changed(
        text=f"started {work.name}: {_state(after)}\n", reverse=work.reverse("stop") if lasting else ()
    )


def _stop(work: _Work, before: _Facts) -> Changed:
    if before["ActiveState"] in ("inactive", "failed"):
        return Changed(text=f"{work.name} is not running ({_state(before)})\n")
    after = work.job("StopUnit")
    if after["ActiveState"] not in ("inactive", "failed"):
        raise work.failed(f"did not stop, it is {_state(after)}", after)
    helpers = _triggers(work, after)
    return Changed(text=f"stopped {work.name}{helpers}\n", reverse=work.reverse("start"))


def _triggers(work: _Work, facts: _Facts) -> str:
    """Sockets and timers that will start it again, as systemctl warns."""
    active = {unit.name for unit in work.link.units() if unit.active == "active"}
    found = [name for name in facts.get("TriggeredBy", ()) if name in active]
    return f"; it can still be started by {', '.join(found)}" if found else ""


def _restart(work: _Work, before: _Facts) -> Changed:
    was_running = before["ActiveState"] in _RUNNING
    after = work.job("RestartUnit")
    _check_runs(work, after, "did not come up again")
    if was_running and after["InvocationID"] == before["InvocationID"]:
        raise work.failed("was not restarted", after)
    text = f"restarted {work.name}: {_state(after)}\n"
    return Changed(text=text, reverse=() if was_running else work.reverse("stop"))


def _reload(work: _Work, before: _Facts) -> Changed:
    if not before.get("CanReload"):
        raise UsageError(
            f"{work.name} cannot reread its configuration while it runs",
            "Restart it instead, without `reload`.",
        )
    if before["ActiveState"] not in _RUNNING:
        raise UsageError(
            f"{work.name} is not running ({_state(before)})", "Start it: it reads its settings then."
        )
    after = work.job("ReloadUnit")
    _check_runs(work, after, "did not reread its configuration")
    if (
        before.get("Result") == "success" != after.get("Result")
        or after.get("ReloadResult", "success") != "success"
    ):
        raise work.failed("could not reread its configuration", after)
    return Changed(text=f"{work.name} has reread its configuration\n")


def _check_runs(work: _Work, after: _Facts, what: str) -> None:
    done = after["ActiveState"] == "inactive" and after.get("Type") == "oneshot"
    if not done and after["ActiveState"] not in _RUNNING:
        raise work.failed(what, after)
    if done and after.get("Result", "success") != "success":
        raise work.failed(what, after)


def _enable(work: _Work, before: _Facts) -> Changed:
    carries, made = work.link.call("EnableUnitFiles", "asbb", [work.name], False, False)
    if not made and not carries:
        raise UsageError(
            f"{work.name} says nowhere when it is to be started (it has no [Install] section)",
            "It is started by others; enable the unit that starts it, a socket or timer perhaps.",
        )
    return _enabled(work, made, "enabled", "is enabled already", reverse="disable")


def _disable(work: _Work, before: _Facts) -> Changed:
    (gone,) = work.link.call("DisableUnitFiles", "asb", [work.name], False)
    return _enabled(work, gone, "disabled", "is not enabled", reverse="enable")


def _enabled(work: _Work, links: list[Any], done: str, nothing: str, *, reverse: str) -> Changed:
    """What was linked or unlinked; systemd reads its files anew, as systemctl has it do."""
    if not links:
        return Changed(text=f"{work.name} {nothing}\n")
    work.link.call("Reload")
    state = work.link.load(work.name).get("UnitFileState", "")
    if (state in ("enabled", "enabled-runtime", "alias")) != (done == "enabled"):
        raise work.failed(f"is {state or 'unknown'} although it was {done}", {})
    places = "".join(f"  {kind} {file}\n" for kind, file, _ in links)
    return Changed(text=f"{done} {work.name}\n{places}", reverse=work.reverse(reverse))


def _state(facts: _Facts) -> str:
    pid = facts.get("MainPID") or 0
    return f"{facts['ActiveState']} ({facts['SubState']}){f', process {pid}' if pid else ''}"


_VERBS: dict[str, Callable[[_Work, _Facts], Changed]] = {
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "reload": _reload,
    "enable": _enable,
    "disable": _disable,
}
PAIRS = {
    "service.start": Pair(_plan("start")),
    "service.stop": Pair(_plan("stop")),
    "service.restart": Pair(_plan_restart),
    "service.enable": Pair(_plan_enable),
}
CHANGERS = {"service": change}
