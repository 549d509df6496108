"""Changing networks: create, remove, connect, disconnect.

Only bridges are made: another driver would put containers on the machine's own network. A network that is
removed comes back as it was as long as nobody was in it, which is when the engine removes it at all.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from llmos.errors import CallFailed
from llmos.messages import Caller, Change, Changed, JsonObject
from llmos.toolbox.containers import finding
from llmos.toolbox.containers.changing import changer, step

if TYPE_CHECKING:
    from docker import APIClient

PREDEFINED = frozenset({"bridge", "host", "none"})
_KEPT = ("Driver", "Internal", "Attachable", "EnableIPv6", "IPAM", "Options", "Labels")


def _create(client: APIClient, args: JsonObject) -> Changed:
    name = args["name"]
    if any(one["Name"] == name for one in client.networks()):
        return Changed(text=f"the network {name} is there already.\n")
    body = args.get("body") or {"Driver": "bridge", "Internal": bool(args.get("internal"))}
    made = _made(client, {**body, "Name": name, "CheckDuplicate": True})
    kind = " without a way out" if body.get("Internal") else ""
    given = {"engine": args["engine"], "id": made, "name": name}
    back = step("docker.network.remove", given, shlex.join(["docker", "network", "rm", name]))
    return Changed(text=f"the network {name} is made{kind}.\n", reverse=(back,))


def _made(client: APIClient, body: JsonObject) -> str:
    """As `create_network`, which takes no body as it was inspected."""
    answer = client._post_json(client._url("/networks/create"), data=body)
    return str(client._result(answer, json=True)["Id"])


def _remove(client: APIClient, args: JsonObject) -> Changed:
    found = finding.network(client, args.get("id") or args["name"])
    whole = client.inspect_network(found["Id"])
    name = whole["Name"]
    if inside := sorted(one["Name"] for one in (whole.get("Containers") or {}).values()):
        raise CallFailed(
            f"{', '.join(inside[:8])} {'is' if len(inside) == 1 else 'are'} connected to the network {name}",
            "Take them out first: docker.network.disconnect",
        )
    client.remove_network(whole["Id"])
    again = {
        "engine": args["engine"],
        "name": name,
        "body": {key: whole[key] for key in _KEPT if key in whole},
    }
    back = step("docker.network.create", again, shlex.join(["docker", "network", "create", name]))
    return Changed(text=f"the network {name} is removed.\n", reverse=(back,))


def _connect(client: APIClient, args: JsonObject) -> Changed:
    container, network = _ends(client, args)
    client.connect_container_to_network(container["Id"], network["Id"])
    text = f"{finding.title(container)} is connected to {network['Name']}.\n"
    return Changed(text=text, reverse=(_crossing("disconnect", args),))


def _disconnect(client: APIClient, args: JsonObject) -> Changed:
    container, network = _ends(client, args)
    client.disconnect_container_from_network(container["Id"], network["Id"])
    text = f"{finding.title(container)} is not connected to {network['Name']} any more.\n"
    return Changed(text=text, reverse=(_crossing("connect", args),))


def _ends(client: APIClient, args: JsonObject) -> tuple[JsonObject, JsonObject]:
    return finding.container(client, args["container"]), finding.network(client, args["network"])


def _crossing(verb: str, args: JsonObject) -> Change:
    given = {key: args[key] for key in ("engine", "container", "network")}
    line = shlex.join(["docker", "network", verb, args["network"], args["container"]])
    return step(f"docker.network.{verb}", given, line)


CHANGERS: Mapping[str, Callable[[JsonObject, Caller], Changed]] = {
    "docker.network.create": changer(_create),
    "docker.network.remove": changer(_remove),
    "docker.network.connect": changer(_connect),
    "docker.network.disconnect": changer(_disconnect),
}
