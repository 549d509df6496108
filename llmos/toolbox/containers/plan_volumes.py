"""Plans of what changes volumes and networks."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from llmos.errors import UsageError
from llmos.messages import Change, Effects, JsonObject
from llmos.toolbox.containers import finding, spec, volumes
from llmos.toolbox.containers.engine import Work, check_name, check_new_name, socket_of
from llmos.toolbox.containers.planning import looked_up
from llmos.toolbox.context import Args, Context, Draft, Pair

if TYPE_CHECKING:
    from docker import APIClient


def _plan_volume_create(args: Args, context: Context) -> Draft:
    name = check_new_name("docker.volume.create", args["name"])
    return _volume("create", name, socket_of(context.uid))


def _plan_volume_remove(args: Args, context: Context) -> Draft:
    name = check_name("docker.volume.remove", "name", args["name"])
    engine, _ = looked_up(context, lambda client: finding.volume(client, name))
    return _volume("rm", name, engine)


def _volume(verb: str, name: str, engine: str) -> Draft:
    changer = f"docker.volume.{'remove' if verb == 'rm' else verb}"
    line = shlex.join(["docker", "volume", verb, name])
    step = Change(changer=changer, args={"engine": engine, "name": name}, shows=line)
    return Draft((step,), Effects(containers=(f"volume:{name}",)))


def _plan_backup(args: Args, context: Context) -> Draft:
    tool = "docker.volume.backup"
    name = check_name(tool, "name", args["name"])
    wanted = Path(context.absolute(args["archive"]))
    folder = os.path.realpath(wanted.parent)
    archive = str(Path(folder, wanted.name))
    if volumes.suffix_of(archive) is None:
        ends = ", ".join(volumes.SUFFIXES)
        raise UsageError(
            f"{tool}: argument `archive`: its name does not say how to pack it", f"End it in {ends}."
        )
    if not Path(folder).is_dir() and not context.follows:
        raise UsageError(f"{tool}: argument `archive`: there is no folder {folder}", "Make it first.")
    engine, found = looked_up(context, lambda client: finding.volume(client, name))
    behind = spec.bind_behind(found) if found else None
    step = Change(
        changer=tool,
        args={"engine": engine, "name": name, "archive": archive},
        shows=f"# the files of the volume {name}, into {shlex.quote(archive)}",
    )
    effects = Effects(
        writes=(archive,),
        containers=(f"volume:{name}",),
        settings=spec.reach({}, [behind]) if behind else (),
    )
    return Draft((step,), effects)


def _plan_connect(args: Args, context: Context) -> Draft:
    tool = "docker.network.connect"
    container = check_name(tool, "container", args["container"])
    network = check_name(tool, "network", args["network"])

    def look(client: APIClient) -> JsonObject:
        return {
            "container": finding.container(client, container),
            "network": finding.network(client, network),
        }

    engine, _ = looked_up(context, look)
    line = shlex.join(["docker", "network", "connect", network, container])
    step = Change(
        changer=tool, args={"engine": engine, "container": container, "network": network}, shows=line
    )
    return Draft((step,), Effects(containers=(f"container:{container}", f"network:{network}")))


PAIRS = {
    "docker.volume.create": Pair(_plan_volume_create, prepare=Work.prepare),
    "docker.volume.remove": Pair(_plan_volume_remove, prepare=Work.prepare),
    "docker.volume.backup": Pair(_plan_backup, prepare=Work.prepare),
    "docker.network.connect": Pair(_plan_connect, prepare=Work.prepare),
}
