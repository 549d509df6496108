"""Changing containers: start, stop, restart, remove, exec, update. Each looks again, acts, and reads back.

A changer gets the container's id as it was judged, so that a name that went to another container meanwhile
reaches nobody. It gives the steps that take the change back, where that can be had: of a start a stop, of an
update the limits of before. A removed container comes back only where nothing of it is lost: nothing was
written in it, and nothing of this machine was open to it.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmos.errors import CallFailed
from llmos.messages import Caller, Change, Changed, JsonObject
from llmos.toolbox.containers import finding, spec
from llmos.toolbox.containers.engine import Work, connected
from llmos.toolbox.containers.looking import capped
from llmos.toolbox.values import human_size

if TYPE_CHECKING:
    from docker import APIClient

Doing = Callable[["APIClient", JsonObject], Changed]
EXEC_TIMEOUT_S = 120.0
MAX_OUTPUT_BYTES = 1 << 20
_LAST_LINES = 5
USUAL_SHARES = 1024
_SHELL_SIGNS = frozenset("|&;<>$`*?(")


def changer(work: Doing, timeout_s: float = 60.0) -> Callable[[JsonObject, Caller], Changed]:
    """Work as the spawner calls it: with the caller's rights, at the engine that was planned for."""

    def change(args: JsonObject, caller: Caller) -> Changed:
        with connected(args["engine"], timeout_s) as client:
            return work(client, args)

    return Work(change)


def step(name: str, args: JsonObject, shows: str) -> Change:
    return Change(changer=name, args=args, shows=shows)


def on(args: JsonObject, found: JsonObject, **more: object) -> JsonObject:
    """The arguments of a step on the same container."""
    return {"engine": args["engine"], "id": found["Id"], "name": finding.title(found), **more}


def the_container(client: APIClient, args: JsonObject) -> JsonObject:
    """The container that was meant. Raises CallFailed when it has gone, UsageError when it never was."""
    from docker.errors import NotFound

    if "id" not in args:
        return finding.container(client, args["name"])
    try:
        return dict(client.inspect_container(args["id"]))
    except NotFound:
        raise CallFailed(
            f"the container {args['name']} that was meant is not there any more",
            "See what is there: llmos call docker.container.list --args '{\"all\": true}'",
        ) from None


def last_output(client: APIClient, identity: str) -> str:
    """The last lines a container printed, as the end of a sentence."""
    text, _ = capped(client.logs(identity, stream=True, follow=False, tail=_LAST_LINES), 2000)
    lines = " / ".join(line for line in text.splitlines() if line.strip())
    return f": {lines}" if lines else ""


# --- start and stop --------------------------------------------------


def _start(client: APIClient, args: JsonObject) -> Changed:
    found = the_container(client, args)
    name = finding.title(found)
    if found["State"]["Running"]:
        return Changed(text=f"{name} runs already.\n")
    client.start(found["Id"])
    state = the_container(client, args)["State"]
    if not state["Running"] and state["ExitCode"]:
        raise CallFailed(
            f"{name} ended at once with exit code {state['ExitCode']}{last_output(client, found['Id'])}",
            f'See all it printed: llmos call docker.container.logs --args \'{{"name": "{name}"}}\'',
        )
    if not state["Running"]:
        return Changed(text=f"{name} ran and has ended already.\n")
    return Changed(text=f"{name} runs.\n", reverse=(_stopping(args, found),))


def _stop(client: APIClient, args: JsonObject) -> Changed:
    found = the_container(client, args)
    name = finding.title(found)
    if not found["State"]["Running"]:
        return Changed(text=f"{name} is stopped already.\n")
    grace_s = args.get("timeout")
    client.stop(found["Id"], timeout=None if grace_s is None else max(0, round(grace_s)))
    if found["HostConfig"].get("AutoRemove"):
        return Changed(text=f"{name} is stopped, and gone: it was made to be removed when it ends.\n")
    state = the_container(client, on(args, found))["State"]
    if state["Running"]:
        raise CallFailed(f"{name} still runs", "Its restart policy may have started it again: inspect it.")
    killed = " It did not end by itself and was killed." if state["ExitCode"] == 137 else ""
    return Changed(text=f"{name} is stopped.{killed}\n", reverse=(_starting(args, found),))


def _restart(client: APIClient, args: JsonObject) -> Changed:
    found = the_container(client, args)
    name, ran = finding.title(found), found["State"]["Running"]
    client.restart(found["Id"])
    if not the_container(client, on(args, found))["State"]["Running"]:
        raise CallFailed(f"{name} ended at once{last_output(client, found['Id'])}", "See its logs.")
    if ran:
        return Changed(text=f"{name} was restarted and runs.\n")
    return Changed(text=f"{name} was stopped before, and runs.\n", reverse=(_stopping(args, found),))


def _stopping(args: JsonObject, found: JsonObject) -> Change:
    return step("docker.container.stop", on(args, found), f"docker stop {finding.title(found)}")


def _starting(args: JsonObject, found: JsonObject) -> Change:
    return step("docker.container.start", on(args, found), f"docker start {finding.title(found)}")


# --- remove --------------------------------------------------


def _remove(client: APIClient, args: JsonObject) -> Changed:
    found = the_container(client, args)
    name = finding.title(found)
    if found["State"]["Running"] and not args.get("force"):
        raise CallFailed(f"{name} runs", "Stop it first (docker.container.stop), or say force=true.")
    back = _made_again(client, args, found)
    client.remove_container(found["Id"], v=bool(args.get("volumes")), force=bool(args.get("force")))
    lost = "" if back else " It cannot be had again: what was written in it is gone."
    return Changed(text=f"{name} is removed.{lost}\n", reverse=back)


def _made_again(client: APIClient, args: JsonObject, found: JsonObject) -> tuple[Change, ...]:
    """The step that makes a removed container again as it was; none where something of it would be lost."""
    host, config, name = found["HostConfig"], found["Config"], finding.title(found)
    anonymous = any(mount.get("Type") == "volume" for mount in found.get("Mounts") or ())
    if anonymous or spec.reach_of(found) or client.diff(found["Id"]):
        return ()
    networks = found["NetworkSettings"].get("Networks") or {}
    own_name = {"Hostname": ""} if config.get("Hostname") == found["Id"][:12] else {}
    body = {
        **config, **own_name, "Image": found["Image"], "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": {one: {} for one in networks}},
    }  # fmt: skip
    again = {"engine": args["engine"], "name": name, "body": body, "runs": found["State"]["Running"]}
    return (step("docker.container.create", again, f"docker create --name {name} {config['Image']}"),)


def _create(client: APIClient, args: JsonObject) -> Changed:
    """Only ever the reverse of a removal."""
    made = client.create_container_from_config(args["body"], args["name"])["Id"]
    if args["runs"]:
        client.start(made)
    back = on(args, {"Id": made, "Name": args["name"]}, force=True)
    undo = step("docker.container.remove", back, f"docker rm -f {args['name']}")
    return Changed(text=f"{args['name']} is there again.\n", reverse=(undo,))


# --- exec --------------------------------------------------


def _exec(client: APIClient, args: JsonObject) -> Changed:
    found = the_container(client, args)
    if not found["State"]["Running"]:
        raise CallFailed(
            f"{finding.title(found)} does not run, so nothing can run in it",
            "Start it first: docker.container.start",
        )
    argv = exec_argv(args["command"])
    made = client.exec_create(found["Id"], argv, user=args.get("user") or "", privileged=False)["Id"]
    text, cut = _heard(client, made)
    ended = client.exec_inspect(made)
    if ended["Running"]:
        raise CallFailed(
            f"it still runs in {finding.title(found)} after {EXEC_TIMEOUT_S:g} s",
            "It goes on in there: restart the container to end it.",
        )
    note = f"… cut after {human_size(MAX_OUTPUT_BYTES)}.\n" if cut else ""
    return Changed(text=text + note, exit_code=int(ended["ExitCode"] or 0))


def exec_argv(command: str) -> list[str]:
    """Plain words as they are; what a shell would read otherwise goes to the container's own shell."""
    words = spec.words("docker.container.exec", command)
    return ["sh", "-c", command] if _SHELL_SIGNS & set(command) else words


def _heard(client: APIClient, made: str) -> tuple[str, bool]:
    """Its output; a program that goes on and on is left after a while."""
    from docker.utils.socket import demux_adaptor, frames_iter

    stream = client.exec_start(made, socket=True)
    raw = getattr(stream, "_sock", stream)
    timer = threading.Timer(EXEC_TIMEOUT_S, _hang_up, (raw,))
    timer.daemon = True
    timer.start()
    try:
        frames = (demux_adaptor(*frame) for frame in frames_iter(stream, tty=False))
        return capped((out or err or b"" for out, err in frames), MAX_OUTPUT_BYTES)
    finally:
        timer.cancel()
        stream.close()


def _hang_up(raw: object) -> None:
    import socket

    if isinstance(raw, socket.socket):
        try:
            raw.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it ended just now


# --- limits --------------------------------------------------


def _update(client: APIClient, args: JsonObject) -> Changed:
    found = the_container(client, args)
    if "limits" in args:
        return set_limits(client, args, found, dict(args["limits"]))
    asked = limits_asked(args.get("memory"), args.get("cpus"), found["HostConfig"])
    return set_limits(client, args, found, asked)


def set_limits(client: APIClient, args: JsonObject, found: JsonObject, asked: JsonObject) -> Changed:
    """Tell the engine, in its own names, and read back; undone by the limits of before."""
    name = finding.title(found)
    before = _limits_before(client, asked, found["HostConfig"])
    if asked.get("MemorySwap") == -1:  # runc writes memory first then, which may be above the old sum
        _set(client, found, {**asked, "MemorySwap": 2 * asked["Memory"]})
        _set(client, found, {"MemorySwap": -1})
    else:
        _set(client, found, asked)
    now = the_container(client, on(args, found))["HostConfig"]
    if wrong := [key for key, value in asked.items() if not _holds(now.get(key), value)]:
        raise CallFailed(
            f"the engine took the limits of {name} but does not hold them: {', '.join(wrong)}",
            "See what it holds: docker.container.inspect",
        )
    back = step("docker.container.update", on(args, found, limits=before), _update_line(name, before))
    return Changed(text=f"{name}: {told(now)}. By the Docker Engine, read back.\n", reverse=(back,))


def _holds(found: object, wanted: object) -> bool:
    return found == wanted or (wanted == -1 and not found)


def _set(client: APIClient, found: JsonObject, limits: JsonObject) -> None:
    """As `update_container`, which takes no NanoCpus."""
    url = client._url("/containers/{0}/update", found["Id"])
    client._raise_for_status(client._post_json(url, data=limits))


def limits_asked(memory: int | None, cpus: float | None, host: JsonObject) -> JsonObject:
    """The engine's names and numbers. Swap keeps its share, or memory could not go above its old limit."""
    asked: JsonObject = {}
    if memory:
        swap = max(0, host["MemorySwap"] - host["Memory"]) if host["MemorySwap"] > 0 else 0
        asked = {"Memory": memory, "MemorySwap": memory + swap}
    if cpus:
        # The engine keeps one of two ways to say it, and refuses the other.
        by_quota = host.get("CpuQuota") and not host.get("NanoCpus")
        period = host.get("CpuPeriod") or 100_000
        asked |= {"CpuQuota": round(cpus * period)} if by_quota else {"NanoCpus": round(cpus * 1e9)}
    return asked


def _limits_before(client: APIClient, asked: JsonObject, host: JsonObject) -> JsonObject:
    """What takes it back. No limit cannot be said to the engine, so all there is stands for it."""
    everything = unbounded(client)
    return {key: host.get(key) or everything[key] for key in asked}


def unbounded(client: APIClient) -> JsonObject:
    """For each limit what comes nearest to none."""
    machine = client.info()
    cpus = int(machine["NCPU"])
    return {
        "Memory": machine["MemTotal"], "MemorySwap": -1, "NanoCpus": cpus * 1_000_000_000, "CpuQuota": -1,
        "CpuShares": USUAL_SHARES, "CpusetCpus": f"0-{cpus - 1}" if cpus > 1 else "0", "PidsLimit": -1,
    }  # fmt: skip


def _update_line(name: str, limits: JsonObject) -> str:
    words = ["docker", "update"]
    for key, option in _OPTIONS.items():
        if key in limits:
            value = f"{limits[key] / 1e9:g}" if key == "NanoCpus" else str(limits[key])
            words += [option, value]
    return shlex.join([*words, name])


_OPTIONS = {
    "Memory": "--memory", "MemorySwap": "--memory-swap", "NanoCpus": "--cpus", "CpuQuota": "--cpu-quota",
    "CpuShares": "--cpu-shares", "CpusetCpus": "--cpuset-cpus", "PidsLimit": "--pids-limit",
}  # fmt: skip


def told(host: JsonObject) -> str:
    """The limits of a HostConfig in words."""
    memory = human_size(host["Memory"]) if host["Memory"] else "no limit"
    cpus = f"{host['NanoCpus'] / 1e9:g}" if host.get("NanoCpus") else "no limit"
    if host.get("CpuQuota", 0) > 0:
        cpus = f"{host['CpuQuota'] / (host.get('CpuPeriod') or 100_000):g}"
    words = [f"memory {memory}, CPUs {cpus}"]
    if host.get("CpuShares", 0) not in (0, USUAL_SHARES):
        words.append(f"CPU shares {host['CpuShares']} (usual is {USUAL_SHARES})")
    if host.get("CpusetCpus"):
        words.append(f"on CPU {host['CpusetCpus']}")
    if (host.get("PidsLimit") or 0) > 0:
        words.append(f"{host['PidsLimit']} processes")
    return ", ".join(words)


CHANGERS = {
    "docker.container.start": changer(_start),
    "docker.container.stop": changer(_stop),
    "docker.container.restart": changer(_restart),
    "docker.container.remove": changer(_remove),
    "docker.container.create": changer(_create),
    "docker.container.exec": changer(_exec, EXEC_TIMEOUT_S + 30),
    "docker.container.update": changer(_update),
}
