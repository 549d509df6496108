"""Changing images: build, get, tag, remove, prune. A tag that pointed elsewhere before can be turned back.

An image that is removed wholly is gone: only losing one of several names is taken back. Builds and pulls read
no registry passwords. What a Dockerfile runs, runs in the engine's build containers, with their network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llmos.errors import CallFailed
from llmos.messages import Change, Changed, JsonObject
from llmos.toolbox.containers import finding, looking
from llmos.toolbox.containers.changing import changer, step
from llmos.toolbox.values import human_size, shown

if TYPE_CHECKING:
    from docker import APIClient

SLOW_S = 1800.0  # a step of a build may say nothing for long
_SAID_LINES = 15
_SHORT = 12


def split(name: str) -> tuple[str, str]:
    """Repository, and tag or digest; `latest` when neither is said."""
    if "@" in name:
        return name, ""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def id_of(client: APIClient, name: str) -> str:
    """The id an image's name stands for; empty when it stands for none."""
    from docker.errors import ImageNotFound

    try:
        return str(client.inspect_image(name)["Id"])
    except ImageNotFound:
        return ""


def _pull(client: APIClient, args: JsonObject) -> Changed:
    name = args["name"]
    repository, tag = split(name)
    whole = name if not tag else f"{repository}:{tag}"
    before = id_of(client, whole)
    for line in client.pull(repository, tag=tag or None, stream=True, decode=True, auth_config={}):
        if "error" in line:
            raise CallFailed(f"{whole} could not be got: {shown(str(line['error']))}", "Check its name.")
    found = finding.image(client, whole)
    if found["Id"] == before:
        return Changed(text=f"{whole} was up to date.\n")
    size = human_size(found["Size"])
    return Changed(text=f"got {whole} ({size}).\n", reverse=(_back(args, whole, before),))


def _build(client: APIClient, args: JsonObject) -> Changed:
    tag = args.get("tag")
    before = id_of(client, tag) if tag else ""
    said = client.build(
        path=args["path"], tag=tag, nocache=bool(args.get("no_cache")), rm=True, forcerm=True, decode=True
    )
    built, lines = _heard(said)
    shown_lines = "".join(f"{line}\n" for line in lines[-_SAID_LINES:])
    if built == before:
        return Changed(text=f"{shown_lines}{tag} is as it was.\n")
    name = tag or built
    made = f"built {tag or built.removeprefix('sha256:')[:_SHORT]}.\n"
    return Changed(text=shown_lines + made, reverse=(_back(args, name, before),))


def _heard(said: Iterable[JsonObject]) -> tuple[str, list[str]]:
    """The image's id and the lines of the build. Raises CallFailed with the last of them."""
    built, lines = "", list[str]()
    for part in said:
        lines += [shown(line) for line in str(part.get("stream", "")).splitlines() if line.strip()]
        built = str((part.get("aux") or {}).get("ID", built))
        if "error" in part:
            tail = " / ".join(lines[-3:])
            raise CallFailed(
                f"the build failed: {shown(str(part['error']))} (after: {tail})", "Mend the Dockerfile."
            )
    if not built:
        raise CallFailed("the engine built nothing", "See whether the Dockerfile has a FROM line.")
    return built, lines


def _back(args: JsonObject, name: str, before: str) -> Change:
    """What takes back that `name` stands for another image now."""
    if before:
        given = {"engine": args["engine"], "image": before, "name": name}
        return step("docker.image.tag", given, f"docker tag {before[:19]} {name}")
    return step("docker.image.remove", {"engine": args["engine"], "name": name}, f"docker rmi {name}")


def _tag(client: APIClient, args: JsonObject) -> Changed:
    found, (repository, tag) = finding.image(client, args["image"]), split(args["name"])
    name = f"{repository}:{tag}"
    before = id_of(client, name)
    if before == found["Id"]:
        return Changed(text=f"{name} stands for it already.\n")
    client.tag(found["Id"], repository, tag)
    return Changed(text=f"{name} is {args['image']} now.\n", reverse=(_back(args, name, before),))


def _remove(client: APIClient, args: JsonObject) -> Changed:
    found = finding.image(client, args["name"])
    client.remove_image(args["name"], force=bool(args.get("force")))
    if not id_of(client, found["Id"]):
        return Changed(text=f"{args['name']} is removed. To have it again it must be built or pulled.\n")
    again = {"engine": args["engine"], "image": found["Id"], "name": args["name"]}
    back = step("docker.image.tag", again, f"docker tag {found['Id'][:19]} {args['name']}")
    return Changed(text=f"{args['name']} is no name of that image any more.\n", reverse=(back,))


# --- prune --------------------------------------------------


def _prune(client: APIClient, args: JsonObject) -> Changed:
    """Exactly the images that were shown; one that got a container meanwhile stays."""
    freed = {one["Id"]: one["Size"] for one in looking.unused(client, every=bool(args.get("all")))}
    gone = [one for one in args["ids"] if one in freed and _removed(client, one)]
    kept = len(args["ids"]) - len(gone)
    note = f" {kept} stayed: something uses them by now." if kept else ""
    size = human_size(sum(freed[one] for one in gone))
    return Changed(text=f"{len(gone)} images are removed (up to {size}).{note}\n")


def _removed(client: APIClient, identity: str) -> bool:
    from docker.errors import APIError

    try:
        client.remove_image(identity, force=True)  # with all its names; what containers use is refused still
    except APIError:
        return False
    return True


CHANGERS = {
    "docker.image.pull": changer(_pull, SLOW_S),
    "docker.image.build": changer(_build, SLOW_S),
    "docker.image.tag": changer(_tag),
    "docker.image.remove": changer(_remove),
    "docker.image.prune": changer(_prune, 600.0),
}
