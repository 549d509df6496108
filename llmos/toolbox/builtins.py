"""Pairs, observers and changers that a shipped manifest may name, and the module of each.

A module is imported when one of its names is first used: the broker has all tools and uses few. A new area is
one line in each table that it has something for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Generic, TypeVar

from llmos.messages import Caller, Changed, JsonObject
from llmos.toolbox.context import Pair

_T = TypeVar("_T")


class Table(Mapping[str, _T], Generic[_T]):
    """Names to what stands under them in the constant `kind` of their modules."""

    def __init__(self, kind: str, **names: str) -> None:
        self._kind = kind
        self._module_of = {name: module for module, listed in names.items() for name in listed.split()}

    def __getitem__(self, name: str) -> _T:
        entry: _T = getattr(_module(self._module_of[name]), self._kind)[name]
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._module_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._module_of)

    def __len__(self) -> int:
        return len(self._module_of)


def _module(name: str) -> ModuleType:  # noqa: PLR0912, PLR0915 - a case for each module
    """Written out, because an import of a computed name is one that no test can check."""
    found: ModuleType
    match name:
        case "advising":
            from llmos.toolbox import advising as found
        case "archives":
            from llmos.toolbox import archives as found
        case "attributes":
            from llmos.toolbox import attributes as found
        case "commands":
            from llmos.toolbox import commands as found
        case "containers":
            from llmos.toolbox.containers import tables as found
        case "files":
            from llmos.toolbox import files as found
        case "goals":
            from llmos.toolbox import goals as found
        case "holders":
            from llmos.toolbox import holders as found
        case "lines":
            from llmos.toolbox import lines as found
        case "links":
            from llmos.toolbox import links as found
        case "listing":
            from llmos.toolbox import listing as found
        case "network":
            from llmos.toolbox import network as found
        case "packagechanges":
            from llmos.toolbox import packagechanges as found
        case "packages":
            from llmos.toolbox import packages as found
        case "processes":
            from llmos.toolbox import processes as found
        case "processfacts":
            from llmos.toolbox import processfacts as found
        case "resources":
            from llmos.toolbox import resources as found
        case "servicechanges":
            from llmos.toolbox import servicechanges as found
        case "services":
            from llmos.toolbox import services as found
        case "settings":
            from llmos.toolbox import settings as found
        case "several":
            from llmos.toolbox import several as found
        case "system":
            from llmos.toolbox import system as found
        case "tables":
            from llmos.toolbox import tables as found
        case "text":
            from llmos.toolbox import text as found
        case "trash":
            from llmos.toolbox import trash as found
        case "usage":
            from llmos.toolbox import usage as found
        case "users":
            from llmos.toolbox import users as found
        case "waits":
            from llmos.toolbox import waits as found
        case _:
            raise KeyError(name)
    return found


PAIRS: Mapping[str, Pair] = Table(
    "PAIRS",
    advising="advise",
    goals="goal.add goal.remove goal.list",
    commands="commands.shell commands.reply",
    listing="files.list files.find files.tree files.usage files.read",
    files="files.write files.move files.copy",
    trash="trash.trash trash.restore files.delete",
    archives="files.archive",
    attributes="files.permissions",
    links="files.link",
    several="files.rename files.duplicates files.checksum files.mkdir",
    tables="tables.columns tables.export tables.query tables.update",
    lines="lines.tail lines.compare lines.lines",
    settings="settings.set",
    text="text.search text.count text.replace",
    processes="processes.list processes.stop processes.start processes.suspend processes.resume",
    system="system.info system.memory system.disk system.load system.ports",
    processfacts="process.tree process.details",
    holders="process.holders",
    waits="process.wait",
    usage="resource.status",
    resources="resource.limit resource.release resource.priority resource.affinity resource.rlimit",
    services="service.status service.failed service.timers service.logs",
    servicechanges="service.start service.stop service.restart service.enable",
    packages="package.installed package.provides package.updates",
    packagechanges="package.install package.remove",
    users="user.list user.info session.list",
    network="net.interfaces net.dns net.ping net.connections",
    containers=(
        "docker.container.list docker.container.inspect docker.container.logs docker.container.stats "
        "docker.container.wait docker.container.start docker.container.stop docker.container.restart "
        "docker.container.remove docker.container.exec docker.container.update docker.container.run "
        "docker.image.list docker.image.build docker.image.pull docker.image.tag docker.image.remove "
        "docker.image.prune docker.volume.list docker.volume.create docker.volume.remove "
        "docker.volume.backup docker.volume.restore docker.volume.prune docker.network.list "
        "docker.network.create docker.network.remove docker.network.connect docker.network.disconnect "
        "docker.disk"
    ),
)
OBSERVERS: Mapping[str, Callable[[JsonObject], str]] = Table(
    "OBSERVERS",
    advising="advise",
    goals="goal.list",
    attributes="file.permissions",
    processes="process.list",
    system="system.info system.memory system.disk system.load system.ports",
    processfacts="process.tree process.details",
    holders="process.holders",
    waits="process.wait",
    usage="resource.status",
    services="service.status service.failed service.timers service.logs",
    users="user.list user.info session.list",
    network="net.interfaces net.dns net.ping net.connections",
    containers=(
        "docker.container.list docker.container.inspect docker.container.logs docker.container.stats "
        "docker.container.wait docker.image.list docker.image.prune docker.volume.list docker.volume.prune "
        "docker.network.list docker.disk"
    ),
)
CHANGERS: Mapping[str, Callable[[JsonObject, Caller], Changed]] = Table(
    "CHANGERS",
    goals="goal.add goal.remove",
    attributes="file.owner",
    links="file.hardlink",
    resources=(
        "resource.limit resource.release resource.values resource.restore resource.ungroup resource.tune "
        "resource.free resource.unit resource.leave"
    ),
    servicechanges="service",
    packagechanges="package",
    containers=(
        "docker.container.start docker.container.stop docker.container.restart docker.container.remove "
        "docker.container.create docker.container.exec docker.container.update docker.container.run "
        "docker.container.limit docker.container.release docker.image.pull "
        "docker.image.build docker.image.tag docker.image.remove docker.image.prune "
        "docker.volume.create docker.volume.remove docker.volume.backup docker.volume.discard "
        "docker.volume.restore docker.volume.prune docker.network.create docker.network.remove "
        "docker.network.connect docker.network.disconnect"
    ),
)
