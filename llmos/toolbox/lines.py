"""The end of a file and what is added to it, and how two files differ."""

from __future__ import annotations

from llmos.messages import Effects, Outcome, Run
from llmos.toolbox.context import Args, Context, Draft, Pair, programs
from llmos.toolbox.listing import read_text, split_glob
from llmos.toolbox.values import human_duration

_MAX_LINES = 2000  # of a difference
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


PAIRS = {"lines.tail": Pair(plan_tail, read_tail), "lines.compare": Pair(plan_compare, read_compare)}
