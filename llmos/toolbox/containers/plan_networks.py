"""Plans of what changes networks."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from llmos.errors import UsageError
from llmos.messages import Change, Effects, JsonObject
from llmos.toolbox.containers import finding, networks, spec
from llmos.toolbox.containers.engine import Work, check_name, check_new_name, socket_of
from llmos.toolbox.containers.planning import chosen, looked_up
from llmos.toolbox.context import Args, Context, Draft, Pair

if TYPE_CHECKING:
    from docker import APIClient


def _plan_create(args: Args, context: Context) -> Draft:
    tool = "docker.network.create"
    name = check_new_name(tool, args["name"])
    if name in networks.PREDEFINED:
        raise UsageError(f"{tool}: the engine has a network {name} of its own", "Choose another name.")
    words = ["docker", "network", "create", *(["--internal"] if args.get("internal") else []), name]
    given = {"engine": socket_of(context.uid), "name": name, **chosen(args, "internal")}
    step = Change(changer=tool, args=given, shows=shlex.join(words))
    return Draft((step,), Effects(containers=(f"network:{name}",)))


def _plan_remove(args: Args, context: Context) -> Draft:
    tool = "docker.network.remove"
    name = check_name(tool, "name", args["name"])
    if name in networks.PREDEFINED:
        raise UsageError(f"{tool}: {name} is the engine's own network, which stays", "Name another.")
    engine, found = looked_up(context, lambda client: finding.network(client, name))
    title = str(found["Name"]) if found else name
    given = {"engine": engine, "name": title, **({"id": found["Id"]} if found else {})}
    line = shlex.join(["docker", "network", "rm", title])
    return Draft((Change(changer=tool, args=given, shows=line),), Effects(containers=(f"network:{title}",)))


def _crossing(verb: str) -> Pair:
    tool = f"docker.network.{verb}"

    def plan(args: Args, context: Context) -> Draft:
        container = check_name(tool, "container", args["container"])
        network = check_name(tool, "network", args["network"])

        def look(client: APIClient) -> JsonObject:
            return {
                "container": finding.container(client, container),
                "network": finding.network(client, network),
            }

        engine, _ = looked_up(context, look)
        line = shlex.join(["docker", "network", verb, network, container])
        given = {"engine": engine, "container": container, "network": network}
        settings = spec.reach({"NetworkMode": network}) if verb == "connect" else ()
        effects = Effects(containers=(f"container:{container}", f"network:{network}"), settings=settings)
        return Draft((Change(changer=tool, args=given, shows=line),), effects)

    return Pair(plan, prepare=Work.prepare)


PAIRS = {
    "docker.network.create": Pair(_plan_create, prepare=Work.prepare),
    "docker.network.remove": Pair(_plan_remove, prepare=Work.prepare),
    "docker.network.connect": _crossing("connect"),
    "docker.network.disconnect": _crossing("disconnect"),
}
