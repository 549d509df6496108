"""Of the files that a path takes in only some, by age, size and number (inside/picked.py picks them)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from llmos.errors import UsageError
from llmos.messages import Outcome
from llmos.toolbox import inner
from llmos.toolbox.context import Args, Context, is_glob
from llmos.toolbox.listing import excepted, not_directly, refuse_glob

_AGES = ("older_than", "newer_than")
_SIZES = ("larger_than", "smaller_than")
_ASKED = (*_AGES, *_SIZES, "sort", "limit", "keep_newest")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_BYTES = {"G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "B": 1}


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


def by_size(args: Args) -> bool:
    """Whether files are asked for that are large or first: folders are not what is meant by that."""
    return any(args.get(name) is not None for name in (*_SIZES, "sort"))


def given(tool: str, args: Args, context: Context, *, folders: bool) -> dict[str, Any]:
    """What the program inside is told: folder, pattern ("" for all below the folder), exceptions, asked."""
    path = PurePosixPath(str(args["path"]))
    whole = not is_glob(path.name) and context.is_folder(context.absolute(str(path)))
    folder = path if whole else path.parent
    refuse_glob(str(folder), tool, path)
    spared = [_below(tool, one, folder, whole=whole) for one in excepted(args)]
    return {
        "folder": context.word(str(folder)), "pattern": "" if whole else path.name, "folders": folders,
        "except": spared, "asked": asked(tool, args), "path": str(path),
        "absolute": context.absolute(str(folder)),
    }  # fmt: skip


def _below(tool: str, spared: PurePosixPath, folder: PurePosixPath, *, whole: bool) -> str:
    inside = spared.relative_to(folder) if folder in spared.parents else spared
    if len(inside.parts) > 1 and not whole:
        raise not_directly(tool, spared, folder)
    return str(inside)


def command(tool: str, args: Args) -> str:
    """What a person is shown, with ages and sizes as he would type them."""
    texts = {name: _text(args[name], _SECONDS) for name in _AGES if args.get(name) is not None}
    texts |= {name: _text(args[name], _BYTES) for name in _SIZES if args.get(name) is not None}
    return inner.command(tool, {**args, **texts})


def _text(amount: float, units: Mapping[str, int]) -> str:
    """In the largest unit of which it is a whole number."""
    unit = next((unit for unit, length in units.items() if amount and amount % length == 0), [*units][-1])
    return f"{amount / units[unit]:g}{unit}"


def none(outcome: Outcome, args: Args) -> Outcome | None:
    """What is said where nothing was picked: no failure, since a clean-up may have nothing to do."""
    told = any(args.get(name) is not None for name in _ASKED)
    if not told or outcome.exit_code or outcome.stdout or outcome.stderr:
        return None
    said = f"Of {args['path']} nothing fits; nothing was done.\n"
    return outcome.model_copy(update={"stdout": said})
