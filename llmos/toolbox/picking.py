"""Of the files that a path takes in only some, by age, size and number (inside/picked.py picks them)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from llmos.errors import UsageError
from llmos.messages import Outcome, Step
from llmos.toolbox import inner
from llmos.toolbox.context import Args, Context, is_glob, pipeline
from llmos.toolbox.listing import excepted

_ASKED = ("older_than", "newer_than", "larger_than", "smaller_than", "sort", "limit", "keep_newest")


def asked(tool: str, args: Args) -> dict[str, Any]:
    """What is asked of age, size and number; empty where nothing is. Raises UsageError for half of it."""
    found = {name: args[name] for name in _ASKED if args.get(name) is not None}
    if ("sort" in found) != ("limit" in found):
        there, missing = ("sort", "limit") if "sort" in found else ("limit", "sort")
        raise UsageError(
            f"{tool}: argument `{there}`: it says nothing without `{missing}`",
            f"Give both, such as sort=oldest limit=2, or leave out `{there}`.",
        )
    return found


def given(tool: str, args: Args, context: Context) -> dict[str, Any]:
    """What the program inside is told: folder, pattern ("" for all below the folder), exceptions, asked."""
    path = PurePosixPath(str(args["path"]))
    whole = not is_glob(path.name) and context.is_folder(context.absolute(str(path)))
    folder = path if whole else path.parent
    if is_glob(str(folder)):
        raise UsageError(f"{tool}: {path}: only the last part may be a pattern", "Name the folder in full.")
    spared = [_below(tool, one, folder, whole=whole) for one in excepted(args)]
    return {
        "folder": context.word(str(folder)), "pattern": "" if whole else path.name, "except": spared,
        "asked": asked(tool, args), "path": str(path), "absolute": context.absolute(str(folder)),
    }  # fmt: skip


def _below(tool: str, spared: PurePosixPath, folder: PurePosixPath, *, whole: bool) -> str:
    inside = spared.relative_to(folder) if folder in spared.parents else spared
    if len(inside.parts) > 1 and not whole:
        raise UsageError(
            f"{tool}: {spared} does not lie directly in {folder}, and could not be left out",
            "Except what is in that folder itself, or make a call for each folder.",
        )
    return str(inside)


def changed(told: Mapping[str, Any]) -> str:
    """The paths that may be meant, as the policy knows them."""
    return f"{str(told['absolute']).rstrip('/')}/{told['pattern'] or '*'}"


def each(told: Mapping[str, Any], argv: tuple[str, ...], *, folders: bool, makes: str = "") -> Step:
    """A step that runs `argv` with all that is picked behind it, or for each in the place of its `{}`; the
    folder `makes` is made for it.
    """
    words = inner.argv("picked", {**told, "folders": folders, "makes": makes})
    how = ("-I{}",) if "{}" in argv else ()
    return pipeline((words, ("xargs", "-0", "-r", *how, *argv)), timeout_s=600)


def none(outcome: Outcome, args: Args) -> Outcome | None:
    """What is said where nothing was picked: no failure, since a clean-up may have nothing to do."""
    told = any(args.get(name) is not None for name in _ASKED)
    if not told or outcome.exit_code or outcome.stdout or outcome.stderr:
        return None
    said = f"Nothing in {args['path']} fits; nothing was done.\n"
    return outcome.model_copy(update={"stdout": said})
