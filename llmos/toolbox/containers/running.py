"""A new container: created from a body that `spec` built, started, looked at; gone again when it fails.

Nothing is half done: a container that does not start, or ends at once with an error, is removed. Places of
this machine that are to be mounted are looked at once more: a link put in their way since is refused.
Not protected against: one that is put there in the moment between this look and the engine's.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from llmos.errors import CallFailed
from llmos.messages import Change, Changed, JsonObject
from llmos.toolbox.containers import finding
from llmos.toolbox.containers.changing import MAX_OUTPUT_BYTES, changer, last_output, step
from llmos.toolbox.containers.engine import unanswered
from llmos.toolbox.containers.looking import capped
from llmos.toolbox.values import human_size

if TYPE_CHECKING:
    from docker import APIClient

WAIT_S = 600.0  # for the end of a container that is waited for
_SETTLE_S = 0.3  # one that is going to fail at once is given this long to do it
_POLL_S = 0.05


def _run(client: APIClient, args: JsonObject) -> Changed:
    body = args["body"]
    _check_sources(body)
    new_volumes = _missing_volumes(client, body)
    made = client.create_container_from_config(body, args.get("name"))["Id"]
    try:
        client.start(made)
        name = finding.title(client.inspect_container(made))
        if not args["detach"]:
            return _to_its_end(client, made, name, keep=bool(args.get("name")), args=args)
        _settle(client, made, name)
    except BaseException:
        _take_away(client, made, new_volumes)
        raise
    back = (_removing(args, made, name), *(_removing_volume(args, volume) for volume in new_volumes))
    return Changed(text=f"{name} runs ({made[:12]}).\n", reverse=back)


def _check_sources(body: JsonObject) -> None:
    for mount in body["HostConfig"]["Mounts"]:
        source = mount["Source"]
        if mount["Type"] == "bind" and os.path.realpath(source) != source:
            raise CallFailed(f"{source} leads elsewhere than when it was judged", "Make the request again.")


def _missing_volumes(client: APIClient, body: JsonObject) -> list[str]:
    """Named volumes that the engine will make along with the container."""
    wanted = [one["Source"] for one in body["HostConfig"]["Mounts"] if one["Type"] == "volume"]
    there = {one["Name"] for one in finding.volumes(client)} if wanted else set()
    return [name for name in dict.fromkeys(wanted) if name not in there]


def _settle(client: APIClient, made: str, name: str) -> None:
    """Raises CallFailed for one that ended with an error before we would call it started."""
    deadline = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline:
        state = client.inspect_container(made)["State"]
        if not state["Running"]:
            if not state["ExitCode"]:
                return
            raise CallFailed(
                f"{name} ended at once with exit code {state['ExitCode']}{last_output(client, made)}",
                "It was removed again. Correct its command or settings.",
            )
        time.sleep(_POLL_S)


def _to_its_end(client: APIClient, made: str, name: str, *, keep: bool, args: JsonObject) -> Changed:
    """Wait, and tell what it printed; a container without a name of its own is removed then."""
    try:
        code = int(client.wait(made, timeout=WAIT_S)["StatusCode"])
    except unanswered() as error:
        raise CallFailed(f"{name} did not end within {WAIT_S:g} s", "Run it with detach=true.") from error
    text, cut = capped(client.logs(made, stream=True, follow=False), MAX_OUTPUT_BYTES)
    text += f"… cut after {human_size(MAX_OUTPUT_BYTES)}.\n" if cut else ""
    if keep:
        return Changed(text=text, exit_code=code, reverse=(_removing(args, made, name),))
    client.remove_container(made, v=True, force=True)
    return Changed(text=text, exit_code=code)


def _take_away(client: APIClient, made: str, volumes: list[str]) -> None:
    from docker.errors import APIError

    with contextlib.suppress(APIError):
        client.remove_container(made, v=True, force=True)
        for volume in volumes:
            client.remove_volume(volume)


def _removing(args: JsonObject, made: str, name: str) -> Change:
    given = {"engine": args["engine"], "id": made, "name": name, "force": True, "volumes": True}
    return step("docker.container.remove", given, f"docker rm -f -v {name}")


def _removing_volume(args: JsonObject, volume: str) -> Change:
    given = {"engine": args["engine"], "name": volume}
    return step("docker.volume.remove", given, f"docker volume rm {volume}")


CHANGERS = {"docker.container.run": changer(_run, WAIT_S + 30)}
