"""Looking at files: list, find, usage, read. Pipelines of find, sort and head on NUL-ended records.

Names may hold anything but NUL, so a newline in a name is one name and is shown escaped. Sorting and
limiting happen in the pipeline: a tree of a million files never has to fit into the output cap.
GNU find, sort, head and du are assumed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import PurePosixPath

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run
from llmos.toolbox.context import Args, Context, Draft, Pair, is_glob, pipeline, programs
from llmos.toolbox.values import human_size, shown, table

# One record: size, time, kind (find's %y), path; the path stands last because it may hold blanks.
_RECORD = r"%s %T@ %y %p\0"
_SORTS = {"name": "-k4", "size": "-k1,1nr", "newest": "-k2,2nr", "oldest": "-k2,2n"}
_KINDS = {"file": ("-type", "f"), "folder": ("-type", "d"), "link": ("-type", "l")}
_DEFAULT_LIMIT = 200
FAILED = 2  # an exit code that never means "nothing found"
_MAX_SHOWN_BYTES = 2 << 20  # more than an outcome holds: a file of 100 GB is not read to its end for it


def cut_off(limit: int) -> str:
    """The line below a listing that has more."""
    return f"… and more; the first {f'{limit} are' if limit > 1 else 'one is'} shown.\n"


def split_glob(path: str) -> tuple[str, str]:
    """The folder and the pattern (for `find -name`) of `logs/*.txt`; an empty pattern for a plain path."""
    whole = PurePosixPath(path)
    if not is_glob(whole.name):
        return path, ""
    return str(whole.parent), whole.name.replace("\\", r"\\").replace("[", r"\[")


def refuse_glob(folder: str, tool: str, path: object) -> None:
    """Raises UsageError for a pattern in the folder of a path."""
    if is_glob(folder):
        raise UsageError(f"{tool}: {path}: only the last part may be a pattern", "Name the folder in full.")


def not_directly(tool: str, path: object, folder: object) -> UsageError:
    """An exception that is not of what a pattern takes in."""
    return UsageError(
        f"{tool}: {path} does not lie directly in {folder}, and could not be left out",
        "Except what is in that folder itself, or make a call for each folder.",
    )


def excepted(args: Args) -> list[PurePosixPath]:
    """What an `except` leaves out. Raises UsageError for what names nothing: it would leave out nothing."""
    found = [PurePosixPath(name) for name in args.get("except") or ()]
    if any(path.name in ("", "..") for path in found):
        raise UsageError(
            "argument `except`: expected names or patterns", "Name what is to stay, such as a.txt."
        )
    return found


def left_out(args: Args, start: str) -> tuple[tuple[str, ...], ...]:
    """The tests of find(1), one for each exception, that are true of what it leaves out below `start`."""
    return tuple(_test(escaped(start.rstrip("/")), escaped(str(path), but="*?")) for path in excepted(args))


def _test(start: str, name: str) -> tuple[str, ...]:
    forms = [f"{start}/{name}/*", f"{start}/*/{name}/*"]
    forms += [f"{start}/{name}", f"{start}/*/{name}"] if "/" in name else []
    words = [word for form in forms for word in ("-o", "-ipath", form)]
    return ("(", *(words[1:] if "/" in name else ("-iname", name, *words)), ")")


def escaped(name: str, but: str = "") -> str:
    """What find(1) takes literally, all signs of a pattern `but` these."""
    return re.sub(r"[\\*?\[]", lambda sign: sign[0] if sign[0] in but else f"\\{sign[0]}", name)


def _found(
    finding: Sequence[Sequence[str]], sort: str, limit: int | None, context: Context, path: str
) -> Draft:
    most = (limit or _DEFAULT_LIMIT) + 1  # one more tells that there is more
    argvs = [*finding, ("sort", "-z", _SORTS[sort]), ("head", "-z", "-n", str(most))]
    effects = Effects(reads=(context.absolute(path),), programs=programs(*argvs))
    return Draft((pipeline(argvs, ok_codes=(0, 1)),), effects)


def plan_list(args: Args, context: Context) -> Draft:
    path, name = split_glob(args["path"])
    argv = ["find", "-H", context.word(path), "-maxdepth", "1"]
    # A path that is itself a file has no entries; it is listed as itself.
    argv += ["-not", "(", "-type", "d", "-samefile", context.word(path), ")"]
    argv += ["-name", name] if name else []
    argv += [] if args["hidden"] or name.startswith(".") else ["-not", "-name", ".*"]
    argv += _KINDS.get(args["type"], ())
    return _found([[*argv, "-printf", _RECORD]], args["sort"], args["limit"], context, path)


def plan_find(args: Args, context: Context) -> Draft:
    path, pattern = split_glob(args["path"])
    argv = ["find", "-H", context.word(path), "-mindepth", "1"]
    argv += _KINDS.get(args["type"], ())
    for name in filter(None, (pattern, args["name"])):
        argv += ["-iname", name]
    for test in left_out(args, context.word(path)):
        argv += ["-not", *test]
    argv += _age_and_size(args)
    if args["contains"] is None:
        return _found([[*argv, "-printf", _RECORD]], args["sort"], args["limit"], context, path)
    # Many files for each grep: one for each file would take a minute for 100,000 of them.
    argv += ["-type", "f", "-print0"]
    those = ["xargs", "-0", "-r", "grep", "-liIFZ", "-e", args["contains"], "--"]
    record = ["xargs", "-0", "-r", "stat", "--printf", r"%s %Y f %n\0", "--"]
    return _found([argv, those, record], args["sort"], args["limit"], context, path)


def _age_and_size(args: Args) -> list[str]:
    tests: list[str] = []
    for name, flag, sign in (("larger_than", "-size", "+"), ("smaller_than", "-size", "-")):
        tests += [flag, f"{sign}{args[name]}c"] if args[name] is not None else []
    # find counts whole minutes up; a limit in minutes is exact enough for a person.
    for name, flag, sign in (("older_than", "-mmin", "+"), ("newer_than", "-mmin", "-")):
        tests += [flag, f"{sign}{max(args[name], 60) / 60:.0f}"] if args[name] is not None else []
    return tests


def read_found(outcome: Outcome, args: Args) -> Outcome:
    """Records as a table: size, time, name; folders end in `/`."""
    rows = [_row(record) for record in outcome.stdout.split("\0") if record.count(" ") >= 3]
    if not rows:
        return empty(outcome, "Nothing found.\n")
    limit = args["limit"] or _DEFAULT_LIMIT
    more = cut_off(limit) if len(rows) > limit else ""
    return outcome.model_copy(update={"stdout": table(rows[:limit], frozenset({0})) + more, "exit_code": 0})


def read_find(outcome: Outcome, args: Args) -> Outcome:
    """As `read_found`, and how many they are: "how many pictures are there?" is a search, too."""
    found = read_found(outcome, args)
    count = outcome.stdout.count("\0")
    whole = 1 < count <= (args["limit"] or _DEFAULT_LIMIT)
    return found.model_copy(update={"stdout": found.stdout + f"{count} found.\n"}) if whole else found


def _row(record: str) -> tuple[str, str, str]:
    size, mtime, kind, path = record.split(" ", 3)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(mtime)))
    name = shown(path.removeprefix("./") or ".")
    return ("-" if kind == "d" else human_size(int(size)), when, name + ("/" if kind == "d" else ""))


def empty(outcome: Outcome, sentence: str) -> Outcome:
    """No output: the sentence when nothing went wrong, a failure when a program complained."""
    if outcome.stderr:
        return outcome.model_copy(update={"exit_code": max(outcome.exit_code or 0, FAILED)})
    return outcome.model_copy(update={"stdout": sentence, "exit_code": 0})


# --- tree --------------------------------------------------------------------------------------


def plan_tree(args: Args, context: Context) -> Draft:
    find = ["find", "-H", context.word(args["path"]), "-mindepth", "1", "-maxdepth", str(args["depth"])]
    find += [] if args["hidden"] else ["-name", ".*", "-prune", "-o"]
    find += [*(("-type", "d") if args["folders"] else ()), "-printf", r"%y %P\0"]
    # The names alone in order, and what is in a folder straight behind it: `a/b` before `a.b`.
    order = ("sort", "-z", "-k2")
    argvs = [find, ("tr", "/", r"\001"), order, ("head", "-z", "-n", str(args["limit"] + 1))]
    effects = Effects(reads=(context.absolute(args["path"]),), programs=programs(*argvs))
    return Draft((pipeline(argvs, ok_codes=(0, 1)),), effects)


def read_tree(outcome: Outcome, args: Args) -> Outcome:
    """As tree(1) draws it; folders end in `/`."""
    records = [record.split(" ", 1) for record in outcome.stdout.split("\0") if " " in record]
    if not records:
        return empty(outcome, "Nothing found.\n")
    limit = args["limit"]
    entries = [(path.split("\1"), "/" if kind == "d" else "") for kind, path in records[:limit]]
    lines: list[str] = []
    open_below: set[int] = set()  # depths at which the folder above has more to come
    for path, mark in reversed(entries):
        depth = len(path)
        open_below = {level for level in open_below if level <= depth}
        stems = "".join("│   " if level in open_below else "    " for level in range(1, depth))
        corner = "├── " if depth in open_below else "└── "
        lines.append(f"{stems}{corner}{shown(path[-1])}{mark}\n")
        open_below.add(depth)
    more = cut_off(limit) if len(records) > limit else ""
    text = f"{shown(args['path'])}\n" + "".join(reversed(lines)) + more
    return outcome.model_copy(update={"stdout": text, "exit_code": 0})


# --- usage -------------------------------------------------------------------------------------


def plan_usage(args: Args, context: Context) -> Draft:
    depth = ("-d", str(args["depth"]))
    du = ("du", "-0", "-B1", *depth, *(("-a",) if args["files"] else ()), "--", context.word(args["path"]))
    argvs = [du, ("sort", "-z", "-rn"), ("head", "-z", "-n", str(args["limit"] + 1))]
    effects = Effects(reads=(context.absolute(args["path"]),), programs=programs(*argvs))
    return Draft((pipeline(argvs, ok_codes=(0, 1)),), effects)


def read_usage(outcome: Outcome, args: Args) -> Outcome:
    records = [record.split("\t", 1) for record in outcome.stdout.split("\0") if "\t" in record]
    if not records:
        return empty(outcome, "Nothing found.\n")
    rows = [(human_size(int(size)), shown(path.removeprefix("./"))) for size, path in records]
    return outcome.model_copy(update={"stdout": table(rows, frozenset({0})), "exit_code": 0})


# --- read --------------------------------------------------------------------------------------


def plan_read(args: Args, context: Context) -> Draft:
    path = args["path"]
    argv = _excerpt(args["first"], args["last"])
    if context.has_data and path in (None, "-"):
        return Draft((Run(argv=argv, stdin_data=True),), Effects(programs=programs(argv)))
    argv = (*argv, "--", context.word(need(path, "file.read", "path")))
    return Draft((Run(argv=argv),), Effects(reads=(context.absolute(path),), programs=programs(argv)))


def _excerpt(first: int | None, last: int | None) -> tuple[str, ...]:
    """The program that shows all of a file, its start, its end, or (both given) the lines in between."""
    if first is not None and last is not None:
        return ("sed", "-n", f"{first},{max(first, last)}p")
    if last is not None:
        return ("tail", "-n", str(last))
    return ("head", "-c", str(_MAX_SHOWN_BYTES)) if first is None else ("head", "-n", str(first))


def need(value: str | None, tool: str, name: str) -> str:
    """An argument that may be left out only when data is piped in."""
    if value is None or value == "-":
        raise UsageError(
            f"{tool}: argument `{name}`: it is missing, and no data was piped in", "Name a file."
        )
    return value


def read_text(outcome: Outcome, args: Args) -> Outcome:
    if "\0" in outcome.stdout:
        note = f"{shown(args['path'] or 'the data')} is a binary file; its content is not shown.\n"
        return outcome.model_copy(update={"stdout": note})
    return outcome if outcome.stdout or outcome.exit_code else empty(outcome, "The file is empty.\n")


PAIRS = {
    "files.list": Pair(plan_list, read_found),
    "files.find": Pair(plan_find, read_find),
    "files.tree": Pair(plan_tree, read_tree),
    "files.usage": Pair(plan_usage, read_usage),
    "files.read": Pair(plan_read, read_text),
}
