"""The end of a file and what is added to it, how two files differ, and lines that are chosen and sorted."""

from __future__ import annotations

import shlex

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run
from llmos.toolbox import inner
from llmos.toolbox.context import Args, Context, Draft, Pair, programs
from llmos.toolbox.files import folders, parent
from llmos.toolbox.listing import read_text, split_glob
from llmos.toolbox.values import human_duration

_MAX_LINES = 2000  # of a difference
_TIMEOUT_S = 300
_UNSAID = {"occurs": "any", "case": "keep", "sort": "none"}
_STOPPED = 124  # timeout(1): it was still running

# --- tail --------------------------------------------------------------------------------------


def plan_tail(args: Args, context: Context) -> Draft:
    """Following ends by itself after a while; a person ends it sooner with Ctrl-C."""
    folder, pattern = split_glob(args["path"])
    words: tuple[str, ...] = ("tail", "-n", str(args["lines"]))
    if pattern:
        only = ("-mindepth", "1", "-maxdepth", "1", "-type", "f", "-name", pattern)
        words = ("find", "-H", context.word(folder), *only, "-exec", *words, "-v", "--", "{}", "+")
    elif args["follow"]:
        words = ("timeout", f"{args['duration']:g}", *words, "-F", "--", context.word(args["path"]))
    else:
        words = (*words, "--", context.word(args["path"]))
    started = programs(words, words[2:]) if args["follow"] and not pattern else programs(words)
    effects = Effects(reads=(context.absolute(args["path"]),), programs=started)
    if not args["follow"]:
        return Draft((Run(argv=words),), effects)
    return Draft((Run(argv=words, timeout_s=args["duration"] + 10, ok_codes=(0, _STOPPED)),), effects)


def read_tail(outcome: Outcome, args: Args) -> Outcome:
    if not args["follow"]:
        return read_text(outcome, args)
    if outcome.exit_code != _STOPPED:
        return outcome
    note = f"… watched for {human_duration(args['duration'])}.\n"
    return outcome.model_copy(update={"stdout": outcome.stdout + note, "exit_code": 0})


# --- compare -----------------------------------------------------------------------------------


def plan_compare(args: Args, context: Context) -> Draft:
    space = ("-w",) if args["ignore_space"] else ()
    argv = ("diff", "-ur", *space, "--", context.word(args["a"]), context.word(args["b"]))
    effects = Effects(
        reads=(context.absolute(args["a"]), context.absolute(args["b"])), programs=programs(argv)
    )
    return Draft((Run(argv=argv, ok_codes=(0, 1)),), effects)


def read_compare(outcome: Outcome, args: Args) -> Outcome:
    """Nothing said by diff is good news; a difference is an answer, not a failure."""
    if outcome.exit_code not in (0, 1):
        return outcome
    lines = outcome.stdout.splitlines(keepends=True)
    if not lines:
        space = " but for blanks" if args["ignore_space"] else ""
        return outcome.model_copy(update={"stdout": f"{args['a']} and {args['b']} are the same{space}.\n"})
    more = f"… and {len(lines) - _MAX_LINES:,} more lines.\n" if len(lines) > _MAX_LINES else ""
    return outcome.model_copy(update={"stdout": "".join(lines[:_MAX_LINES]) + more, "exit_code": 0})


# --- lines -------------------------------------------------------------------------------------


def plan_lines(args: Args, context: Context) -> Draft:
    path, target = args["path"], args["to"]
    piped = path is None or path == "-"
    if piped and not context.has_data:
        raise UsageError("text.lines: argument `path`: it is missing, and no data was piped in", "Give it.")
    if args["in_place"] and (target or piped or args["count"]):
        raise UsageError(
            "text.lines: `in_place` writes the lines back to the file they come from",
            "Name the file." if piped else "Leave out `to` and `count`, or `in_place`.",
        )
    others = [name for name in (args["also_in"], args["not_in"]) if name]
    words = {name: context.word(args[name]) for name in ("also_in", "not_in", "to") if args[name]}
    given = {
        **args,
        **words,
        "path": "-" if piped else context.word(path),
        "name": path or "-",
        "to_name": target,
    }
    run = inner.run("lines", given, stdin_data=piped, timeout_s=_TIMEOUT_S)
    reads = tuple(context.absolute(name) for name in ([] if piped else [path]) + others)
    written = path if args["in_place"] else target
    writes = (context.absolute(written),) if written else ()
    before = folders(parent(target), context) if target else ()
    used = programs(*(step.argv for step in (*before, run)))
    effects = Effects(reads=reads, writes=writes, programs=used)
    return Draft((*before, run), effects, _command(args), whole=True, read_only=not written)


def _command(args: Args) -> str:
    """What a person is shown: what was said, to the letter, and nothing that goes without saying."""
    said = {key: value for key, value in args.items() if value != _UNSAID.get(key)}
    kept = (f"{key}={value}" for key, value in said.items() if value is not False or key == "ignore_case")
    return shlex.join(["text.lines", *kept])


PAIRS = {
    "lines.tail": Pair(plan_tail, read_tail),
    "lines.compare": Pair(plan_compare, read_compare),
    "lines.lines": Pair(plan_lines),
}
