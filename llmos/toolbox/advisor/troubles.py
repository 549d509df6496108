"""Findings about services, containers, and memory that ran out. Pure, as `findings`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from llmos.toolbox.advisor.facts import Container, Disk, Facts, OomKill
from llmos.toolbox.advisor.finding import Finding, Suggestion, bounding
from llmos.toolbox.groups import PREFIX
from llmos.toolbox.values import human_duration, human_size

_FRESH_S = 3600.0  # what ran out of memory within the hour is going on
_MANY_ERRORS, _OFTENER = 20, 3  # two a minute, and three times what it always writes: something has changed
_FLOOD_OF_ERRORS = 300  # one in two seconds is a fault, however long it goes on
_RESTARTS = 3  # once is an update, twice may be chance
# What prune would give back counts from 1 GiB on, or from a tenth of what is still free.
_SPACE_BYTES, _SPACE_SHARE = 1 << 30, 0.1


# --- memory that ran out -----------------------------------------------------------------------------


def _out_of_memory(facts: Facts) -> Iterator[Finding]:
    """One finding for each program and limit. A sandboxed call that met its own bound was told so itself."""
    kills: dict[tuple[str, str], list[OomKill]] = {}
    for one in facts.ooms:
        last = one.group.rpartition("/")[2]
        if not last.startswith("llmos-") or last.startswith(PREFIX):
            whose = one.container or (PREFIX if last.startswith(PREFIX) else one.group)
            kills.setdefault((one.name, whose), []).append(one)
    for (name, _), found in kills.items():
        last_kill, box = found[-1], _box_of(facts, found[-1].container)
        ago_s = max(0.0, time.time() - last_kill.at)
        yield Finding(
            "oom-kill", "memory", "high" if ago_s < _FRESH_S else "medium",
            f"The kernel ended {name} {_times(len(found))}: {_whose(last_kill, box)}",
            (f"kernel log: pid {last_kill.pid}, {human_duration(ago_s)} ago, "
             f"{human_size(last_kill.resident)} of its own memory",
             "it was ended without any chance to save what it had"),
            {"name": name, "count": len(found), "pid": last_kill.pid, "at": round(last_kill.at),
             "group": last_kill.group, "container": last_kill.container,
             "resident_bytes": last_kill.resident},
            tuple(_making_room(facts, last_kill, box)),
        )  # fmt: skip


def _whose(kill: OomKill, box: Container | None) -> str:
    if box:
        return f"the limit of container {box.name} was reached"
    if PREFIX in kill.group:
        return "a limit that llmos had set was reached"
    return (
        f"the limit of control group {kill.group} was reached"
        if kill.group
        else "the machine's memory ran out"
    )


def _box_of(facts: Facts, identity: str) -> Container | None:
    return next((one for one in facts.containers if identity and one.id == identity), None)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _making_room(facts: Facts, kill: OomKill, box: Container | None) -> Iterator[Suggestion]:
    unit = next((part for part in kill.group.split("/") if part.endswith(".service")), "")
    if box:
        yield from _more_memory(facts, box)
    elif unit:
        yield Suggestion("service.logs", {"name": unit, "lines": 50}, "what it did before")
        yield Suggestion("resource.status", {"target": unit, "kind": "service"}, "what it may use, and uses")
    elif not kill.group and (culprit := max(facts.processes, key=lambda one: one.bytes_now, default=None)):
        yield from bounding(culprit, facts.memory.total)
    yield Suggestion("process.list", {"sort": "memory"}, "who holds the most now")


def _more_memory(facts: Facts, box: Container) -> Iterator[Suggestion]:
    if box.memory:
        wider = min(box.memory * 3 // 2, facts.memory.total)
        args = {"target": f"container:{box.name}", "memory": f"{wider >> 20}M"}
        yield Suggestion("resource.limit", args, "half as much again")
    yield _logs(box)


def _logs(box: Container) -> Suggestion:
    return Suggestion("docker.container.logs", {"name": box.name, "lines": 50}, "what it says")


# --- services ----------------------------------------------------------------------------------------


def _failed_units(facts: Facts) -> Iterator[Finding]:
    for unit in facts.units:
        yield Finding(
            "failed-unit", "services", "high", f"{unit.name} has failed",
            (f"systemd ({unit.scope}) says {unit.state}: {unit.description}",),
            {"unit": unit.name},
            (Suggestion("service.logs", {"name": unit.name, "lines": 50}, "why it failed"),
             Suggestion("service.restart", {"name": unit.name}, "try it again")),
        )  # fmt: skip


def _complaints(facts: Facts) -> Iterator[Finding]:
    for one in facts.complaints:
        changed = one.errors >= _MANY_ERRORS and one.errors >= one.before * _OFTENER
        if not changed and one.errors < _FLOOD_OF_ERRORS:
            continue
        own = one.unit.endswith(".service")
        name = {"name": one.unit} if one.unit != "kernel" else {}
        again = Suggestion("service.restart", {"name": one.unit}, "start it afresh, if that may be")
        yield Finding(
            "errors", "services", "medium",
            f"{one.unit} wrote {one.errors} errors into the journal in {human_duration(one.over_s)}",
            (f"{one.before} in as long a time before", f"the last one: {one.last[:200]}"),
            {"unit": one.unit, "scope": one.scope, "errors": one.errors, "before": one.before,
             "over_s": one.over_s},
            (Suggestion("service.logs", {**name, "lines": 50, "priority": "err"}, "what it complains of"),
             *((again,) if own else ())),
        )  # fmt: skip


# --- containers --------------------------------------------------------------------------------------


def _troubled_containers(facts: Facts) -> Iterator[Finding]:
    told = {one.container for one in facts.ooms}
    for box in facts.containers:
        if box.state == "restarting" or (box.recent and box.restarts >= _RESTARTS):
            yield _about(
                box, "container-restarting", "high", f"container {box.name} starts over and over",
                f"its restart policy started it {_times(box.restarts)}; exit code {box.exit_code}",
                _logs(box), Suggestion("docker.container.stop", {"name": box.name}, "let it rest for now"),
            )  # fmt: skip
        if box.health == "unhealthy":
            yield _about(
                box, "container-unhealthy", "high", f"container {box.name} is unhealthy",
                f"its own health check fails: {box.said or 'without a word'}",
                _logs(box), Suggestion("docker.container.restart", {"name": box.name}, "start it afresh"),
            )  # fmt: skip
        if box.out_of_memory and box.recent and box.id not in told:
            yield _about(
                box, "oom-kill", "high", f"container {box.name} was ended because its memory ran out",
                f"the engine says so; its limit is {human_size(box.memory) if box.memory else 'none'}",
                *_more_memory(facts, box),
            )  # fmt: skip


def _about(box: Container, kind: str, severity: str, what: str, how: str, *calls: Suggestion) -> Finding:
    numbers = {"container": box.id, "name": box.name, "restarts": box.restarts, "exit_code": box.exit_code}
    return Finding(
        kind, "containers", "high" if severity == "high" else "medium", what, (how,), numbers, calls
    )


def _unused_space(facts: Facts) -> Iterator[Finding]:
    space = facts.space
    if space is None:
        return
    free = next((disk.free for disk in _below(facts, space.place)), None)
    bound = _SPACE_BYTES if free is None else min(_SPACE_BYTES, free * _SPACE_SHARE)
    if space.dangling and space.dangling_bytes >= bound:
        yield Finding(
            "unused-images", "containers", "low",
            f"{human_size(space.dangling_bytes)} are taken by {space.dangling} images without a name",
            (f"no container was made of them; they lie in {space.place}",),
            {"count": space.dangling, "bytes": space.dangling_bytes},
            (Suggestion("docker.image.prune", {}, "remove exactly these"),),
        )  # fmt: skip
    if space.volumes and space.volume_bytes >= bound:
        yield Finding(
            "unused-volumes", "containers", "low",
            f"{human_size(space.volume_bytes)} are taken by {space.volumes} volumes that no container has",
            (f"they lie in {space.place}, and may hold what somebody wants to keep",),
            {"count": space.volumes, "bytes": space.volume_bytes},
            (Suggestion("docker.volume.prune", {"all": True, "preview": True}, "which they are"),),
        )  # fmt: skip


def _below(facts: Facts, place: str) -> list[Disk]:
    """The file systems that a place may be on, the nearest first."""
    over = [disk for disk in facts.disks if (place + "/").startswith(disk.place.rstrip("/") + "/")]
    return sorted(over, key=lambda disk: -len(disk.place))


def _unbounded_containers(facts: Facts) -> Iterator[Finding]:
    for group in facts.groups:
        if not group.container or group.limit is not None:
            continue
        box = _box_of(facts, group.container)
        name = box.name if box else group.container[:12]
        # Twice what it uses, and at least 256 MiB, under which few services start.
        bound = max(256, group.used * 2 >> 20)
        args = {"target": f"container:{name}", "memory": f"{bound}M"}
        yield Finding(
            "container-unlimited", "containers", "low",
            f"container {name} may take all of the machine's memory",
            (f"its control group {group.path} has no memory limit", f"it uses {human_size(group.used)} now"),
            {"container": group.container, "used_bytes": group.used},
            (Suggestion("resource.limit", args, "twice what it uses now"),),
        )  # fmt: skip


LOOKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _out_of_memory, _failed_units, _complaints, _troubled_containers, _unused_space, _unbounded_containers,
)  # fmt: skip
