"""Throwing files away so that they can be taken back: the trash, deleting, restoring.

Deleting goes to the trash of the caller's home, as file managers do it, unless it is too much for that or
was asked for for good. Either way `llmos undo` brings it back as long as it is kept there.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run, Step
from llmos.toolbox import inner, picking
from llmos.toolbox.context import Args, Context, Draft, Pair, expand, is_glob, pipeline, programs
from llmos.toolbox.inside import trash as inside
from llmos.toolbox.inside.patterns import exceptions
from llmos.toolbox.listing import escaped, excepted, not_directly, refuse_glob, split_glob

_TIMEOUT_S = 600
# More than this is deleted without the trash: there it would take as much room once more.
_MOST = {"bytes": 100 << 20, "entries": 2000}
_MOST_ASKED = {"bytes": 10 << 30, "entries": 100_000}  # by file.trash, which never deletes


def trash_of(context: Context) -> str:
    return f"{context.home.rstrip('/')}/.local/share/Trash"


def refuse_whole(tool: str, path: str, context: Context, *, itself: bool = True) -> None:
    """The root, the home, the folder one stands in and all above them are never moved or deleted; nor some
    of what is in those above: without `itself` what is in home and folder may be meant.
    """
    absolute = context.absolute(path)
    pattern = absolute.replace("[", "[[]")
    for place in (context.home, context.cwd):
        above = [place, *map(str, PurePosixPath(place).parents)]
        if not itself:
            above = [folder for folder in above if folder not in (context.home, context.cwd)]
        if any(fnmatch.fnmatchcase(folder, pattern) for folder in above):
            raise UsageError(
                f"{tool}: {path} takes in {place} as a whole, which is never done",
                "Name what is inside, for instance by a pattern such as *.tmp.",
            )


def plan_trash(args: Args, context: Context) -> Draft:
    if not _has_home(context):
        raise UsageError("file.trash: you have no home, so no trash", "Delete it: file.delete")
    return _throw_away(
        "file.trash", args, {"recursive": True, "most": _MOST_ASKED, "or_delete": False}, context
    )


def plan_delete(args: Args, context: Context) -> Draft:
    if (
        args["for_good"]
        or not _has_home(context)
        or not Path(context.home).is_dir()
        or _is_trash(args, context)
    ):
        return _delete(args, context)
    return _throw_away(
        "file.delete", args, {"recursive": args["recursive"], "most": _MOST, "or_delete": True}, context
    )


def _has_home(context: Context) -> bool:
    return context.home not in ("", "/")


def _is_trash(args: Args, context: Context) -> bool:
    """What lies in the trash already is deleted for good; of what is picked the trash is left out."""
    trash, place = f"{trash_of(context)}/", f"{context.absolute(args['path'])}/"
    return place.startswith(trash) or (trash.startswith(place) and not picking.asked("file.delete", args))


def _throw_away(tool: str, args: Args, how: dict[str, Any], context: Context) -> Draft:
    trash, kept = trash_of(context), not how.get("for_good")
    told = _picked(tool, args, context) if picking.asked(tool, args) else _named(tool, args, context)
    given = {"action": "trash", "trash": trash, "for_good": False, **told, **how}
    run = inner.run("trash", given, timeout_s=_TIMEOUT_S)
    opens = (trash,) if kept else ()
    effects = Effects(deletes=(context.absolute(told["path"]),), writes=opens, programs=programs(run.argv))
    return Draft((run,), effects, picking.command(tool, args), whole=True, opens=opens)


def _named(tool: str, args: Args, context: Context) -> dict[str, Any]:
    path = within(args).rstrip("/") or args["path"]
    refuse_whole(tool, path, context)
    folder, pattern = _parts(tool, path)
    spared(tool, args)  # raises
    return {
        "path": path, "folder": context.word(folder), "pattern": pattern, "glob": is_glob(pattern),
        "except": [path.name for path in excepted(args)], "absolute": context.absolute(folder), "asked": {},
    }  # fmt: skip


def _picked(tool: str, args: Args, context: Context) -> dict[str, Any]:
    folders = tool == "file.trash" and not picking.by_size(args)
    told = picking.given(tool, args, context, folders=bool(args.get("recursive")) or folders)
    refuse_whole(tool, args["path"], context, itself=bool(told["pattern"]))
    return told


def _parts(tool: str, path: str) -> tuple[str, str]:
    """The folder and the name or pattern in it, with `[` and a backslash as themselves."""
    whole = PurePosixPath(path)
    refuse_glob(str(whole.parent), tool, path)
    return str(whole.parent), whole.name


def _delete(args: Args, context: Context) -> Draft:
    if picking.asked("file.delete", args):
        how = {"recursive": args["recursive"], "most": _MOST, "or_delete": True, "for_good": True}
        return _throw_away("file.delete", args, how, context)
    path, but = within(args), spared("file.delete", args)
    refuse_whole("file.delete", path, context)
    folder, pattern = split_glob(path)
    refuse_glob(folder, "file.delete", path)
    rm = ("rm", "-v", "-r" if args["recursive"] else "-d", "--")  # -d: an empty folder needs no more
    argv: tuple[str, ...] = (*rm, context.word(path))
    if pattern:
        only = () if args["recursive"] else ("-not", "-type", "d")
        argv = (*expand(folder, pattern, context, but), *only, "-exec", *rm, "{}", "+")
    steps = (*there(folder, but, context), Run(argv=argv, timeout_s=_TIMEOUT_S))
    effects = Effects(deletes=(context.absolute(path),), programs=programs(argv))
    return Draft(steps, effects, whole=True)


def within(args: Args) -> str:
    """The path; where something is excepted, a folder stands for what is in it."""
    path = str(args["path"])
    return f"{path.rstrip('/')}/*" if args.get("except") and not is_glob(path) else path


def spared(tool: str, args: Args) -> tuple[str, ...]:
    """The patterns (for `find -name`) of what stays of a folder. Raises UsageError for what is elsewhere."""
    folder = PurePosixPath(within(args)).parent
    found = excepted(args)
    for path in found:
        if path.parent not in (PurePosixPath(), folder):
            raise not_directly(tool, path, folder)
    return tuple(escaped(path.name, but="*?") for path in found)


def there(folder: str, names: Sequence[str], context: Context) -> tuple[Step, ...]:
    """Steps that fail where a name that is excepted is not in the folder, or nothing that fits the patterns
    is: what is misspelt would not be spared.
    """
    look = ("find", "-H", context.word(folder), "-mindepth", "1", "-maxdepth", "1")
    return found_below(look, [("-iname", name) for name in names], names)


def found_below(
    look: Sequence[str], tests: Sequence[Sequence[str]], names: Sequence[str]
) -> tuple[Step, ...]:
    """As `there`, for tests of find(1) that stand for these names, and wherever find looks."""
    by_name = dict(zip(names, tests, strict=True))
    steps = []
    for some in exceptions(names):
        fits = [word for name in some for word in ("-o", *by_name[name])][1:]
        steps.append(pipeline(((*look, "(", *fits, ")", "-print0"), ("grep", "-zq", ""))))
    return tuple(steps)


def none_spared(outcome: Outcome, args: Args) -> str:
    """What is said where a step of `there` has failed."""
    if outcome.exit_code != 1 or outcome.stdout or outcome.stderr or not args.get("except"):
        return ""
    return f"What is to stay is not there ({', '.join(args['except'])}), so nothing was done.\n"


def read_trash(outcome: Outcome, args: Args) -> Outcome:
    return picking.none(outcome, args) or outcome


def read_delete(outcome: Outcome, args: Args) -> Outcome:
    if nothing := picking.none(outcome, args):
        return nothing
    if note := none_spared(outcome, args):
        return outcome.model_copy(update={"stderr": note})
    if outcome.exit_code == 0 and not outcome.stdout:
        note = outcome.stderr or f"Nothing matches {args['path']}.\n"
        return outcome.model_copy(update={"stderr": note, "exit_code": 1})
    return outcome


# --- restore -----------------------------------------------------------------------------------


def plan_restore(args: Args, context: Context) -> Draft:
    """Where it belongs is looked up now, so that the policy can judge it; the program looks again."""
    if not _has_home(context):
        raise UsageError("file.restore: you have no home, so no trash", "See: llmos undo")
    trash, path = trash_of(context), context.absolute(args["name"])
    found = inside.find(Path(trash), args["name"], path)
    given = {"action": "restore", "trash": trash, "name": args["name"], "path": path}
    run = inner.run("trash", given, timeout_s=_TIMEOUT_S)
    writes = (*(one.path for one in found[:1]), trash)
    effects = Effects(writes=writes, programs=programs(run.argv))
    return Draft((run,), effects, inner.command("file.restore", args), whole=True, opens=(trash,))


PAIRS = {
    "trash.trash": Pair(plan_trash, read_trash),
    "trash.restore": Pair(plan_restore),
    "files.delete": Pair(plan_delete, read_delete),
}
