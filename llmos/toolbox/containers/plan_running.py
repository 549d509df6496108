"""The plan of a new container: its image, its settings, and what of this machine is opened to it.

An image that is not here is got first, as `docker run` does; the plan says so. A name that is taken, or a
folder that is not there, is an error before anybody is asked. What is risky is judged even without an engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llmos.errors import CallFailed, UsageError
from llmos.messages import Change, Effects
from llmos.toolbox.containers import finding, images, spec
from llmos.toolbox.containers.engine import Work, check_image, check_new_name, connected, socket_of
from llmos.toolbox.containers.plan_images import pulling
from llmos.toolbox.containers.planning import check_limits, chosen
from llmos.toolbox.context import Args, Context, Draft, Pair

if TYPE_CHECKING:
    from docker import APIClient


def _plan_run(args: Args, context: Context) -> Draft:
    image = check_image(spec.RUN, "image", args["image"])
    name = check_new_name(spec.RUN, args["name"]) if args.get("name") else ""
    check_limits(spec.RUN, args.get("memory"), args.get("cpus"))
    mounted = spec.mounts(args, context)
    body = spec.body(args, mounted)
    settings = spec.reach(body["HostConfig"], (one for one in mounted if one.is_bind))
    engine, missing, behind = _ready(context, image, name, mounted, risky=bool(settings))
    settings = (*settings, *spec.reach({}, behind))
    run = Change(
        changer=spec.RUN,
        args={
            "engine": engine,
            "body": body,
            "detach": bool(args.get("detach", True)),
            **chosen(args, "name"),
        },
        shows=spec.shows(args, mounted),
    )
    pull = (pulling(engine, image),) if missing else ()
    binds = [one for one in mounted if one.is_bind]
    effects = Effects(
        reads=tuple(one.source for one in binds),
        writes=tuple(one.source for one in binds if not one.read_only),
        containers=(f"container:{name or image}", *_also_touched(image, mounted, missing=missing)),
        settings=settings,
        network=("*",) if missing else (),
    )
    return Draft((*pull, run), effects)


def _also_touched(image: str, mounted: Iterable[spec.Mount], *, missing: bool) -> Iterator[str]:
    yield from (f"volume:{one.source}" for one in mounted if not one.is_bind)
    if missing:
        yield f"image:{image}"


def _ready(
    context: Context, image: str, name: str, mounted: Iterable[spec.Mount], *, risky: bool
) -> tuple[str, bool, list[spec.Mount]]:
    """The engine; whether the image must be got first; places of this machine behind named volumes.

    Raises UsageError for a name that is taken. What is risky is judged even where no engine answers.
    """
    named = {one.source: one for one in mounted if not one.is_bind}
    engine = socket_of(context.uid)
    try:
        with connected(engine) as client:
            if name and not context.follows:
                _check_free(client, name)
            missing = not images.id_of(client, image)
            found = [one for one in finding.volumes(client) if one["Name"] in named]
            return engine, missing, list(filter(None, map(spec.bind_behind, found)))
    except CallFailed:
        if not risky and not context.follows:
            raise
        return engine, False, []


def _check_free(client: APIClient, name: str) -> None:
    if any(finding.title(one) == name for one in client.containers(all=True)):
        raise UsageError(
            f"{spec.RUN}: argument `name`: there is a container {name} already",
            "Choose another name, start that one (docker.container.start), or remove it first.",
        )


PAIRS = {spec.RUN: Pair(_plan_run, prepare=Work.prepare)}
