"""Links: symbolic ones, that say where to look, and hard ones, further names of a file.

A symbolic link is made in the sandbox. A hard link is made by the broker, because a copy-on-write view
cannot give a second name to a file that lies below it; so only for the broker's own user. It is never to a
link, and taken back only while it is still a name of that file.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path, PurePosixPath

from llmos.errors import CallFailed
from llmos.messages import Caller, Change, Changed, Effects, JsonObject, Outcome, Run
from llmos.toolbox.context import Args, Context, Draft, Pair, command_of, programs
from llmos.toolbox.values import shown


def plan_link(args: Args, context: Context) -> Draft:
    place = _place(args)
    if args["hard"]:
        return _hard(context.absolute(args["target"]), context.absolute(place))
    folder = str(PurePosixPath(place).parent)
    makes = (
        () if folder in (".", "..", "/", "~") else (Run(argv=("mkdir", "-p", "--", context.word(folder))),)
    )
    says = _as_seen_from(args["target"], place, context)
    link = Run(argv=("ln", "-svT", "--", says, context.word(place)))
    look = Run(argv=("ls", "-Ld", "--", context.word(place)), ok_codes=(0, 2))
    steps = (*makes, link, look)
    effects = Effects(writes=(context.absolute(place),), programs=programs(*(step.argv for step in steps)))
    return Draft(steps, effects, command_of(steps[:-1]), whole=True)


def _place(args: Args) -> str:
    """Where the link goes: in a folder it gets the target's name."""
    link: str = args["link"]
    into = link.endswith("/") or link in (".", "..", "~")
    return str(PurePosixPath(link, PurePosixPath(args["target"]).name)) if into else link


def _as_seen_from(target: str, link: str, context: Context) -> str:
    """What the link must say: a relative path counts from the link's folder, not from where one stands."""
    if target.startswith(("/", "~")):
        return context.absolute(target)
    here, there = context.absolute(str(PurePosixPath(link).parent)), context.absolute(target)
    return posixpath.relpath(there, here)


def read_link(outcome: Outcome, args: Args) -> Outcome:
    if "File exists" in outcome.stderr:
        note = (
            f"{_place(args)} exists already; it was left alone. End it in / to put the link into a folder.\n"
        )
        return outcome.model_copy(update={"stderr": note, "exit_code": 1})
    if args["hard"] or outcome.exit_code not in (0, 2) or not outcome.stdout:
        return outcome
    text = f"{_place(args)} is a link to {args['target']}\n"
    if outcome.exit_code:
        text += f"It is broken: {args['target']} does not exist.\n"
    return outcome.model_copy(update={"stdout": text, "stderr": "", "exit_code": 0})


# --- hard links --------------------------------------------------------------------------------


def _hard(target: str, link: str) -> Draft:
    step = Change(
        changer="file.hardlink", args={"target": target, "link": link}, shows=f"ln -- {target} {link}"
    )
    return Draft((step,), Effects(reads=(target,), writes=(link,)))


def change_hard_link(args: JsonObject, caller: Caller) -> Changed:
    """Make a hard link, or (`inode`) take one away again."""
    if caller.uid != os.geteuid():
        raise CallFailed("the system service makes no hard links for others", "Make a symbolic link instead.")
    target, link = Path(args["target"]), Path(args["link"])
    try:
        return _unlink(target, link, args["inode"]) if "inode" in args else _make(target, link)
    except FileExistsError as error:
        raise CallFailed(f"{shown(str(link))} exists already", "Name another link.") from error
    except OSError as error:
        raise CallFailed(f"{shown(str(error.filename))}: {error.strerror}", "See what is there.") from error


def _make(target: Path, link: Path) -> Changed:
    if not target.is_file() or target.is_symlink():
        raise CallFailed(f"{shown(str(target))} is no plain file", "Only a file gets a hard link.")
    os.link(target, link, follow_symlinks=False)
    inode = link.lstat().st_ino
    back = Change(
        changer="file.hardlink",
        args={"target": str(target), "link": str(link), "inode": inode},
        shows=f"rm -- {link}",
    )
    names = target.stat().st_nlink
    text = f"{shown(str(link))} is a hard link to {shown(str(target))}, which has {names} names now\n"
    return Changed(text=text, reverse=(back,))


def _unlink(target: Path, link: Path, inode: int) -> Changed:
    found = link.lstat()
    if found.st_ino != inode or found.st_nlink < 2:
        raise CallFailed(f"{shown(str(link))} is another file by now", "Look at it and remove it yourself.")
    link.unlink()
    again = Change(
        changer="file.hardlink",
        args={"target": str(target), "link": str(link)},
        shows=f"ln -- {target} {link}",
    )
    return Changed(text=f"removed the name {shown(str(link))}\n", reverse=(again,))


PAIRS = {"files.link": Pair(plan_link, read_link)}
CHANGERS = {"file.hardlink": change_hard_link}
