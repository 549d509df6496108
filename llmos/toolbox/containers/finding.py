"""Which container, image, volume or network a name means: exactly one, or an error that names some."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llmos.errors import UsageError
from llmos.messages import JsonObject

if TYPE_CHECKING:
    from docker import APIClient

_MAX_NAMED = 8
_HEX = frozenset("0123456789abcdef")


def container(client: APIClient, name: str) -> JsonObject:
    """What the engine knows of the container of this name, id or head of an id. Raises UsageError."""
    listed = client.containers(all=True)
    names = {label.lstrip("/"): found["Id"] for found in listed for label in found.get("Names") or ()}
    if name in names:
        return dict(client.inspect_container(names[name]))
    return dict(client.inspect_container(_by_id("container", name, [one["Id"] for one in listed], names)))


def image(client: APIClient, name: str) -> JsonObject:
    """The image of this reference or id. Raises UsageError."""
    from docker.errors import ImageNotFound

    try:
        return dict(client.inspect_image(name))
    except ImageNotFound:
        known = [tag for one in client.images() for tag in one.get("RepoTags") or ()]
        raise _none("image", name, [*known, *(tag.partition(":")[0] for tag in known)]) from None


def volume(client: APIClient, name: str) -> JsonObject:
    from docker.errors import NotFound

    try:
        return dict(client.inspect_volume(name))
    except NotFound:
        raise _none("volume", name, [one["Name"] for one in volumes(client)]) from None


def network(client: APIClient, name: str) -> JsonObject:
    """Several networks may have one name: then only an id will do."""
    listed = client.networks()
    named = [one for one in listed if one["Name"] == name]
    if len(named) > 1:
        ids = ", ".join(one["Id"][:12] for one in named)
        raise UsageError(f"{len(named)} networks are called {name}", f"Name one by its id: {ids}")
    if named:
        return dict(named[0])
    wanted = _by_id("network", name, [one["Id"] for one in listed], [one["Name"] for one in listed])
    return dict(next(one for one in listed if one["Id"] == wanted))


def volumes(client: APIClient, **filters: object) -> list[JsonObject]:
    return list(client.volumes(filters=filters or None).get("Volumes") or ())


def users_of_volume(client: APIClient, name: str) -> list[str]:
    """Names of the containers, stopped ones too, that use it."""
    return [title(one) for one in client.containers(all=True, filters={"volume": name})]


def title(listed: JsonObject) -> str:
    """A container's name, of an entry of the list or of what inspecting it gave."""
    names = listed.get("Names") or [listed.get("Name") or listed["Id"][:12]]
    return str(names[0]).lstrip("/")


def _by_id(kind: str, name: str, ids: Sequence[str], names: Iterable[str]) -> str:
    """The one id that begins so. Raises UsageError."""
    fits = [one for one in ids if one.startswith(name)] if set(name) <= _HEX else []
    if len(fits) == 1:
        return fits[0]
    if fits:
        some = ", ".join(one[:12] for one in fits[:_MAX_NAMED])
        raise UsageError(f"{len(fits)} ids begin with {name}: {some}", "Give more of it, or the name.")
    raise _none(kind, name, list(names))


def _none(kind: str, name: str, names: list[str]) -> UsageError:
    close = difflib.get_close_matches(name, names, 1)
    if close:
        step = f"Did you mean {close[0]}?"
    elif names:
        more = " …" if len(names) > _MAX_NAMED else ""
        step = f"There are: {', '.join(sorted(names)[:_MAX_NAMED])}{more}"
    else:
        step = f"There is no {kind} at all."
    return UsageError(f"there is no {kind} {name}", step)
