"""Changing what processes may use and how important they are; every change verified, and kept reversible.

    resource.limit     a control group around them, where this user may have one; else a limit of each process
    resource.release   out of the group again, and the group is gone
    resource.priority  nice, I/O class, scheduler, OOM score      resource.affinity   CPUs
    resource.rlimit    one limit of prlimit(2)

A target's children come along, also those it starts later. The plan names processes by pid and start time;
the changers look again whose they are, because the broker may be root while the caller is not, and act with
the caller's ids where the kernel can judge (`rights`). What takes a change back was so before, to the value.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmos import rights
from llmos.errors import CallFailed, Denied, UsageError
from llmos.messages import Caller, Change, Changed, Effects, JsonObject, Message
from llmos.toolbox import groups, limits, manager, processes, scheduling, targets, unitlimits
from llmos.toolbox.containers import meant
from llmos.toolbox.context import Args, Context, Draft, Pair
from llmos.toolbox.limits import Limits, Setting
from llmos.toolbox.scheduling import Value
from llmos.toolbox.targets import Known, Target
from llmos.toolbox.values import human_size, size_bytes

_OOM_LIMITS = (-1000, 1000)
_RT_PRIORITY = 10  # of fifo and rr: above everything usual, below what the kernel itself needs


class _Step(Message):
    """What every changer is told: whom, and how they are called to a person."""

    label: str
    known: tuple[Known, ...]


class _LimitStep(_Step):
    limits: Limits


class _ValuesStep(_Step):
    values: dict[str, str]  # kind of value to value, of every thread


# --- planning ------------------------------------------------------------------------------------------


def _draft(changer: str, target: Target, shows: str, **more: Any) -> Draft:
    args = {"label": target.label, "known": [one.model_dump() for one in target.known], **more}
    step = Change(changer=changer, args=args, shows=shows)
    return Draft((step,), Effects(resources=target.resources))


def _target(tool: str, args: Args, context: Context) -> Target:
    return targets.resolve(args["target"], context, every=bool(args.get("all")), tool=tool)


def _running(tool: str, args: Args, context: Context) -> Target:
    """A target of which processes are there now."""
    target = _target(tool, args, context)
    if not target.roots:
        how = "docker.container.start" if target.container else "service.start"
        raise UsageError(f"{tool}: nothing of {target.label} runs", f"Start it first: {how}")
    return target


def plan_limit(args: Args, context: Context) -> Draft:
    wanted = limits.read({name: args.get(name) for name in Limits.model_fields}, context.machine())
    target = _target("resource.limit", args, context)
    if target.unit:
        shows = f"systemctl set-property {target.unit}: {wanted.told}"
        found = unitlimits.values(wanted)
        change = unitlimits.step(target.unit, target.scope, found, shows, persist=args["persist"])
        return Draft((change,), Effects(resources=target.resources))
    given = wanted.model_dump(exclude_none=True)
    if target.container:
        return _of_container("limit", target, context, f"limit {target.label} to {wanted.told}", limits=given)
    return _draft("resource.limit", target, f"limit {target.label} to {wanted.told}", limits=given)


def plan_release(args: Args, context: Context) -> Draft:
    target = _target("resource.release", args, context)
    if target.unit:
        told = {"unit": target.unit, "scope": target.scope}
        free = Change(changer="resource.free", args=told, shows=f"take the limits of {target.unit} off")
        return Draft((free,), Effects(resources=target.resources))
    shows = f"take the limits of {target.label} off"
    if target.container:
        return _of_container("release", target, context, shows)
    return _draft("resource.release", target, shows)


def _of_container(verb: str, target: Target, context: Context, shows: str, **more: Any) -> Draft:
    """Its engine holds its limits, and judges who may change them."""
    from llmos.toolbox.containers import limiting

    assert target.container
    known = [one.model_dump() for one in target.known]
    return limiting.plan(verb, target.container, context.uid, known, shows, **more)


def plan_priority(args: Args, context: Context) -> Draft:
    tool = "resource.priority"
    found = dict(_priority_values(args))
    if not found:
        raise UsageError(f"{tool}: nothing is asked for", "Give nice, io, scheduler or oom.")
    target = _running(tool, args, context)
    words = ", ".join(f"{kind} {value}" for kind, value in found.items())
    return _draft("resource.values", target, f"set {words} of {target.label}", values=found)


def _priority_values(args: Args) -> Iterator[tuple[str, str]]:
    if args["nice"] is not None:
        yield "nice", str(args["nice"])
    if (name := args["io"]) is not None:
        yield "io", f"{name} {0 if name == 'idle' else 4}"
    if (name := args["scheduler"]) is not None:
        yield "scheduler", f"{name} {_RT_PRIORITY if name in ('fifo', 'rr') else 0}"
    if args["oom"] is not None:
        yield "oom", str(args["oom"])


def plan_affinity(args: Args, context: Context) -> Draft:
    tool = "resource.affinity"
    cpus = limits.asked_cpus(tool, args["cpus"], context.machine())
    target = _running(tool, args, context)
    return _draft("resource.values", target, f"bind {target.label} to CPU {cpus}", values={"cpus": cpus})


def plan_rlimit(args: Args, context: Context) -> Draft:
    tool, name = "resource.rlimit", args["limit"]
    soft = _amount(tool, "soft", args["soft"])
    hard = "same" if args["hard"] is None else _amount(tool, "hard", args["hard"])
    if "-1" not in (soft, hard) and hard != "same" and int(soft) > int(hard):
        raise UsageError(f"{tool}: `soft` is above `hard`", "Give a hard limit of at least the soft one.")
    target = _running(tool, args, context)
    shows = f"set {name} of {target.label} to {args['soft']} (hard: {args['hard'] or 'as it is'})"
    return _draft("resource.values", target, shows, values={f"rlimit {name}": f"{soft} {hard}"})


def _amount(tool: str, name: str, text: str) -> str:
    """A number, a size, or `unlimited`, in the kernel's words."""
    if text.strip().casefold() in ("unlimited", "infinity", "-1"):
        return str(resource.RLIM_INFINITY)
    try:
        return str(size_bytes(text))
    except ValueError:
        raise UsageError(
            f"{tool}: argument `{name}`: {text[:80]!r} is no amount", "Write 1024, 2G or unlimited."
        ) from None


# --- values of threads and processes ---------------------------------------------------------------------


def change_values(args: JsonObject, caller: Caller) -> Changed:
    step = _ValuesStep.model_validate(args)
    pids = targets.family(targets.still(step.known, caller), caller)
    wanted = [one for kind, value in step.values.items() for one in _values(kind, pids, value)]
    if not wanted:
        raise CallFailed(f"{step.label} has ended", "List the processes again.")
    before = _as_caller(wanted, caller)
    now = "; ".join(f"{kind} is now {_shown(kind, value)}" for kind, value in step.values.items())
    were = ", ".join(f"{kind} {', '.join(_distinct(kind, before))}" for kind in step.values)
    text = (
        f"{step.label}: {now}, of {_counted(pids, wanted)} (before: {were}). By system call, and read back.\n"
    )
    return Changed(text=text, reverse=_restoring(before, step.label))


def _values(kind: str, pids: Sequence[int], value: str) -> list[Value]:
    """A hard rlimit of `same` is each process's own."""
    found = scheduling.values(kind, pids, value)
    return [_with_hard(one) if value.endswith(" same") else one for one in found]


def _with_hard(one: Value) -> Value:
    soft = one.value.split()[0]
    hard = scheduling.KINDS[one.kind].read(one.number).split()[1]
    if hard != "-1" and (soft == "-1" or int(soft) > int(hard)):
        raise UsageError(
            f"{one.kind} of {one.number} cannot be {_shown(one.kind, soft)}: its hard limit is {hard}",
            "Give `hard` as well; only root may raise it.",
        )
    return one.model_copy(update={"value": f"{soft} {hard}"})


def _as_caller(wanted: Sequence[Value], caller: Caller) -> list[Value]:
    """With the caller's ids: the kernel says what they may do to their own processes.

    prlimit(2) looks at the real uid, which stays ours: there the one rule it has is asked here.
    """
    if caller.uid != 0 and any(map(_raises_hard, wanted)):
        raise Denied("only root may raise a hard limit", "Give a soft limit up to the hard one.")
    if all(one.kind in scheduling.RLIMITS for one in wanted):
        return scheduling.change(wanted)
    with rights.acting_as(caller.uid):
        return scheduling.change(wanted)


def _raises_hard(one: Value) -> bool:
    if one.kind not in scheduling.RLIMITS:
        return False
    new, old = one.value.split()[1], scheduling.KINDS[one.kind].read(one.number).split()[1]
    return old != "-1" and (new == "-1" or int(new) > int(old))


def _distinct(kind: str, before: Sequence[Value]) -> list[str]:
    return list(dict.fromkeys(_shown(kind, one.value) for one in before if one.kind == kind))


def _shown(kind: str, value: str) -> str:
    """`idle 0` is idle; an rlimit of -1 is unlimited."""
    words = ["unlimited" if word == "-1" and kind in scheduling.RLIMITS else word for word in value.split()]
    if kind in ("io", "scheduler") and words[-1] == "0" and words[0] not in ("realtime", "best-effort"):
        words = words[:1]
    return " ".join(word for word in words if word != "same")


def _counted(pids: Sequence[int], wanted: Sequence[Value]) -> str:
    threads = len({one.number for one in wanted})
    of = f"{len(pids)} processes" if len(pids) > 1 else "one process"
    return f"{of} with {threads} threads" if threads > len(pids) else of


def _restoring(before: Sequence[Value], label: str) -> tuple[Change, ...]:
    if not before:
        return ()
    args = {"label": label, "values": [one.model_dump() for one in before]}
    words = ", ".join(dict.fromkeys(f"{one.kind} {_shown(one.kind, one.value)}" for one in before[:8]))
    return (Change(changer="resource.restore", args=args, shows=f"set {words} of {label} as before"),)


def restore(args: JsonObject, caller: Caller) -> Changed:
    """Put back what was recorded: as the broker, for what it records was so before the caller's change."""
    values = [Value.model_validate(one) for one in args["values"]]
    label = str(args["label"])
    _refuse_foreign(values, caller)
    before = scheduling.change(values)
    if not before:
        return Changed(text=f"{label} has ended: there is nothing to put back.\n")
    return Changed(text=f"{label} has its former values back.\n", reverse=_restoring(before, label))


def _refuse_foreign(values: Sequence[Value], caller: Caller) -> None:
    for one in values:
        if caller.uid not in (0, processes.owner(one.number, caller.uid)):
            raise Denied(f"process {one.number} is not yours", "Ask its owner.")


# --- limits ----------------------------------------------------------------------------------------------


def change_limits(args: JsonObject, caller: Caller) -> Changed:
    step = _LimitStep.model_validate(args)
    roots = targets.still(step.known, caller)

    def members() -> list[int]:
        return targets.family(targets.still(step.known, caller), caller)

    if manager.is_running():
        with contextlib.suppress(CallFailed, Denied):  # whoever may not ask systemd may own a group, perhaps
            return unitlimits.limit(step.limits, members(), caller, step.label)
    first = groups.Members(caller.uid, roots[0], scheduling.started_ticks(roots[0]), members)
    try:
        applied = groups.limit(step.limits, first)
    except PermissionError as error:
        return _without_group(step, members(), caller, error)
    return Changed(text=_told(step, applied, members()), reverse=tuple(_undoing(applied, step.label)))


def _told(step: _LimitStep, applied: groups.Applied, pids: Sequence[int]) -> str:
    """What was set, by what, and each file as it reads now."""
    text = f"{step.label} is limited to {step.limits.told}, by {applied.version}. Read back:\n"
    for one in applied.written:
        text += f"  {one.folder / one.setting.file}: {one.setting.line}\n"
    if step.limits.memory:
        held = human_size(processes.resident_bytes(pids))
        text += f"The {held} held already stay charged where they were first used, and are not counted.\n"
    if step.limits.io_weight and not limits.weighs_io():
        text += (
            "No disk here is shared out by weight now: that takes the scheduler bfq (/sys/block/*/queue).\n"
        )
    return text


def _undoing(applied: groups.Applied, label: str) -> Iterator[Change]:
    if applied.made:
        args = {"label": label, "folders": [str(folder) for folder in applied.made]}
        yield Change(changer="resource.ungroup", args=args, shows=f"take the limits of {label} off")
    tuned = [one for one in applied.written if one.folder not in applied.made]
    if tuned:
        yield _tuning(label, [(one.folder, one.setting, one.before) for one in reversed(tuned)])


def _tuning(label: str, values: Sequence[tuple[Path, Setting, str]]) -> Change:
    rows = [[str(folder), one.controller, one.file, one.key, value] for folder, one, value in values]
    words = ", ".join(f"{one.file} {value}" for _, one, value in values)
    return Change(
        changer="resource.tune", args={"label": label, "values": rows}, shows=f"set {words} of {label}"
    )


def _without_group(step: _LimitStep, pids: Sequence[int], caller: Caller, error: OSError) -> Changed:
    """Memory can be bounded for each process alone; the rest needs a control group."""
    if step.limits.model_dump(exclude_none=True).keys() != {"memory"}:
        raise CallFailed(
            f"a limit on anything but memory needs a control group, and you may make none ({error.strerror})",
            "Let root's llmos service do it, or have a unit delegated to you: llmos doctor",
        ) from error
    soft = str(step.limits.memory)
    before = _as_caller(_values("rlimit data", pids, f"{soft} same"), caller)
    text = (
        f"{step.label}: each process may have {step.limits.told} (RLIMIT_DATA by prlimit, read back). "
        "No control group can be had, so this is not a limit of their sum, and they could raise it.\n"
    )
    return Changed(text=text, reverse=_restoring(before, step.label))


def release(args: JsonObject, caller: Caller) -> Changed:
    step = _Step.model_validate(args)
    pids = targets.still(step.known, caller)
    folders = sorted({folder for pid in pids for folder in groups.ours_of(pid)})
    if folders:
        return _ungroup(folders, step.label, caller)
    if unit := next(filter(None, map(unitlimits.ours_of, pids)), ""):
        return unitlimits.release(unit, "user" if manager.has_manager(caller.uid) else "system", caller)
    lowered = [one for one in scheduling.values("rlimit data", pids, "-1 same") if _is_lowered(one.number)]
    if not lowered:
        raise CallFailed(
            f"llmos has set no limit on {step.label}", "See what bounds it: llmos call resource.status"
        )
    before = _as_caller([_raised(one) for one in lowered], caller)
    text = f"{step.label}: RLIMIT_DATA is what its hard limit allows again.\n"
    return Changed(text=text, reverse=_restoring(before, step.label))


def _is_lowered(pid: int) -> bool:
    soft, hard = scheduling.KINDS["rlimit data"].read(pid).split()
    return soft != hard


def _raised(one: Value) -> Value:
    hard = scheduling.KINDS["rlimit data"].read(one.number).split()[1]
    return one.model_copy(update={"value": f"{hard} {hard}"})


def free(args: JsonObject, caller: Caller) -> Changed:
    return unitlimits.release(str(args["unit"]), args["scope"], caller)


def ungroup(args: JsonObject, caller: Caller) -> Changed:
    return _ungroup([Path(folder) for folder in args["folders"]], str(args["label"]), caller)


def _ungroup(folders: Sequence[Path], label: str, caller: Caller) -> Changed:
    """Everybody leaves the groups; the way back limits those who are still there then."""
    there = [folder for folder in folders if groups.pids_in(folder)]
    for folder in there:
        if caller.uid not in (0, groups.maker(folder)):
            raise Denied(f"{label} was limited by uid {groups.maker(folder)}", "Ask an administrator.")
    if not there:
        groups.sweep()
        return Changed(text=f"{label} has ended, and its limits with it.\n")
    reverse = _regrouping(there, label)
    for folder in there:
        groups.release(folder)
    gone = ", ".join(map(str, there)) + (" is" if len(there) == 1 else " are")
    return Changed(text=f"{label} has no limit of llmos any more; {gone} gone.\n", reverse=reverse)


def _regrouping(folders: Sequence[Path], label: str) -> tuple[Change, ...]:
    members = processes.starts(groups.pids_in(folders[0]))
    known = [{"pid": pid, "started": started} for pid, started in members]
    found = groups.limits_of(folders)
    args = {"label": label, "known": known, "limits": found.model_dump(exclude_none=True)}
    return (Change(changer="resource.limit", args=args, shows=f"limit {label} to {found.told}"),)


def tune(args: JsonObject, caller: Caller) -> Changed:
    label = str(args["label"])
    back = []
    for place, controller, file, key, value in args["values"]:
        folder = Path(place)
        if not groups.pids_in(folder):
            return Changed(text=f"{label} has ended, and its limits with it.\n")
        if caller.uid not in (0, groups.maker(folder)):
            raise Denied(f"{label} was limited by uid {groups.maker(folder)}", "Ask an administrator.")
        setting = Setting(controller, file, value, key)
        back.append((folder, setting, groups.value_of(folder, setting)))
    for folder, setting, _ in back:
        groups.put(folder / setting.file, setting.line)
    return Changed(text=f"{label} has its former limits back.\n", reverse=(_tuning(label, back[::-1]),))


PAIRS = {
    "resource.limit": Pair(plan_limit, prepare=meant.ready),
    "resource.release": Pair(plan_release, prepare=meant.ready),
    "resource.priority": Pair(plan_priority, prepare=meant.ready),
    "resource.affinity": Pair(plan_affinity, prepare=meant.ready),
    "resource.rlimit": Pair(plan_rlimit, prepare=meant.ready),
}
CHANGERS: Mapping[str, Callable[[JsonObject, Caller], Changed]] = {
    "resource.limit": change_limits,
    "resource.release": release,
    "resource.values": change_values,
    "resource.restore": restore,
    "resource.ungroup": ungroup,
    "resource.tune": tune,
    "resource.free": free,
    **unitlimits.CHANGERS,
}
