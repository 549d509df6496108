"""From a tool's arguments to a plan: what is meant, what it touches, the line a person would have typed.

Planning looks at the engine with the caller's rights: a container is pinned by its id, and what is not there
is an error before anybody is asked. What weakens a container's walls becomes facts for the policy: for `exec`
its own settings, and a volume that is really a place of this machine. A call that comes after another change
of its request is planned leniently, as what it needs may only come to be; it is planned anew at its turn.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmos.errors import CallFailed, UsageError
from llmos.messages import Change, Effects, JsonObject, Observe
from llmos.toolbox.containers import finding, spec
from llmos.toolbox.containers.engine import Work, check_name, connected, socket_of
from llmos.toolbox.context import Args, Context, Draft, Pair

if TYPE_CHECKING:
    from docker import APIClient

Found = JsonObject | None
_MIN_MEMORY = 6 << 20  # what the engine takes


def chosen(args: Args, *names: str) -> JsonObject:
    """The arguments of these names that were given."""
    return {name: args[name] for name in names if args.get(name) is not None}


def looked_up(context: Context, look: Callable[[APIClient], JsonObject]) -> tuple[str, Found]:
    """The engine's socket, and what a look at it gave; nothing where an earlier call may still make it."""
    engine = socket_of(context.uid)
    try:
        with connected(engine) as client:
            return engine, look(client)
    except (UsageError, CallFailed):
        if not context.follows:
            raise
        return engine, None


# --- looking --------------------------------------------------------------------------------------------


def _observing(observer: str, line: str, *, reference: bool = False) -> Pair:
    def plan(args: Args, context: Context) -> Draft:
        if args.get("name") and not reference:
            check_name(observer, "name", args["name"])
        step = Observe(observer=observer, args={"engine": socket_of(context.uid), **chosen(args, *args)})
        return Draft((step,), command=_line(line, args))

    return Pair(plan, prepare=Work.prepare)


def _line(line: str, args: Args) -> str:
    words = [*line.split(), *(["--tail", str(args["lines"])] if "lines" in args else [])]
    words += ["--since", f"{args['since']:g}s"] if args.get("since") else []
    words += ["-a"] if args.get("all") else []
    words += [args["name"]] if args.get("name") else []
    return shlex.join(words)


# --- containers ------------------------------------------------------------------------------------------


def _on_container(verb: str, *options: str, walls: bool = False) -> Pair:
    """A change of one container. With `walls`, what its settings open becomes facts."""
    tool = f"docker.container.{verb}"

    def plan(args: Args, context: Context) -> Draft:
        name = check_name(tool, "name", args["name"])
        engine, found = looked_up(context, lambda client: _with_volumes(client, name))
        title = finding.title(found) if found else name
        given = {
            "engine": engine,
            "name": title,
            **({"id": found["Id"]} if found else {}),
            **chosen(args, *options),
        }
        settings = _settings_of(found) if found and walls else ()
        line = _CONTAINER_LINES[verb](args, title)
        effects = Effects(containers=(f"container:{title}",), settings=settings)
        return Draft((Change(changer=tool, args=given, shows=line),), effects)

    return Pair(plan, prepare=Work.prepare)


def _with_volumes(client: APIClient, name: str) -> JsonObject:
    """A container with the volumes it uses, of which some may be places of this machine."""
    found = finding.container(client, name)
    used = [
        one["Name"] for one in found.get("Mounts") or () if one.get("Type") == "volume" and one.get("Name")
    ]
    return {**found, "Volumes": [client.inspect_volume(one) for one in used]}


def _settings_of(found: JsonObject) -> tuple[str, ...]:
    behind = filter(None, map(spec.bind_behind, found["Volumes"]))
    return spec.reach_of(found, behind)


def _exec_line(args: Args, name: str) -> str:
    user = ["--user", args["user"]] if args.get("user") else []
    return f"{shlex.join(['docker', 'exec', *user, name])} {args['command']}"


def _stop_line(args: Args, name: str) -> str:
    grace = ["-t", f"{args['timeout']:g}"] if args.get("timeout") is not None else []
    return shlex.join(["docker", "stop", *grace, name])


def _remove_line(args: Args, name: str) -> str:
    options = [flag for flag, key in (("-f", "force"), ("-v", "volumes")) if args.get(key)]
    return shlex.join(["docker", "rm", *options, name])


_CONTAINER_LINES: dict[str, Callable[[Args, str], str]] = {
    "start": lambda args, name: shlex.join(["docker", "start", name]),
    "restart": lambda args, name: shlex.join(["docker", "restart", name]),
    "stop": _stop_line,
    "remove": _remove_line,
    "exec": _exec_line,
}


def _plan_exec(args: Args, context: Context) -> Draft:
    spec.words("docker.container.exec", args["command"])
    return _on_container("exec", "command", "user", walls=True).plan(args, context)


def _plan_update(args: Args, context: Context) -> Draft:
    tool, memory, cpus = "docker.container.update", args.get("memory"), args.get("cpus")
    if memory is None and cpus is None:
        raise UsageError(
            f"{tool}: give `memory` or `cpus`", 'For instance: {"name": "web", "memory": "512M"}'
        )
    check_limits(tool, memory, cpus)
    name = check_name(tool, "name", args["name"])
    engine, found = looked_up(context, lambda client: finding.container(client, name))
    title = finding.title(found) if found else name
    given = {"engine": engine, "name": title, **({"id": found["Id"]} if found else {}),
             **chosen(args, "memory", "cpus")}  # fmt: skip
    words = [*(["--memory", str(memory)] if memory else []), *(["--cpus", f"{cpus:g}"] if cpus else [])]
    line = shlex.join(["docker", "update", *words, title])
    target = (f"container:{title}",)
    effects = Effects(containers=target, resources=target)
    return Draft((Change(changer=tool, args=given, shows=line),), effects)


def check_limits(tool: str, memory: int | None, cpus: float | None) -> None:
    if memory is not None and memory < _MIN_MEMORY:
        raise UsageError(f"{tool}: argument `memory`: Docker takes 6M or more", "Give it more.")
    most = os.cpu_count() or 1
    if cpus is not None and not 0.01 <= cpus <= most:
        raise UsageError(
            f"{tool}: argument `cpus`: between 0.01 and {most} on this machine", "Give such a number."
        )


PAIRS: dict[str, Pair] = {
    "docker.container.list": _observing("docker.container.list", "docker ps"),
    "docker.container.inspect": _observing("docker.container.inspect", "docker inspect"),
    "docker.container.logs": _observing("docker.container.logs", "docker logs"),
    "docker.container.stats": _observing("docker.container.stats", "docker stats --no-stream"),
    "docker.container.wait": _observing("docker.container.wait", "docker wait"),
    "docker.container.start": _on_container("start"),
    "docker.container.stop": _on_container("stop", "timeout"),
    "docker.container.restart": _on_container("restart"),
    "docker.container.remove": _on_container("remove", "force", "volumes"),
    "docker.container.exec": Pair(_plan_exec, prepare=Work.prepare),
    "docker.container.update": Pair(_plan_update, prepare=Work.prepare),
    "docker.image.list": _observing("docker.image.list", "docker images", reference=True),
    "docker.volume.list": _observing("docker.volume.list", "docker volume ls"),
    "docker.network.list": _observing("docker.network.list", "docker network ls"),
    "docker.disk": _observing("docker.disk", "docker system df"),
}
