"""Archives: create, extract and list tar and zip, and one compressed file (gz, bz2, xz, zst).

tar and zip create, the kind being told by the name's ending; reading is a program of our own
(`inside.archive`), which refuses a hostile archive before anything is written and drops set-id bits. A zst
is decompressed by zstd and read twice as a stream: first to check it. Existing files are never replaced.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run, Step
from llmos.toolbox import inner
from llmos.toolbox.context import Args, Context, Draft, Pair, expand, fitting, is_glob, pipeline, programs
from llmos.toolbox.listing import escaped, left_out, refuse_glob, split_glob
from llmos.toolbox.trash import found_below

_TAR = {
    ".tar": (), ".tar.gz": ("-z",), ".tgz": ("-z",), ".tar.bz2": ("-j",), ".tbz2": ("-j",),
    ".tar.xz": ("-J",), ".txz": ("-J",), ".tar.zst": ("--zstd",), ".tzst": ("--zstd",),
}  # fmt: skip
_ONE_FILE = (".gz", ".bz2", ".xz", ".zst")
_TIMEOUT_S = 600


def plan_archive(args: Args, context: Context) -> Draft:
    if args["archive"] is None:
        args = {**args, "archive": _named_after(args, context)}
    match args["action"]:
        case "create":
            return _create(args, context)
        case "extract":
            steps = _reading("extract", args, context)
            effects = Effects(
                reads=(context.absolute(args["archive"]),),
                writes=(context.absolute(args["to"] or "."),),
                programs=programs(*_argvs(steps)),
            )
            return Draft(steps, effects, command=_command(args), whole=True)
    steps = _reading("list", args, context)
    effects = Effects(reads=(context.absolute(args["archive"]),), programs=programs(*_argvs(steps)))
    return Draft(steps, effects, command=_command(args), read_only=True)


def _named_after(args: Args, context: Context) -> str:
    """As gzip(1) names one file, and a folder's as most people do: beside it. Raises UsageError."""
    path = args["path"]
    if args["action"] != "create" or path is None or is_glob(path):
        raise UsageError(
            "file.archive: argument `archive`: it is missing", "Name the archive, such as all.tar.gz."
        )
    path = path.rstrip("/")
    return f"{path}{'.tar.gz' if context.is_folder(context.absolute(path)) else '.gz'}"


def _command(args: Args) -> str:
    to = args["to"] if args["action"] == "extract" else None
    return inner.command("file.archive", {**args, "to": to})


# --- reading -----------------------------------------------------------------------------------------


def _reading(action: str, args: Args, context: Context) -> tuple[Step, ...]:
    """The steps that list or extract; those of a zst check it first, a stream is read once."""
    archive = args["archive"]
    given: dict[str, Any] = {
        "name": archive,
        "archive": context.word(archive),
        "packed": context.word(archive),
        "to": context.word(args["to"] or "."),
        "inner": _inner_name(archive),
        "limit": args["limit"],
        "only": args.get("only"),
        "except": args.get("except"),
    }
    if not archive.lower().endswith((".zst", ".tzst")):
        return (inner.run("archive", {**given, "action": action}, timeout_s=_TIMEOUT_S),)
    actions = ("check", "extract") if action == "extract" else ("list",)
    unpack = ("zstd", "-dcq", "--", context.word(archive))
    first, *then = (
        pipeline(
            (unpack, inner.argv("archive", {**given, "archive": "-", "action": one})), timeout_s=_TIMEOUT_S
        )
        for one in actions
    )
    # A pipe hides that zstd failed: what is damaged or cut short is found by asking it alone.
    return first, Run(argv=("zstd", "-tq", "--", context.word(archive)), timeout_s=_TIMEOUT_S), *then


def _inner_name(archive: str) -> str:
    """What a single compressed file is called once it is not."""
    name = PurePosixPath(archive).name
    return name[: -len(PurePosixPath(name).suffix)] if name.lower().endswith(_ONE_FILE) else f"{name}.out"


def _argvs(steps: tuple[Step, ...]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for step in steps:
        if step.kind == "run":
            found.append(step.argv)
        elif step.kind == "pipelines":
            found += [command.argv for one in step.pipelines for command in one.commands]
    return found


# --- creating ----------------------------------------------------------------------------------------


def _create(args: Args, context: Context) -> Draft:
    path = args["path"]
    if path is None:
        raise UsageError("file.archive: argument `path`: it is missing", "Say what goes into the archive.")
    if args.get("only"):
        raise UsageError("file.archive: `only` is for what is unpacked", "Say what goes in by `path`.")
    refuse_glob(split_glob(path)[0], "file.archive", path)
    free = Run(argv=("test", "!", "-e", context.word(args["archive"])))
    told = Run(argv=("ls", "-d", "--", context.word(args["archive"])))  # a name of ours is not in the call
    steps = (*_any(args, context), free, _packing(args, path, context), told)
    effects = Effects(
        reads=(context.absolute(path),),
        writes=(context.absolute(args["archive"]),),
        programs=programs(*_argvs(steps)),
    )
    return Draft(steps, effects, command=_command(args), whole=True)


def _packing(args: Args, path: str, context: Context) -> Step:
    archive = args["archive"]
    lower, word = archive.lower(), context.word(archive)
    if lower.endswith(".zip"):
        return pipeline(_zip(word, args, context), timeout_s=_TIMEOUT_S)
    for ending, flags in _TAR.items():
        if lower.endswith(ending):
            return pipeline(_tar(flags, word, args, context), timeout_s=_TIMEOUT_S)
    if lower.endswith(_ONE_FILE) and not args.get("except"):
        return _one_file(archive, path, context)
    raise UsageError(
        f"file.archive: {archive} is no archive that is known by its name",
        f"Let it end in one of: {', '.join((*_TAR, '.zip', *_ONE_FILE))}",
    )


def _one_file(archive: str, path: str, context: Context) -> Step:
    if is_glob(path):
        raise UsageError(
            f"file.archive: {archive} holds one file, and {path} may be several",
            "Let the name end in .tar.gz or .zip.",
        )
    if archive.lower().endswith(".zst"):
        words = ("zstd", "-q", "-o", context.word(archive), "--", context.word(path))
        return Run(argv=words, timeout_s=_TIMEOUT_S)
    given = {"action": "compress", "archive": context.word(archive), "path": context.word(path)}
    return inner.run("archive", given, timeout_s=_TIMEOUT_S)


def _any(args: Args, context: Context) -> tuple[Step, ...]:
    """Steps that fail where an exception is nothing there, then one that prints the first of what goes in and
    fails where that is nothing; none for a plain path.
    """
    names = args.get("except") or ()
    if not names and not split_glob(args["path"])[1]:
        return ()
    start = _start(args["path"], context)
    look = ("find", "-H", start, "-mindepth", "1")
    first = ("grep", "-z", "-m", "1", "")
    going = pipeline(((*_going_in(args, context), "-print0"), first))
    return (*found_below(look, left_out(args, start), names), going)


def _start(path: str, context: Context) -> str:
    folder, pattern = split_glob(path)
    return context.word(folder if pattern else path)


def _going_in(args: Args, context: Context) -> tuple[str, ...]:
    """find(1)'s words, but for what is done with it: what a pattern takes in, as a whole; or, where something
    is excepted, each entry below the folder or the pattern that is not.
    """
    folder, pattern = split_glob(args["path"])
    if not args.get("except"):
        return expand(folder, pattern, context)
    start = _start(args["path"], context)
    words: list[str] = ["find", "-H", start, "-mindepth", "1"]
    if pattern:
        top = ("-not", "-path", f"{escaped(start.rstrip('/'))}/*/*")
        words += ["(", *top, "-not", "(", *fitting(pattern), ")", ")", "-prune", "-o"]
    for test in left_out(args, start):
        words += [*test, "-prune", "-o"]
    return tuple(words)


def _tar(flags: tuple[str, ...], archive: str, args: Args, context: Context) -> tuple[tuple[str, ...], ...]:
    pattern, word = split_glob(args["path"])[1], context.word(args["path"])
    # --force-local: a name with a colon is a file, not a host. -S: holes stay holes.
    words = ("tar", "--force-local", "-cS", *flags, "-f", archive)
    listed = ("--null", "-T", "-")
    if args.get("except"):
        # Not the folder one is in: the archive is made there, and tar complains of what changes meanwhile.
        itself = () if pattern or PurePosixPath(args["path"]) == PurePosixPath() else (word,)
        return (*_going_in(args, context), "-print0"), (*words, "--no-recursion", *itself, *listed)
    if pattern:
        return (*_going_in(args, context), "-print0"), (*words, *listed)
    return ((*words, "--", word),)


def _zip(archive: str, args: Args, context: Context) -> tuple[tuple[str, ...], ...]:
    pattern, word = split_glob(args["path"])[1], context.word(args["path"])
    if args.get("except"):
        itself = () if pattern else (word,)
        return ((*_going_in(args, context), "-exec", "zip", "-qy", archive, *itself, "{}", "+"),)
    if pattern:
        return ((*_going_in(args, context), "-exec", "zip", "-qry", archive, "{}", "+"),)
    return (("zip", "-qry", archive, word),)


def read_archive(outcome: Outcome, args: Args) -> Outcome:
    if args["action"] != "create":
        return outcome
    if outcome.exit_code == 1 and not outcome.stderr:
        none = (split_glob(args["path"])[1] or args.get("except")) and not outcome.stdout
        if none and args.get("except"):
            told = ", ".join(args["except"])
            note = f"Nothing is left of {args['path']} to go in, or what is to stay is not there: {told}.\n"
            return outcome.model_copy(update={"stderr": note})
        exists = f"{args['archive'] or 'An archive of it'} exists already; it was left alone.\n"
        note = f"Nothing matches {args['path']}.\n" if none else exists
        return outcome.model_copy(update={"stdout": "", "stderr": note})
    if outcome.exit_code == 0:
        name = outcome.stdout.replace("\0", "\n").rstrip("\n").rpartition("\n")[2]
        return outcome.model_copy(update={"stdout": f"created {PurePosixPath(name).name}\n"})
    return outcome


PAIRS = {"files.archive": Pair(plan_archive, read_archive)}
