"""Looking at the engine: lists, details, output, use and space. Read-only, bounded in lines and bytes.

Observers take what a plan put into their step: the tool's arguments and `engine`, the socket.
What a container prints, and the labels and names it bears, are data made by others.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmos.messages import JsonObject
from llmos.toolbox.containers import finding
from llmos.toolbox.containers.engine import Work, connected, unanswered
from llmos.toolbox.values import human_duration, human_size, shown, table

if TYPE_CHECKING:
    from docker import APIClient

MAX_LOG_BYTES = 1 << 20
_SAMPLE_S = 0.5  # CPU use is measured over this long
_MAX_SAMPLED = 200
_SHORT = 12  # characters of an id
_HIDDEN_ENV = "(set; values are not shown)"


def _list(client: APIClient, args: JsonObject) -> str:
    wanted = str(args.get("name") or "")
    found = [one for one in client.containers(all=True) if _is_meant(one, wanted, every=args.get("all"))]
    if not found:
        which = f" called {wanted}" if wanted else "" if args.get("all") else " runs"
        return f"No container{which}.\n"
    rows = [
        (finding.title(one), one["Image"], one["Status"], _ports(one.get("Ports") or []), one["Id"][:_SHORT])
        for one in found
    ]
    return table([("NAME", "IMAGE", "STATUS", "PORTS", "ID"), *(tuple(map(shown, row)) for row in rows)])


def _is_meant(one: JsonObject, wanted: str, *, every: Any) -> bool:
    if wanted:
        return wanted in finding.title(one) or one["Id"].startswith(wanted)
    return bool(every) or one["State"] in ("running", "paused", "restarting")


def _ports(ports: list[JsonObject]) -> str:
    found = {
        f"{one['PublicPort']}->{one['PrivatePort']}/{one['Type']}"
        if one.get("PublicPort")
        else f"{one['PrivatePort']}/{one['Type']}"
        for one in ports
    }
    return ", ".join(sorted(found)) or "-"


# --- one container ---------------------------------------------------------------------------------


def _inspect(client: APIClient, args: JsonObject) -> str:
    """All the engine knows, as JSON. Values of variables are left out: passwords are handed over in them."""
    found = finding.container(client, args["name"])
    config = found.get("Config") or {}
    names = [str(entry).partition("=")[0] for entry in config.get("Env") or ()]
    config["Env"] = [f"{name}={_HIDDEN_ENV}" for name in names]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _logs(client: APIClient, args: JsonObject) -> str:
    found = finding.container(client, args["name"])
    lines, since_s = int(args.get("lines") or 100), args.get("since")
    since = time.time() - since_s if since_s else None
    chunks = client.logs(found["Id"], stream=True, follow=False, tail=lines, since=since)
    text, cut = capped(chunks, MAX_LOG_BYTES)
    note = f"… cut after {human_size(MAX_LOG_BYTES)}.\n" if cut else ""
    return (text + note) if text else f"{finding.title(found)} has printed nothing{_since(since_s)}.\n"


def _wait(client: APIClient, args: JsonObject) -> str:
    """Until it ends, or long enough."""
    found, timeout_s = finding.container(client, args["name"]), float(args.get("timeout") or 600.0)
    name = finding.title(found)
    try:
        code = client.wait(found["Id"], timeout=timeout_s)["StatusCode"]
    except unanswered():
        return f"{name} still runs after {human_duration(timeout_s)}.\n"
    return f"{name} has ended with exit code {code}.\n"


def _since(since_s: float | None) -> str:
    return f" in the last {human_duration(since_s)}" if since_s else ""


def capped(chunks: Any, most: int) -> tuple[str, bool]:
    """The first bytes of a stream as text, and whether there was more."""
    parts, size = [], 0
    for chunk in chunks:
        parts.append(chunk[: most - size])
        size += len(chunk)
        if size > most:
            break
    return b"".join(parts).decode("utf-8", "replace"), size > most


# --- use -------------------------------------------------------------------------------------------


def _stats(client: APIClient, args: JsonObject) -> str:
    wanted = args.get("name")
    if wanted:
        found = finding.container(client, wanted)
        listed = [found] if found["State"]["Running"] else []
    else:
        listed = client.containers()[:_MAX_SAMPLED]
    if not listed:
        return f"{wanted} does not run.\n" if wanted else "No container runs.\n"
    before = {one["Id"]: _sample(client, one["Id"]) for one in listed}
    time.sleep(_SAMPLE_S)
    rows = [(finding.title(one), _use(before[one["Id"]], _sample(client, one["Id"]))) for one in listed]
    rows.sort(key=lambda row: -row[1][0])
    header = ("NAME", "CPU%", "MEMORY", "LIMIT", "PROCESSES")
    return table([header, *((name, *_cells(use)) for name, use in rows)], frozenset({1, 2, 3}))


def _sample(client: APIClient, identity: str) -> JsonObject:
    from docker.errors import APIError

    try:
        return dict(client.stats(identity, stream=False, one_shot=True))
    except APIError:  # it ended meanwhile
        return {}


_Use = tuple[float, int, int, int]  # CPU percent, bytes, limit, processes


def _use(old: JsonObject, new: JsonObject) -> _Use:
    """As `docker stats` counts: 100 % is one CPU, and pages that can be dropped are not memory in use."""
    cpu, was = new.get("cpu_stats") or {}, old.get("cpu_stats") or {}
    took = _total(cpu) - _total(was)
    passed = cpu.get("system_cpu_usage", 0) - was.get("system_cpu_usage", 0)
    percent = 100 * took / passed * (cpu.get("online_cpus") or 1) if passed > 0 else 0.0
    memory = new.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    idle = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    processes = (new.get("pids_stats") or {}).get("current", 0)
    return max(0.0, percent), max(0, memory.get("usage", 0) - idle), memory.get("limit", 0), processes


def _total(cpu: JsonObject) -> int:
    return int((cpu.get("cpu_usage") or {}).get("total_usage", 0))


def _cells(use: _Use) -> tuple[str, ...]:
    percent, memory, limit, processes = use
    return f"{percent:.1f}", human_size(memory), human_size(limit) if limit else "-", str(processes)


# --- images that nobody uses ------------------------------------------------------------


def unused(client: APIClient, *, every: bool) -> list[JsonObject]:
    """Images that no container, stopped ones included, was made of; only those without a name, or all."""
    used = {one["ImageID"] for one in client.containers(all=True)}
    found = client.images() if every else client.images(filters={"dangling": True})
    return [one for one in found if one["Id"] not in used]


def unused_volumes(client: APIClient, *, every: bool) -> list[str]:
    """Volumes that no container, stopped ones included, has; only those nobody has named, or all."""
    names = sorted(str(one["Name"]) for one in finding.volumes(client, dangling=True))
    return [name for name in names if every or _ANONYMOUS.fullmatch(name)]


_ANONYMOUS = re.compile(r"[0-9a-f]{64}")


def titles(one: JsonObject) -> list[str]:
    """The names of an image, or its id."""
    tags = [tag for tag in one.get("RepoTags") or () if tag != "<none>:<none>"]
    return tags or [one["Id"].removeprefix("sha256:")[:_SHORT]]


def _would_go(client: APIClient, args: JsonObject) -> str:
    found = unused(client, every=bool(args.get("all")))
    if not found:
        return "No image would be removed.\n"
    rows = [(", ".join(titles(one)), human_size(one["Size"])) for one in found]
    return table([("WOULD BE REMOVED", "SIZE"), *rows])


def _volumes_to_go(client: APIClient, args: JsonObject) -> str:
    names = unused_volumes(client, every=bool(args.get("all")))
    if not names:
        return "No volume would be removed.\n"
    known = {one["Name"]: one["UsageData"]["Size"] for one in client.df().get("Volumes") or ()}
    rows = [(name, human_size(max(0, known.get(name, 0)))) for name in names]
    return table([("WOULD BE REMOVED, WITH ITS DATA", "SIZE"), *rows])


# --- images, volumes, networks, space ----------------------------------------------------------------


def _images(client: APIClient, args: JsonObject) -> str:
    wanted = str(args.get("name") or "")
    rows = [
        (tag, human_size(one["Size"]), _age(one["Created"]), one["Id"].removeprefix("sha256:")[:_SHORT])
        for one in client.images()
        for tag in one.get("RepoTags") or ("<none>",)
        if wanted in tag
    ]
    if not rows:
        return f"No image is called {wanted}.\n" if wanted else "No image.\n"
    return table([("IMAGE", "SIZE", "AGE", "ID"), *sorted(rows)], frozenset({1, 2}))


def _age(created: float) -> str:
    return human_duration(time.time() - created)


def _volumes(client: APIClient, args: JsonObject) -> str:
    found = finding.volumes(client, dangling=True) if args.get("unused") else finding.volumes(client)
    rows = [
        (one["Name"], one["Driver"], ", ".join(finding.users_of_volume(client, one["Name"])) or "-")
        for one in sorted(found, key=lambda one: str(one["Name"]))
    ]
    if not rows:
        return "No volume is unused.\n" if args.get("unused") else "No volume.\n"
    return table([("VOLUME", "DRIVER", "USED BY"), *rows])


def _networks(client: APIClient, args: JsonObject) -> str:
    rows = [
        (one["Name"], one["Driver"], one["Scope"], ", ".join(_subnets(one)) or "-", one["Id"][:_SHORT])
        for one in sorted(client.networks(), key=lambda one: str(one["Name"]))
    ]
    return table([("NETWORK", "DRIVER", "SCOPE", "SUBNETS", "ID"), *rows])


def _subnets(one: JsonObject) -> list[str]:
    return [str(part.get("Subnet", "")) for part in (one.get("IPAM") or {}).get("Config") or ()]


def _disk(client: APIClient, args: JsonObject) -> str:
    found = client.df()
    kinds = (
        ("Images", found.get("Images") or [], lambda one: one["Size"], lambda one: one["Containers"] > 0),
        ("Containers", found.get("Containers") or [], lambda one: one.get("SizeRw", 0),
         lambda one: one["State"] == "running"),
        ("Volumes", found.get("Volumes") or [], lambda one: max(0, one["UsageData"]["Size"]),
         lambda one: one["UsageData"]["RefCount"] > 0),
        ("Build cache", found.get("BuildCache") or [], lambda one: one["Size"], lambda one: one["InUse"]),
    )  # fmt: skip
    rows = [_kind_row(*kind) for kind in kinds]
    return table([("KIND", "COUNT", "IN USE", "SIZE", "UNUSED"), *rows], frozenset({1, 2, 3}))


def _kind_row(
    name: str, found: list[JsonObject], size: Callable[[JsonObject], int], used: Callable[[JsonObject], bool]
) -> tuple[str, ...]:
    unused = sum(size(one) for one in found if not used(one))
    in_use = sum(1 for one in found if used(one))
    return name, str(len(found)), str(in_use), human_size(sum(map(size, found))), human_size(unused)


def _observer(look: Callable[[APIClient, JsonObject], str]) -> Callable[[JsonObject], str]:
    def observe(args: JsonObject) -> str:
        with connected(args["engine"]) as client:
            return look(client, args)

    return Work(observe)


OBSERVERS: dict[str, Callable[[JsonObject], str]] = {
    name: _observer(look)
    for name, look in {
        "docker.container.list": _list,
        "docker.container.inspect": _inspect,
        "docker.container.logs": _logs,
        "docker.container.stats": _stats,
        "docker.container.wait": _wait,
        "docker.image.list": _images,
        "docker.image.prune": _would_go,
        "docker.volume.list": _volumes,
        "docker.volume.prune": _volumes_to_go,
        "docker.network.list": _networks,
        "docker.disk": _disk,
    }.items()
}
