"""Changing files: write, move, copy. Nothing is overwritten unless `overwrite` says so.

A pattern (`*.jpg`) may stand in the last part of a path; find expands it inside the sandbox, so names with
blanks, newlines or a leading dash are whole words. mv and cp run with -i and no one to answer, which
leaves an existing target alone and says so. Folders that a target needs are created.

Not protected against: a program that changes the same names at the same time.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run
from llmos.toolbox import inner, picking
from llmos.toolbox.context import Args, Context, Draft, Pair, expand, is_glob, programs
from llmos.toolbox.listing import escaped, need, refuse_glob, split_glob
from llmos.toolbox.trash import none_spared, refuse_whole, spared, there, within

_KEPT = re.compile(
    r"(?:mv|cp): (?:overwrite|replace) (.+?)(?:, overriding[^?]*)?\? ?(?=mv: |cp: |$)", re.DOTALL
)


def plan_write(args: Args, context: Context) -> Draft:
    path, content = need(args["path"], "file.write", "path"), args["content"]
    if content is None and not context.has_data:
        raise UsageError(
            "file.write: argument `content`: it is missing, and no data was piped in", "Give it."
        )
    how = {
        "create": ("conv=excl",),
        "overwrite": (),
        "append": ("oflag=append", "conv=notrunc"),
    }[args["mode"]]
    dd = ("dd", f"of={context.word(path)}", *how, "status=none")
    write = Run(argv=dd, stdin_text=_ended(content), stdin_data=content is None)
    steps = (*folders(parent(path), context), write)
    command = "" if content is None else _heredoc(steps, content)
    return Draft(steps, _effects(steps, writes=(context.absolute(path),)), command)


def _ended(content: str | None) -> str | None:
    """Text ends in a newline, so that what is appended next begins on a line of its own."""
    return f"{content}\n" if content and not content.endswith("\n") else content


def _heredoc(steps: tuple[Run, ...], content: str) -> str:
    from llmos.toolbox.context import command_of

    mark = "TEXT"
    while mark in content:
        mark += "_"
    return f"{command_of(steps)} <<'{mark}'\n{_ended(content)}{mark}"


def parent(path: str) -> str:
    return str(PurePosixPath(path).parent)


def folders(folder: str, context: Context) -> tuple[Run, ...]:
    """A step that creates the folder, if there can be need of one."""
    if folder.rstrip("/") in ("", ".", "..", "~"):
        return ()
    return (Run(argv=("mkdir", "-p", "--", context.word(folder))),)


def _effects(
    steps: tuple[Run, ...],
    *,
    reads: tuple[str, ...] = (),
    writes: tuple[str, ...] = (),
) -> Effects:
    used = programs(*(step.argv for step in steps))
    return Effects(reads=reads, writes=writes, programs=used)


def read_write(outcome: Outcome, args: Args) -> Outcome:
    if outcome.exit_code == 0:
        return outcome.model_copy(update={"stdout": f"wrote {args['path']}\n"})
    if "File exists" in outcome.stderr:
        note = f"{args['path']} exists already; nothing was written (mode overwrite or append would).\n"
        return outcome.model_copy(update={"stderr": note})
    return outcome


# --- move and copy -----------------------------------------------------------------------------


def _transfer(tool: str, argv: tuple[str, ...], args: Args, context: Context) -> Draft:
    if picking.asked(tool, args):
        return _transfer_picked(tool, args, context)
    source, target, but = within(args), _target(args, context), spared(tool, args)
    if tool == "file.move":
        refuse_whole(tool, source, context)
    careful = "-f" if args["overwrite"] else "-i"
    folder, pattern = _pattern(tool, source)
    into = bool(pattern) or target.endswith("/")
    makes = folders(target if into else parent(target), context)
    where = ("-t", context.word(target)) if into else ()
    words = (*argv, careful, "-v", *where)
    if pattern:
        # The target may lie among what the pattern takes in: `*` but one file into a new folder here.
        itself = _first_below(folder, target, context)
        run = Run(argv=(*expand(folder, pattern, context, but), *itself, "-exec", *words, "--", "{}", "+"))
    else:
        run = Run(argv=(*words, "--", context.word(source), *(() if into else (context.word(target),))))
    if tool == "file.copy" and not pattern:
        _refuse_into_itself(context.absolute(source), context.absolute(target), args)
    steps = (*there(folder, but, context), *makes, run)
    return Draft(steps, _transfer_effects(tool, (*makes, run), context, source, target), whole=True)


def _transfer_picked(tool: str, args: Args, context: Context) -> Draft:
    moves, target = tool == "file.move", str(args["to"])
    told = picking.given(tool, args, context, folders=not picking.by_size(args))
    if moves:
        refuse_whole(tool, args["path"], context, itself=bool(told["pattern"]))
    # One file may go to a name of its own; several can only go into a folder.
    single = args["limit"] == 1 or (told["pattern"] and not is_glob(told["pattern"]))
    into = target.endswith("/") or context.is_folder(context.absolute(target)) or not single
    how = {"move": moves, "target": context.word(target), "named": not into}
    run = inner.run("transfer", {**told, **how, "overwrite": args["overwrite"]}, timeout_s=600)
    effects = _transfer_effects(tool, (run,), context, told["path"], target)
    return Draft((run,), effects, picking.command(tool, args), whole=True)


def _target(args: Args, context: Context) -> str:
    """Where it goes. A folder without some of what is in it goes to where it would go as a whole."""
    source, target = str(args["path"]), str(args["to"])
    if not args.get("except") or is_glob(source):
        return target
    name = PurePosixPath(context.absolute(source)).name
    into = target.endswith("/") or context.is_folder(context.absolute(target))
    return f"{target.rstrip('/')}/{name}/" if into else target


def _first_below(folder: str, target: str, context: Context) -> tuple[str, ...]:
    """find(1)'s words that leave out what the target is in, where that is in the folder itself."""
    here, there = PurePosixPath(context.absolute(folder)), PurePosixPath(context.absolute(target))
    if here not in there.parents:
        return ()
    first = there.relative_to(here).parts[0]
    return ("-not", "-name", escaped(first))


def _refuse_into_itself(here: str, there: str, args: Args) -> None:
    """cp finds it out when it has copied already; mv says so at once."""
    if there.startswith(f"{here.rstrip('/')}/") and Path(here).is_dir():
        raise UsageError(
            f"file.copy: {args['to']} lies in {args['path']}, and a folder cannot be copied into itself",
            "Name a place outside of it.",
        )


def _transfer_effects(
    tool: str, steps: tuple[Run, ...], context: Context, source: str, target: str
) -> Effects:
    here, there = context.absolute(source), context.absolute(target)
    if tool == "file.copy":
        return _effects(steps, reads=(here,), writes=(there,))
    return _effects(steps, writes=(here, there))  # what was there is elsewhere, not gone


def _pattern(tool: str, path: str) -> tuple[str, str]:
    folder, pattern = split_glob(path)
    refuse_glob(folder, tool, path)
    return folder, pattern


def plan_move(args: Args, context: Context) -> Draft:
    return _transfer("file.move", ("mv",), args, context)


def plan_copy(args: Args, context: Context) -> Draft:
    return _transfer("file.copy", ("cp", "-a"), args, context)


def read_transfer(outcome: Outcome, args: Args) -> Outcome:
    """What was moved or copied; a target that was left alone is a failure that says so."""
    if nothing := picking.none(outcome, args):
        return nothing
    if note := none_spared(outcome, args):
        return outcome.model_copy(update={"stderr": note})
    if kept := _KEPT.findall(outcome.stderr):
        note = "".join(
            f"{name} exists already and was left alone (overwrite=true replaces it).\n" for name in kept
        )
        return outcome.model_copy(update={"stderr": note, "exit_code": outcome.exit_code or 1})
    if outcome.stderr:
        return outcome.model_copy(update={"exit_code": outcome.exit_code or 1})
    return _nothing_matched(outcome, args)


def _nothing_matched(outcome: Outcome, args: Args) -> Outcome:
    if outcome.exit_code == 0 and not outcome.stdout:
        note = outcome.stderr or f"Nothing matches {args['path']}.\n"
        return outcome.model_copy(update={"stderr": note, "exit_code": 1})
    return outcome


PAIRS = {
    "files.write": Pair(plan_write, read_write),
    "files.move": Pair(plan_move, read_transfer),
    "files.copy": Pair(plan_copy, read_transfer),
}
