"""Plans of what changes images: pull, tag, remove, prune, build.

A prune names the very images that would go, so that yes is said to these and to no others. A build reads
every file that goes to the engine: a secret among them is denied like any other read.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from llmos.errors import UsageError
from llmos.messages import Change, Effects, Observe
from llmos.toolbox.containers import finding, looking
from llmos.toolbox.containers.engine import Work, check_image, socket_of
from llmos.toolbox.containers.planning import chosen, looked_up
from llmos.toolbox.context import Args, Context, Draft, Pair

_MAX_CONTEXT_FILES = 1500  # of a build that are judged by name; more make it unknown


def pulling(engine: str, name: str) -> Change:
    return Change(
        changer="docker.image.pull",
        args={"engine": engine, "name": name},
        shows=shlex.join(["docker", "pull", name]),
    )


def _plan_pull(args: Args, context: Context) -> Draft:
    name = check_image("docker.image.pull", "name", args["name"])
    effects = Effects(containers=(f"image:{name}",), network=("*",))
    return Draft((pulling(socket_of(context.uid), name),), effects)


def _plan_tag(args: Args, context: Context) -> Draft:
    image, name = (check_image("docker.image.tag", key, args[key]) for key in ("image", "name"))
    engine, _ = looked_up(context, lambda client: finding.image(client, image))
    line = shlex.join(["docker", "tag", image, name])
    given = {"engine": engine, "image": image, "name": name}
    step = Change(changer="docker.image.tag", args=given, shows=line)
    return Draft((step,), Effects(containers=(f"image:{name}",)))


def _plan_image_remove(args: Args, context: Context) -> Draft:
    tool = "docker.image.remove"
    name = check_image(tool, "name", args["name"])
    engine, _ = looked_up(context, lambda client: finding.image(client, name))
    line = shlex.join(["docker", "rmi", *(["-f"] if args.get("force") else []), name])
    step = Change(changer=tool, args={"engine": engine, "name": name, **chosen(args, "force")}, shows=line)
    return Draft((step,), Effects(containers=(f"image:{name}",)))


def _plan_prune(args: Args, context: Context) -> Draft:
    """The very images that would go, so that yes is said to these and to no others."""
    every = bool(args.get("all"))
    line = "docker image prune -a" if every else "docker image prune"
    engine, looked = looked_up(context, lambda client: {"unused": looking.unused(client, every=every)})
    found = looked["unused"] if looked else []
    if args.get("preview") or (not found and not context.follows):
        step = Observe(observer="docker.image.prune", args={"engine": engine, "all": every})
        shown = f"{line} # a preview" if args.get("preview") else line
        return Draft((step,), command=shown, read_only=True)
    ids = [one["Id"] for one in found]
    change = Change(
        changer="docker.image.prune", args={"engine": engine, "all": every, "ids": ids}, shows=line
    )
    return Draft(
        (change,), Effects(containers=tuple(f"image:{name}" for one in found for name in looking.titles(one)))
    )


def _plan_build(args: Args, context: Context) -> Draft:
    """Every file that goes to the engine is read: a secret among them is denied like any other read."""
    tool = "docker.image.build"
    tag = check_image(tool, "tag", args["tag"]) if args.get("tag") else None
    path = os.path.realpath(context.absolute(args["path"]))
    if not Path(path, "Dockerfile").is_file() and not context.follows:
        raise UsageError(
            f"{tool}: argument `path`: there is no Dockerfile in {path}", "Name the folder that has it."
        )
    try:
        files, more = _context_files(path) if Path(path).is_dir() else ([], False)
    except OSError as error:
        raise UsageError(
            f"{tool}: {error.filename} cannot be read: {error.strerror}", "Ignore it in .dockerignore."
        ) from error
    engine = socket_of(context.uid)
    words = [*(["--no-cache"] if args.get("no_cache") else []), *(["-t", tag] if tag else []), path]
    step = Change(
        changer=tool,
        args={"engine": engine, "path": path, **chosen(args, "tag", "no_cache")},
        shows=shlex.join(["docker", "build", *words]),
    )
    effects = Effects(
        reads=(path, *files), containers=(f"image:{tag or 'untagged'}",), network=("*",),
        settings=(f"context:{path}",),
        opaque=f"its context has more than {_MAX_CONTEXT_FILES} files" if more else "",
    )  # fmt: skip
    return Draft((step,), effects)


def _context_files(path: str) -> tuple[list[str], bool]:
    """Files of a build's context, less what .dockerignore leaves out; and whether there are more."""
    from docker.utils.build import PatternMatcher

    patterns = [*_lines(Path(path, ".dockerignore")), "!Dockerfile"]
    found: list[str] = []
    for name in PatternMatcher(patterns).walk(path):
        whole = Path(path, name)
        if whole.is_symlink() or whole.is_dir():  # a link goes as a link
            continue
        if len(found) == _MAX_CONTEXT_FILES:
            return found, True
        found.append(str(whole))
    return found, False


def _lines(file: Path) -> list[str]:
    """As the SDK reads it when it packs the context."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            found = [line.strip() for line in lines]
    except OSError:
        return []
    return [line for line in found if line and not line.startswith("#")]


PAIRS = {
    "docker.image.build": Pair(_plan_build, prepare=Work.prepare),
    "docker.image.pull": Pair(_plan_pull, prepare=Work.prepare),
    "docker.image.tag": Pair(_plan_tag, prepare=Work.prepare),
    "docker.image.remove": Pair(_plan_image_remove, prepare=Work.prepare),
    "docker.image.prune": Pair(_plan_prune, prepare=Work.prepare),
}
