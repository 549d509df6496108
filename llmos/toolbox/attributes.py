"""Who may do what with a file: show and set permissions and owners.

What is shown is looked up when the call is planned, with the caller's rights: inside the sandbox all other
users are nobody. Permissions are set inside, by chmod; owners by the broker, because no command inside may
give a file away, and only for somebody who could do so himself: root, or a person within his own groups.

Not protected against: a link that is put in a file's place while a folder is worked through is not
followed, but the file meant is then left as it was.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath

from llmos.errors import CallFailed, UsageError
from llmos.messages import Caller, Change, Changed, Effects, JsonObject, Observe, Outcome, Run
from llmos.toolbox import inner
from llmos.toolbox.context import Args, Context, Draft, Pair, expand, programs
from llmos.toolbox.listing import refuse_glob, split_glob
from llmos.toolbox.trash import none_spared, spared, there, within
from llmos.toolbox.values import shown, table

_MAX_SHOWN = 200
_MAX_OWNED = 10_000  # entries in one change of owner; each is kept for undo
_MODE = re.compile(r"[0-7]{3,4}|[ugoa]*[-+=][rwxX]*(,[ugoa]*[-+=]([rwxX]*|[ugo]))*|[ugoa]*[-+=][ugo]")


def plan_permissions(args: Args, context: Context) -> Draft:
    if args.get("except") and args["mode"] is None:
        raise UsageError("file.permissions: `except` is for a mode that is set", "Leave it out.")
    args = {**args, "path": within(args)}
    folder, pattern = split_glob(args["path"])
    refuse_glob(folder, "file.permissions", args["path"])
    owned = args["owner"] is not None or args["group"] is not None
    if args["mode"] is not None and owned:
        raise UsageError(
            "file.permissions sets either permissions or owners", "Make two requests: first the owner."
        )
    if args["mode"] is not None:
        return _set_mode(args, folder, pattern, context)
    return _set_owner(args, context) if owned else _show(args, context)


# --- show --------------------------------------------------------------------------------------


def _show(args: Args, context: Context) -> Draft:
    """What stands there now as a table; whether it may be shown is for the policy to say."""
    found = list(islice(_listed(args, context), _MAX_SHOWN + 1))
    more = f"… and more; the first {_MAX_SHOWN} are shown.\n" if len(found) > _MAX_SHOWN else ""
    given: JsonObject = {}
    try:
        given["text"] = table([_row(path, name) for path, name in found[:_MAX_SHOWN]]) + more
    except OSError as error:
        given["problem"] = f"{shown(args['path'])}: {error.strerror}"
    effects = Effects(reads=(context.absolute(args["path"]),))
    return Draft(
        (Observe(observer="file.permissions", args=given),),
        effects,
        inner.command("file.permissions", args),
        read_only=True,
    )


def _listed(args: Args, context: Context) -> Iterator[tuple[Path, str]]:
    folder, pattern = split_glob(args["path"])
    top = Path(context.absolute(folder))
    if not pattern:
        yield top, folder
        if args["recursive"]:
            yield from _below(top, folder)
        return
    fits = re.compile(_expression(pattern))
    with suppress(OSError):
        for entry in sorted(top.iterdir()):
            if fits.fullmatch(entry.name) and (pattern.startswith(".") or not entry.name.startswith(".")):
                yield entry, str(PurePosixPath(folder, entry.name))


def _expression(pattern: str) -> str:
    """A pattern of find(1), as `split_glob` gives it, as a regular expression."""
    plain = pattern.replace(r"\[", "[").replace(r"\\", "\\")
    return "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in plain)


def _below(top: Path, name: str) -> Iterator[tuple[Path, str]]:
    for folder, folders, files in os.walk(top):
        folders.sort()
        for entry in sorted((*folders, *files)):
            path = Path(folder, entry)
            yield path, str(PurePosixPath(name, path.relative_to(top)))


def _row(path: Path, name: str) -> tuple[str, str, str, str, str]:
    found = path.lstat()
    octal = f"{stat.S_IMODE(found.st_mode):03o}"
    link = f" -> {shown(str(path.readlink()))}" if stat.S_ISLNK(found.st_mode) else ""
    return octal, stat.filemode(found.st_mode), _user(found.st_uid), _group(found.st_gid), shown(name) + link


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def told(args: JsonObject) -> str:
    """What was seen when the call was planned, now that it may be said."""
    if "problem" in args:
        raise CallFailed(str(args["problem"]), "See what is there: llmos call file.list --args '{}'")
    return str(args["text"]) or "Nothing matches.\n"


# --- permissions -------------------------------------------------------------------------------


def _set_mode(args: Args, folder: str, pattern: str, context: Context) -> Draft:
    mode = args["mode"].strip()
    if not _MODE.fullmatch(mode):
        _refuse_mode(mode)
    if len(mode) == 4 and mode.isdigit() and mode[0] not in "01":
        _refuse_mode(mode)
    words = ("chmod", "-c", *(("-R",) if args["recursive"] else ()), "--", mode)
    argv: tuple[str, ...] = (*words, context.word(folder))
    but = spared("file.permissions", args)
    if pattern:
        found = expand(folder, pattern, context, but)
        argv = (*found, "-not", "-type", "l", "-exec", *words, "{}", "+")
    effects = Effects(writes=(context.absolute(args["path"]),), programs=programs(argv))
    return Draft((*there(folder, but, context), Run(argv=argv)), effects, whole=True)


def _refuse_mode(mode: str) -> None:
    if "s" in mode or (mode.isdigit() and len(mode) == 4):
        raise UsageError(
            f"file.permissions: {mode} would let a file run as its owner (set-id), which is not given here",
            "Leave that bit out; where it is really needed, the administrator sets it outside llmos.",
        )
    raise UsageError(
        f"file.permissions: argument `mode`: expected permissions, not {mode[:40]!r}",
        "Write them as 644, 755, +x, u+w or go-rwx.",
    )


def read_permissions(outcome: Outcome, args: Args) -> Outcome:
    if note := none_spared(outcome, args):
        return outcome.model_copy(update={"stderr": note})
    if args["mode"] is None or outcome.exit_code or outcome.stdout:
        return outcome
    pattern = split_glob(args["path"])[1]
    note = "Nothing was changed: the permissions are so already" + (
        f", or nothing matches {args['path']}.\n" if pattern else ".\n"
    )
    return outcome.model_copy(update={"stdout": note})


# --- owners ------------------------------------------------------------------------------------


def _set_owner(args: Args, context: Context) -> Draft:
    if split_glob(args["path"])[1]:
        raise UsageError(
            "file.permissions: owners are set for one file or folder", "Name it; `recursive` takes a folder."
        )
    path = context.absolute(args["path"])
    who = f"{args['owner'] or ''}{':' + args['group'] if args['group'] else ''}"
    entries = [path, *((str(below) for below, _ in _below(Path(path), path)) if args["recursive"] else ())]
    shows = f"chown -h{'R' if args['recursive'] else ''} {who} {path}"
    given: JsonObject = {key: args[key] for key in ("owner", "group", "recursive")} | {"path": path}
    step = Change(changer="file.owner", args=given, shows=shows)
    return Draft((step,), Effects(writes=tuple(entries[:500])))


def _uid_of(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise CallFailed(f"there is no user {name!r}", "See who there is: getent passwd") from None


def _gid_of(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise CallFailed(f"there is no group {name!r}", "See what there is: getent group") from None


def change_owner(args: JsonObject, caller: Caller) -> Changed:
    """Give away a file, or a folder with all in it, without following links; the way back is kept."""
    if caller.uid != os.geteuid():
        raise CallFailed(
            "only the administrator may change owners through the system service",
            "Use chgrp yourself, or ask the administrator.",
        )
    if "entries" in args:
        return _give_back(args["entries"])
    before = _owners(str(args["path"]), recursive=bool(args["recursive"]))
    uid = _uid_of(args["owner"]) if args["owner"] else -1
    gid = _gid_of(args["group"]) if args["group"] else -1
    _give([(path, uid, gid) for path, _, _ in before], before)
    back = Change(
        changer="file.owner",
        args={"entries": before},
        shows=f"chown back: {len(before)} entries of {args['path']}",
    )
    return Changed(text=f"{len(before)} changed: {_now(str(args['path']))}\n", reverse=(back,))


def _give_back(entries: list[tuple[str, int, int]]) -> Changed:
    now = [(path, *_owner(path)) for path, _, _ in entries]
    _give([(path, uid, gid) for path, uid, gid in entries], now)
    back = Change(changer="file.owner", args={"entries": now}, shows=f"chown back: {len(now)} entries")
    return Changed(text=f"{len(entries)} given back: {_now(entries[0][0])}\n", reverse=(back,))


def _owners(top: str, *, recursive: bool) -> list[tuple[str, int, int]]:
    paths = [top, *((str(path) for path, _ in _below(Path(top), top)) if recursive else ())]
    if len(paths) > _MAX_OWNED:
        raise CallFailed(f"{top} holds more than {_MAX_OWNED:,} entries", "Do it folder by folder.")
    return [(path, *_owner(path)) for path in paths]


def _owner(path: str) -> tuple[int, int]:
    try:
        found = Path(path).lstat()
    except OSError as error:
        raise CallFailed(f"{shown(path)}: {error.strerror}", "Make the request again.") from error
    return found.st_uid, found.st_gid


def _give(wanted: list[tuple[str, int, int]], before: list[tuple[str, int, int]]) -> None:
    """All of them, or none: what was given before a failure is taken back."""
    done = 0
    try:
        for path, uid, gid in wanted:
            os.chown(path, uid, gid, follow_symlinks=False)
            done += 1
    except OSError as error:
        for path, uid, gid in before[:done]:
            with suppress(OSError):
                os.chown(path, uid, gid, follow_symlinks=False)
        path = wanted[done][0]
        raise CallFailed(
            f"{shown(path)} cannot be given away: {error.strerror}",
            "Only root may give files to others, and nobody to a group that is not his.",
        ) from error


def _now(path: str) -> str:
    uid, gid = _owner(path)
    return f"{shown(path)} belongs to {_user(uid)}:{_group(gid)}"


PAIRS = {
    "files.permissions": Pair(plan_permissions, read_permissions),
}
OBSERVERS = {"file.permissions": told}
CHANGERS = {"file.owner": change_owner}
