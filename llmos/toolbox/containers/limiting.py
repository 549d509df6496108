"""Limits of a container as the target of resource.limit and resource.release.

What the engine can hold it is told, so that `docker inspect` says the same and a restart keeps it: CPU and
shares, CPUs, memory, processes. Bandwidth, I/O weight and memory.high it cannot change in a container that is
there: these are set on a control group around its processes, by `resources`. Both or neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmos.errors import CallFailed, LlmosError
from llmos.messages import Caller, Change, Changed, Effects, JsonObject
from llmos.toolbox.containers import changing, finding
from llmos.toolbox.containers.changing import the_container
from llmos.toolbox.containers.engine import Work, connected, socket_of
from llmos.toolbox.context import ContainerInfo, Draft
from llmos.toolbox.limits import Limits, shares

if TYPE_CHECKING:
    from docker import APIClient

Grouping = Callable[[JsonObject, Caller], Changed]  # resource.limit, or resource.release
_BY_GROUP = frozenset({"io", "io_weight", "memory_high"})


def plan(
    verb: str, meant: ContainerInfo, uid: int, known: list[JsonObject], shows: str, **more: object
) -> Draft:
    """`verb` is limit or release; `known` are the container's processes."""
    args = {"engine": socket_of(uid), "id": meant.id, "name": meant.name, "label": f"container {meant.name}",
            "known": known, **more}  # fmt: skip
    target = (f"container:{meant.name}",)
    change = Change(changer=f"docker.container.{verb}", args=args, shows=shows)
    return Draft((change,), Effects(containers=target, resources=target))


def limiting(around: Grouping) -> Callable[[JsonObject, Caller], Changed]:
    """The changer docker.container.limit; `around` puts the rest around the container's processes."""

    def change(args: JsonObject, caller: Caller) -> Changed:
        limits = Limits.model_validate(args["limits"])
        rest = limits.model_dump(exclude_none=True, include=set(_BY_GROUP))
        with connected(args["engine"]) as client:
            found = the_container(client, args)
            if rest and not args["known"]:
                raise CallFailed(
                    f"{finding.title(found)} does not run: limits of its I/O are those of its processes",
                    "Start it first: docker.container.start",
                )
            asked = _asked(limits, found["HostConfig"])
            done = changing.set_limits(client, args, found, asked) if asked else Changed(text="")
            if not rest:
                return done
            step = {"label": args["label"], "known": args["known"], "limits": rest}
            return _with_group(client, args, found, done, lambda: around(step, caller))

    return Work(change)


def _with_group(
    client: APIClient, args: JsonObject, found: JsonObject, done: Changed, group: Callable[[], Changed]
) -> Changed:
    """The second half; where it fails, the first is taken back."""
    try:
        rest = group()
    except (LlmosError, OSError):
        for back in done.reverse:
            if isinstance(back, Change):
                changing.set_limits(client, args, found, dict(back.args["limits"]))
        raise
    return Changed(text=done.text + rest.text, reverse=(*rest.reverse, *done.reverse))


def _asked(limits: Limits, host: JsonObject) -> JsonObject:
    """In the engine's words."""
    asked = changing.limits_asked(limits.memory, limits.cpu / 100 if limits.cpu else None, host)
    if limits.cpu_weight is not None:
        asked["CpuShares"] = shares(limits.cpu_weight)
    if limits.cpus is not None:
        asked["CpusetCpus"] = limits.cpus
    if limits.pids is not None:
        asked["PidsLimit"] = limits.pids
    return asked


def releasing(ungroup: Grouping) -> Callable[[JsonObject, Caller], Changed]:
    """The changer docker.container.release: everything the machine has, and no group around it."""

    def change(args: JsonObject, caller: Caller) -> Changed:
        with connected(args["engine"]) as client:
            found = the_container(client, args)
            free = _unbounded(client, found["HostConfig"])
            done = changing.set_limits(client, args, found, free) if free else Changed(text="")
        try:
            step = {"label": args["label"], "known": args["known"]}
            rest = ungroup(step, caller) if args["known"] else Changed(text="")
        except CallFailed:
            if not free:
                raise
            rest = Changed(text="")
        if not free and not args["known"]:
            raise CallFailed(f"{args['name']} has no limit", "See: docker.container.inspect")
        return Changed(text=done.text + rest.text, reverse=(*rest.reverse, *done.reverse))

    return Work(change)


def _unbounded(client: APIClient, host: JsonObject) -> JsonObject:
    """For each limit that is set, what comes nearest to none."""
    free = {
        key: most
        for key, most in changing.unbounded(client).items()
        if host.get(key) not in (None, 0, "", most)
    }
    return (
        {**free, "MemorySwap": -1}
        if "Memory" in free
        else {k: v for k, v in free.items() if k != "MemorySwap"}
    )
