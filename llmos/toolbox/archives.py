"""Archives: create, extract and list tar and zip, the kind being told by the name's ending.

tar and unzip drop a leading `/` and refuse `..` themselves; owners are never taken from an archive and
existing files never replaced. Not protected against: an archive that unpacks to more than fits; the
sandbox's file-size and time limits bound that.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run, Step
from llmos.toolbox.context import Args, Context, Draft, Pair, is_glob, pipeline, programs
from llmos.toolbox.listing import split_glob

_TAR = {".tar": "", ".tar.gz": "z", ".tgz": "z", ".tar.bz2": "j", ".tar.xz": "J"}


def _tar_flag(archive: str) -> str | None:
    """tar's compression letter, or None for a zip; raises UsageError for what is neither."""
    lower = archive.lower()
    if lower.endswith(".zip"):
        return None
    for ending, flag in _TAR.items():
        if lower.endswith(ending):
            return flag
    raise UsageError(
        f"file.archive: {archive} is no archive that is known by its name",
        f"Let it end in one of: {', '.join(_TAR)}, .zip",
    )


def plan_archive(args: Args, context: Context) -> Draft:
    flag = _tar_flag(args["archive"])
    match args["action"]:
        case "create":
            return _create(args, flag, context)
        case "extract":
            return _extract(args, flag, context)
    archive = context.word(args["archive"])
    argv = ("unzip", "-l", archive) if flag is None else ("tar", "-tvf", archive, "--force-local")
    return Draft(
        (Run(argv=argv),), Effects(reads=(context.absolute(args["archive"]),), programs=programs(argv))
    )


def _create(args: Args, flag: str | None, context: Context) -> Draft:
    if args["path"] is None:
        raise UsageError("file.archive: argument `path`: it is missing", "Say what goes into the archive.")
    archive, path = context.word(args["archive"]), args["path"]
    if is_glob(split_glob(path)[0]):
        raise UsageError(
            f"file.archive: {path}: only the last part may be a pattern", "Name the folder in full."
        )
    free = ("test", "!", "-e", archive)
    packing = _zip(archive, path, context) if flag is None else _tar(flag, archive, path, context)
    steps = (*_any(path, context), Run(argv=free), pipeline(packing, timeout_s=600))
    used = programs(free, *packing)
    effects = Effects(
        reads=(context.absolute(path),), writes=(context.absolute(args["archive"]),), programs=used
    )
    return Draft(steps, effects)


def _any(path: str, context: Context) -> tuple[Step, ...]:
    """For a pattern, a step that prints the first match and fails when there is none."""
    folder, pattern = split_glob(path)
    first = ("grep", "-z", "-m", "1", "")
    return (pipeline(((*_matching(folder, pattern, context), "-print0"), first)),) if pattern else ()


def _matching(folder: str, pattern: str, context: Context) -> tuple[str, ...]:
    hidden = () if pattern.startswith(".") else ("-not", "-name", ".*")
    return ("find", "-H", context.word(folder), "-mindepth", "1", "-maxdepth", "1", "-name", pattern, *hidden)


def _tar(flag: str, archive: str, path: str, context: Context) -> tuple[tuple[str, ...], ...]:
    folder, pattern = split_glob(path)
    # --force-local: a name with a colon is a file, not a host.
    words = ("tar", "--force-local", f"-c{flag}f", archive)
    if pattern:
        return (*_matching(folder, pattern, context), "-print0"), (*words, "--null", "-T", "-")
    return ((*words, "--", context.word(path)),)


def _zip(archive: str, path: str, context: Context) -> tuple[tuple[str, ...], ...]:
    folder, pattern = split_glob(path)
    if pattern:
        return ((*_matching(folder, pattern, context), "-exec", "zip", "-qry", archive, "{}", "+"),)
    return (("zip", "-qry", archive, context.word(path)),)


def _extract(args: Args, flag: str | None, context: Context) -> Draft:
    target = args["to"] or "."
    archive, to = context.word(args["archive"]), context.word(target)
    if flag is None:
        unpack: tuple[str, ...] = ("unzip", "-n", archive, "-d", to)
    else:
        unpack = ("tar", "--force-local", f"-xv{flag}f", archive, "-C", to, "--no-same-owner", "-k")
    steps = (Run(argv=("mkdir", "-p", "--", to)), Run(argv=unpack, timeout_s=600))
    used = programs(*(step.argv for step in steps))
    effects = Effects(
        reads=(context.absolute(args["archive"]),), writes=(context.absolute(target),), programs=used
    )
    return Draft(steps, effects)


def read_archive(outcome: Outcome, args: Args) -> Outcome:
    if args["action"] != "create":
        return outcome
    if outcome.exit_code == 1 and not outcome.stderr:
        none = split_glob(args["path"])[1] and not outcome.stdout
        exists = f"{args['archive']} exists already; it was left alone.\n"
        note = f"Nothing matches {args['path']}.\n" if none else exists
        return outcome.model_copy(update={"stderr": note})
    if outcome.exit_code == 0:
        return outcome.model_copy(update={"stdout": f"created {PurePosixPath(args['archive']).name}\n"})
    return outcome


PAIRS = {"files.archive": Pair(plan_archive, read_archive)}
