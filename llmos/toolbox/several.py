"""Files as a set: rename many by a pattern, find duplicates, compute and verify checksums, make folders."""

from __future__ import annotations

import re

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run
from llmos.toolbox import inner
from llmos.toolbox.context import Args, Context, Draft, Pair, pipeline, programs
from llmos.toolbox.listing import empty, refuse_glob, split_glob
from llmos.toolbox.values import shown

_TIMEOUT_S = 600

# --- rename ------------------------------------------------------------------------------------


def plan_rename(args: Args, context: Context) -> Draft:
    if not args["find"]:
        raise UsageError("file.rename: argument `find`: it is empty", "Say what to replace in the names.")
    folder, pattern = split_glob(args["path"])
    refuse_glob(folder, "file.rename", args["path"])
    pattern = pattern.replace(r"\[", "[").replace("\\\\", "\\")
    if not pattern:
        folder, pattern = _parts(args["path"])
    given = {**args, "folder": context.word(folder), "pattern": pattern}
    run = inner.run("rename", given, timeout_s=_TIMEOUT_S)
    changed = context.absolute(args["path"])
    effects = Effects(
        reads=(changed,) if args["preview"] else (),
        writes=() if args["preview"] else (changed,),
        programs=programs(run.argv),
    )
    command = inner.command("file.rename", args)
    return Draft((run,), effects, command, whole=True, read_only=args["preview"])


def _parts(path: str) -> tuple[str, str]:
    """A folder stands for all that is in it; a file is renamed itself."""
    if path.rstrip("/") in (".", "..", "~", "") or path.endswith("/"):
        return path, "*"
    folder, _, name = path.rpartition("/")
    return folder or ("/" if path.startswith("/") else "."), name


# --- duplicates --------------------------------------------------------------------------------


def plan_duplicates(args: Args, context: Context) -> Draft:
    path, pattern = split_glob(args["path"])
    larger = args["larger_than"] or 0
    find = ["find", "-H", context.word(path), "-type", "f", "-size", f"+{larger}c"]
    find += ["-name", pattern] if pattern else []
    argvs = [
        (*find, "-printf", r"%s %D:%i %p\0"),
        ("sort", "-z", "-k1,1nr"),
        inner.argv("duplicates", {"limit": args["limit"]}),
    ]
    run = pipeline(argvs, timeout_s=_TIMEOUT_S)
    effects = Effects(reads=(context.absolute(path),), programs=programs(*argvs))
    return Draft((run,), effects, inner.command("file.duplicates", args))


def read_duplicates(outcome: Outcome, args: Args) -> Outcome:
    return outcome if outcome.stdout else empty(outcome, "No two files have the same content.\n")


# --- checksum ----------------------------------------------------------------------------------

_SUMS = {"sha256": "sha256sum", "sha1": "sha1sum", "md5": "md5sum", "blake2": "b2sum"}
_BY_LENGTH = {64: "sha256", 40: "sha1", 32: "md5", 128: "blake2"}


def algorithm(args: Args) -> str:
    """As it was said; a whole checksum to compare with says it by its length."""
    return _BY_LENGTH.get(len(_expected(args)), str(args["algorithm"]))


def _expected(args: Args) -> str:
    text = (args["expect"] or "").strip().lower()
    return re.sub(r"^(sha256|sha1|md5|blake2b?)[:=]\s*", "", text)


def plan_checksum(args: Args, context: Context) -> Draft:
    expected = _expected(args)
    if args["expect"] is not None and not re.fullmatch(r"[0-9a-f]{4,128}", expected):
        raise UsageError(
            "file.checksum: argument `expect`: expected a checksum in hexadecimal",
            "Give it, or its beginning.",
        )
    path, pattern = split_glob(args["path"])
    words = (_SUMS[algorithm(args)], "-z", "--")
    argv: tuple[str, ...] = (*words, context.word(path))
    if pattern:
        only = ("-mindepth", "1", "-maxdepth", "1", "-type", "f", "-name", pattern)
        argv = ("find", "-H", context.word(path), *only, "-exec", *words, "{}", "+")
    effects = Effects(reads=(context.absolute(args["path"]),), programs=programs(argv))
    return Draft((Run(argv=argv, timeout_s=_TIMEOUT_S),), effects)


def read_checksum(outcome: Outcome, args: Args) -> Outcome:
    """`HASH  name` a line, or whether it is the one that was expected."""
    sums = [record.partition("  ") for record in outcome.stdout.split("\0") if record]
    if not sums:
        return empty(outcome, f"Nothing matches {args['path']}.\n")
    if args["expect"] is None:
        text = "".join(f"{found}  {shown(name.removeprefix('./'))}\n" for found, _, name in sums)
        return outcome.model_copy(update={"stdout": text, "exit_code": outcome.exit_code})
    lines = [_compared(found, shown(name), args) for found, _, name in sums]
    same = all(good for good, _ in lines)
    text = "".join(f"{line}\n" for _, line in lines)
    return outcome.model_copy(update={"stdout": text, "exit_code": 0 if same else 1})


def _compared(found: str, name: str, args: Args) -> tuple[bool, str]:
    kind = algorithm(args)
    if found.startswith(_expected(args)):
        return True, f"{name}: the {kind} matches ({found})"
    return False, f"{name}: the {kind} DIFFERS: it is {found}, not {_expected(args)}"


# --- mkdir -------------------------------------------------------------------------------------


def plan_mkdir(args: Args, context: Context) -> Draft:
    argv = ("mkdir", "-pv", "--", context.word(args["path"]))
    effects = Effects(writes=(context.absolute(args["path"]),), programs=programs(argv))
    return Draft((Run(argv=argv),), effects, whole=True)


def read_mkdir(outcome: Outcome, args: Args) -> Outcome:
    if outcome.exit_code:
        return outcome
    note = f"created {args['path']}\n" if outcome.stdout else f"{args['path']} exists already.\n"
    return outcome.model_copy(update={"stdout": note})


PAIRS = {
    "files.rename": Pair(plan_rename),
    "files.duplicates": Pair(plan_duplicates, read_duplicates),
    "files.checksum": Pair(plan_checksum, read_checksum),
    "files.mkdir": Pair(plan_mkdir, read_mkdir),
}
