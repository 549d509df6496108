"""Plans of what changes volumes."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from llmos.errors import UsageError
from llmos.messages import Change, Effects, Observe
from llmos.toolbox import inner
from llmos.toolbox.containers import finding, looking, spec, volumes
from llmos.toolbox.containers.engine import Work, check_name, check_new_name, socket_of
from llmos.toolbox.containers.planning import looked_up
from llmos.toolbox.context import Args, Context, Draft, Pair

_CHECK_S = 600


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


def _plan_restore(args: Args, context: Context) -> Draft:
    """The archive is checked in the sandbox first, like one that is extracted: for paths, bombs and room."""
    tool = "docker.volume.restore"
    name = check_new_name(tool, args["name"])
    archive = os.path.realpath(context.absolute(args["archive"]))
    if volumes.suffix_of(archive) is None:
        ends = ", ".join(volumes.SUFFIXES)
        raise UsageError(
            f"{tool}: argument `archive`: its name does not say how it is packed", f"One of {ends}."
        )
    if not Path(archive).is_file() and not context.follows:
        raise UsageError(f"{tool}: argument `archive`: there is no file {archive}", "Name the archive.")
    engine, looked = looked_up(context, lambda client: {"all": finding.volumes(client)})
    known = [one for one in (looked or {"all": ()})["all"] if one["Name"] == name]
    behind = spec.bind_behind(known[0]) if known else None
    told = {
        "name": archive,
        "archive": archive,
        "packed": archive,
        "inner": "data",
        "to": "volume",
        "limit": args.get("limit"),
    }
    check = inner.run("archive", {**told, "action": "check"}, timeout_s=_CHECK_S)
    fill = Change(
        changer=tool,
        args={"engine": engine, "name": name, "archive": archive},
        shows=f"# the files of {shlex.quote(archive)}, into the volume {name}",
    )
    effects = Effects(
        reads=(archive,), programs=(check.argv[0],), containers=(f"volume:{name}",),
        settings=spec.reach({}, [behind]) if behind else (),
    )  # fmt: skip
    return Draft((check, fill), effects, command=fill.shows)


def _plan_prune(args: Args, context: Context) -> Draft:
    """The very volumes that would go, so that yes is said to these and to no others."""
    every = bool(args.get("all"))
    line = "docker volume prune -a" if every else "docker volume prune"
    engine, looked = looked_up(
        context, lambda client: {"unused": looking.unused_volumes(client, every=every)}
    )
    names = looked["unused"] if looked else []
    if args.get("preview") or (not names and not context.follows):
        step = Observe(observer="docker.volume.prune", args={"engine": engine, "all": every})
        shown = f"{line} # a preview" if args.get("preview") else line
        return Draft((step,), command=shown, read_only=True)
    change = Change(changer="docker.volume.prune", args={"engine": engine, "names": names}, shows=line)
    return Draft((change,), Effects(containers=tuple(f"volume:{name}" for name in names)))


PAIRS = {
    "docker.volume.create": Pair(_plan_volume_create, prepare=Work.prepare),
    "docker.volume.remove": Pair(_plan_volume_remove, prepare=Work.prepare),
    "docker.volume.backup": Pair(_plan_backup, prepare=Work.prepare),
    "docker.volume.restore": Pair(_plan_restore, prepare=Work.prepare),
    "docker.volume.prune": Pair(_plan_prune, prepare=Work.prepare),
}
