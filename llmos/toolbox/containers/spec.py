"""What a container is created with: built from an allow-list, and read for what lets it reach further.

    body(args, …)        the engine's JSON for a new container; nothing of a request gets there another way
    reach(host, mounts)  what of a HostConfig, ours or one that is there, weakens the walls: `settings`
    shows(args)          the `docker run` line a person would have typed

Pure but for following the sources of mounts. A bind mount names a place that is there: the engine, which is
root, makes no folders for us. What a setting may do is not decided here but by the policy's rules.
Source: Docker Engine API 1.41, ContainerCreate (https://docs.docker.com/reference/api/engine/).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmos.errors import UsageError
from llmos.messages import JsonObject
from llmos.toolbox.context import Args, Context

RUN = "docker.container.run"
_PORT = re.compile(
    r"(?:(?P<host>(?:\d{1,3}\.){3}\d{1,3}|\[[0-9a-fA-F:]+\]):)?(?:(?P<public>\d{1,5}):)?(?P<private>\d{1,5})"
    r"(?:/(?P<kind>tcp|udp|sctp))?"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*=")
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
# Namespaces that a container has for itself unless it is given the host's or another container's.
_NAMESPACES = {
    "NetworkMode": "network", "PidMode": "pid", "IpcMode": "ipc", "UTSMode": "uts",
    "UsernsMode": "userns", "CgroupnsMode": "cgroupns",
}  # fmt: skip
_MODE_OF = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "userns": "UsernsMode",
            "cgroupns": "CgroupnsMode"}  # fmt: skip
_LISTS = {"CapAdd": "cap", "Devices": "device", "DeviceCgroupRules": "device", "DeviceRequests": "device",
          "VolumesFrom": "volumes-from"}  # fmt: skip
_MASKED_BY_DEFAULT = ("MaskedPaths", "ReadonlyPaths")


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` is an absolute path, followed, or a volume's name."""

    source: str
    target: str
    read_only: bool

    @property
    def is_bind(self) -> bool:
        return self.source.startswith("/")

    def to_json(self) -> JsonObject:
        found: JsonObject = {"Source": self.source, "Target": self.target, "ReadOnly": self.read_only}
        if not self.is_bind:
            return {"Type": "volume", **found}
        return {"Type": "bind", **found, "BindOptions": {"Propagation": "rprivate"}}


def mounts(args: Args, context: Context) -> tuple[Mount, ...]:
    """SRC:DST[:ro] of `volumes`. Raises UsageError for what is neither a place that is there nor a name."""
    return tuple(_mount(text, context) for text in args.get("volumes") or ())


def _mount(text: str, context: Context) -> Mount:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target.startswith("/") or mode not in ("", "ro", "rw") or ".." in target.split("/"):
        raise _wrong("volumes", text, "write it SOURCE:/PLACE/INSIDE or SOURCE:/PLACE/INSIDE:ro")
    if _VOLUME.fullmatch(source):
        return Mount(source, target, mode == "ro")
    path = os.path.realpath(context.absolute(source))
    if not os.path.lexists(path) and not context.follows:
        raise _wrong("volumes", text, f"there is nothing at {path}")
    return Mount(path, target, mode == "ro")


def body(args: Args, mounted: Sequence[Mount]) -> JsonObject:
    """What the engine is asked to create. Raises UsageError."""
    command = args.get("command")
    exposed, bound = _ports(args.get("ports") or ())
    found: JsonObject = {
        "Image": args["image"],
        "Env": [_variable(text) for text in args.get("env") or ()],
        "ExposedPorts": exposed,
        "HostConfig": _host_config(args, bound, mounted),
    }
    if command:
        found["Cmd"] = words(RUN, command)
    for key, name in (("User", "user"), ("WorkingDir", "workdir")):
        if args.get(name):
            found[key] = args[name]
    return found


def _host_config(args: Args, bound: JsonObject, mounted: Sequence[Mount]) -> JsonObject:
    """Every key there can be. Privileged and its like are settings the policy speaks of, not defaults."""
    restart = args.get("restart") or "no"
    found: JsonObject = {
        "PortBindings": bound,
        "Mounts": [mount.to_json() for mount in mounted],
        "RestartPolicy": {"Name": restart},
        "CapAdd": _caps(args.get("cap_add")),
        "CapDrop": _caps(args.get("cap_drop")),
        "Devices": [_device(text) for text in args.get("devices") or ()],
        "SecurityOpt": list(args.get("security_opt") or ()),
        "Privileged": bool(args.get("privileged")),
        "ReadonlyRootfs": bool(args.get("read_only")),
    }
    if args.get("network"):
        found["NetworkMode"] = args["network"]
    if args.get("memory"):
        found |= {"Memory": args["memory"], "MemorySwap": args["memory"]}
    if args.get("cpus"):
        found["NanoCpus"] = round(args["cpus"] * 1e9)
    return found | {key: args[name] for name, key in _MODE_OF.items() if args.get(name)}


def words(tool: str, command: str) -> list[str]:
    """A command as an argv; raises UsageError for quotes that are left open, or nothing."""
    try:
        found = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"{tool}: argument `command`: {error}", "Close the quotes.") from error
    if not found:
        raise UsageError(f"{tool}: argument `command`: it is empty", "Say what to run.")
    return found


def _variable(text: str) -> str:
    if not _VARIABLE.match(text):
        raise _wrong("env", text.partition("=")[0], "write it NAME=value")
    return text


def _ports(given: Iterable[str]) -> tuple[JsonObject, JsonObject]:
    """What `-p` means: HOST:PUBLIC:PRIVATE/KIND, where all but PRIVATE may be left out."""
    exposed: JsonObject = {}
    bound: dict[str, list[JsonObject]] = {}
    for text in given:
        match = _PORT.fullmatch(text)
        numbers = [int(number) for number in (match["public"], match["private"]) if number] if match else [0]
        if match is None or not all(0 < number < 65536 for number in numbers):
            raise _wrong("ports", text, "write it 8080:80, 127.0.0.1:8080:80 or 8080:80/udp")
        key = f"{match['private']}/{match['kind'] or 'tcp'}"
        exposed[key] = {}
        host = (match["host"] or "").strip("[]")
        bound.setdefault(key, []).append({"HostIp": host, "HostPort": match["public"] or ""})
    return exposed, bound


def _caps(given: Iterable[str] | None) -> list[str]:
    return [name.upper().removeprefix("CAP_") for name in given or ()]


def _device(text: str) -> JsonObject:
    """HOST[:INSIDE[:rwm]]."""
    host, _, rest = text.partition(":")
    inside, _, rights = rest.partition(":")
    if not host.startswith("/dev/"):
        raise _wrong("devices", text, "write it /dev/NAME or /dev/NAME:/dev/INSIDE:rwm")
    return {"PathOnHost": host, "PathInContainer": inside or host, "CgroupPermissions": rights or "rwm"}


def _wrong(argument: str, text: str, problem: str) -> UsageError:
    return UsageError(f"{RUN}: argument `{argument}`: {text[:80]!r}: {problem}", f"See: llmos tools {RUN}")


# --- what lets a container reach further --------------------------------------------------


def reach(host: Mapping[str, object], binds: Iterable[Mount] = ()) -> tuple[str, ...]:
    """The `settings` of a HostConfig and of the places mounted into it, in the policy's words."""
    return tuple(dict.fromkeys((*_walls(host), *map(_mounted, binds))))


def _walls(host: Mapping[str, object]) -> Iterator[str]:
    if host.get("Privileged"):
        yield "privileged"
    for key, name in _NAMESPACES.items():
        value = str(host.get(key) or "")
        if value == "host" or value.startswith(("container:", "ns:")):
            yield f"{name}={value}"
    for key, name in _LISTS.items():
        yield from (f"{name}:{_said(one)}" for one in _list(host, key))
    for option in map(str, _list(host, "SecurityOpt")):
        if not option.startswith(("no-new-privileges", "name=")):
            yield f"security:{option}"
    if any(host.get(key) == [] for key in _MASKED_BY_DEFAULT):
        yield "security:systempaths=unconfined"
    if host.get("CgroupParent"):
        yield f"cgroup-parent={host['CgroupParent']}"
    sysctls = host.get("Sysctls")
    yield from (f"sysctl:{name}" for name in sysctls) if isinstance(sysctls, dict) else ()


def _said(one: object) -> str:
    """An entry of a list: a capability, a rule, or an object about a device."""
    if not isinstance(one, dict):
        return str(one).removeprefix("CAP_")
    return str(one.get("PathOnHost") or one.get("Driver") or "gpu")


def _list(host: Mapping[str, object], key: str) -> list[object]:
    found = host.get(key)
    return found if isinstance(found, list) else []


def reach_of(inspected: JsonObject, more: Iterable[Mount] = ()) -> tuple[str, ...]:
    """The same of a container that is there. On cgroup v1 every one is in the host's cgroup namespace."""
    host = {**inspected["HostConfig"], "CgroupnsMode": ""}
    return reach(host, (*_binds(inspected), *more))


def _mounted(mount: Mount) -> str:
    return f"mount{'-ro' if mount.read_only else ''}:{mount.source}"


def _binds(inspected: JsonObject) -> Iterator[Mount]:
    """Places of this machine that a container which is there has mounted."""
    for found in inspected.get("Mounts") or ():
        if found.get("Type") == "bind" or not str(found.get("Driver") or "local").startswith("local"):
            source = found.get("Source") or "?"
            yield Mount(str(source), str(found.get("Destination")), not found.get("RW", True))


def bind_behind(volume: JsonObject) -> Mount | None:
    """The place of this machine that a volume of the `local` driver is a mount of; None for a plain one."""
    options = volume.get("Options") or {}
    if not options or options.get("type") == "tmpfs":
        return None
    flags = str(options.get("o") or "").split(",")
    return Mount(str(options.get("device") or "?"), "", "ro" in flags)


# --- the line that is shown --------------------------------------------------


_OPTIONS = {"--name": "name", "--network": "network", "--user": "user", "--workdir": "workdir",
            "--memory": "memory", "--cpus": "cpus", "--pid": "pid", "--ipc": "ipc", "--uts": "uts",
            "--userns": "userns", "--cgroupns": "cgroupns", "--restart": "restart"}  # fmt: skip
_REPEATED = {"-p": "ports", "-e": "env", "--cap-add": "cap_add", "--cap-drop": "cap_drop",
             "--device": "devices", "--security-opt": "security_opt"}  # fmt: skip
_FLAGS = {"--privileged": "privileged", "--read-only": "read_only"}


def shows(args: Args, mounted: Sequence[Mount]) -> str:
    """`docker run …` as a person would have typed it."""
    line = ["docker", "run", "-d" if args.get("detach", True) else "--rm"]
    for option, name in _OPTIONS.items():
        value = args.get(name)
        if value and value != "no":
            line += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    for option, name in _REPEATED.items():
        line += [word for value in args.get(name) or () for word in (option, value)]
    for mount in mounted:
        line += ["-v", f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}"]
    line += [option for option, name in _FLAGS.items() if args.get(name)]
    return shlex.join([*line, args["image"], *(shlex.split(args["command"]) if args.get("command") else ())])
