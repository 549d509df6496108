"""Text: search (grep), count (wc, grep), replace (sed), in files or in the request's piped data.

A pattern is plain text unless `regex` says otherwise. Replacing changes only files that have a match, and
sed runs with --sandbox, so no expression can make it run a command or open another file.
"""

from __future__ import annotations

import re
import shlex

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Pipelines, Run
from llmos.toolbox.context import Args, Context, Draft, Pair, pipeline, programs
from llmos.toolbox.listing import FAILED, empty, left_out, need, split_glob
from llmos.toolbox.trash import found_below, none_spared
from llmos.toolbox.values import shown, table

_REPLACE_S = 600
_MOST_NAMED = 500  # changed files that are told by name
_NONE = 123  # what xargs makes of a grep that finds nothing


def _from_data(args: Args, context: Context) -> bool:
    return context.has_data and args["path"] in (None, "-")


def _grep(args: Args, *flags: str) -> list[str]:
    case = ["-i"] if _any_case(args) else []
    return ["grep", *flags, "-E" if args["regex"] else "-F", *case, "-e", args["pattern"]]


def _any_case(args: Args) -> bool:
    """As ripgrep's --smart-case, of plain text: who writes no capitals means them, too."""
    if args["ignore_case"] is not None or not args["pattern"]:
        return bool(args["ignore_case"])
    return not args["regex"] and args["pattern"] == args["pattern"].lower()


def _draft(run: Run | Pipelines, args: Args, context: Context, *argvs: list[str]) -> Draft:
    reads = () if _from_data(args, context) else (context.absolute(split_glob(args["path"] or ".")[0]),)
    return Draft((run,), Effects(reads=reads, programs=programs(*argvs)))


# --- search ------------------------------------------------------------------------------------

# One of grep's lines; a name may hold newlines itself, so it ends at its NUL.
_MATCH = re.compile(r"(?:([^\0]*)\0)?(\d+)[:-]([^\n]*)(?:\n|\Z)")


def plan_search(args: Args, context: Context) -> Draft:
    if _from_data(args, context):
        argv = _grep(args, "-n", *_around(args))
        return _draft(Run(argv=tuple(argv), stdin_data=True, ok_codes=(0, 1)), args, context, argv)
    path, pattern = split_glob(args["path"] or ".")
    argv = _grep(args, "-rnHIZ", *_around(args))
    argv += [f"--include={name}" for name in (pattern, args["name"]) if name]
    argv += ["--", context.word(path)]
    return _draft(Run(argv=tuple(argv), ok_codes=(0, 1)), args, context, argv)


def _around(args: Args) -> list[str]:
    more = [f"-C{args['context']}", "--no-group-separator"] if args["context"] else []
    return [*more, *(["-v"] if args["invert"] else [])]


def read_search(outcome: Outcome, args: Args) -> Outcome:
    """`file:line: text`, at most `limit` matches; grep's 1 is an answer, not a failure."""
    found = list(_MATCH.finditer(outcome.stdout))
    if not found:
        return empty(outcome, "No match.\n")
    limit = args["limit"]
    more = f"… {len(found) - limit} more matches.\n" if len(found) > limit else ""
    text = "".join(f"{_match(match)}\n" for match in found[:limit])
    return outcome.model_copy(update={"stdout": text + more, "exit_code": 0})


def _match(match: re.Match[str]) -> str:
    name, number, text = match.groups()
    where = number if name is None else f"{shown(name.removeprefix('./'))}:{number}"
    return f"{where}: {text.strip()[:500]}"


# --- count -------------------------------------------------------------------------------------

_WC = {"lines": "-l", "words": "-w", "characters": "-m", "bytes": "-c"}


def plan_count(args: Args, context: Context) -> Draft:
    if args["top"] is not None:
        return _frequent(args, context)
    matches = args["what"] == "matches"
    if matches and args["pattern"] is None:
        raise UsageError("text.count: argument `pattern`: it is missing", "Say which matches to count.")
    if args["pattern"] is None:
        counter = ["wc", _WC[args["what"]]]
    else:
        counter = _grep(args, "-oh" if matches else "-c")
    argvs = [counter + _operands(args, context, counter[0])]
    if not _from_data(args, context):
        path, pattern = split_glob(need(args["path"], "text.count", "path"))
        if pattern or context.is_folder(context.absolute(path)):
            argvs = _each(path, pattern, counter, context)
    argvs += [["wc", "-l"]] if matches else []
    run = pipeline(argvs, stdin_data=_from_data(args, context), ok_codes=(0, 1, _NONE))
    return _draft(run, args, context, *argvs)


def _frequent(args: Args, context: Context) -> Draft:
    """The most frequent lines, words or matches: sort(1) spills to disk, so the file may be large."""
    argvs = _source(args, context)
    if args["field"] is not None:
        argvs.append(["awk", f"NF >= {args['field']} {{ print ${args['field']} }}"])
    elif args["what"] == "words":
        argvs.append(["grep", "-oE", r"\w+"])
    fold = ["-f"] if _any_case(args) else []
    alike = ["uniq", "-ci" if _any_case(args) else "-c"]
    argvs += [["sort", *fold], alike, ["sort", "-k1,1nr", "-s"], ["head", "-n", str(args["top"])]]
    run = pipeline(argvs, stdin_data=_from_data(args, context), timeout_s=300)
    return _draft(run, args, context, *argvs)


def _source(args: Args, context: Context) -> list[list[str]]:
    """What prints the lines, or the matches, that are counted."""
    argv = ["cat"]
    if args["pattern"] is not None:
        argv = _grep(args, "-oh" if args["what"] == "matches" else "-h")
    if _from_data(args, context):
        return [argv]
    path, pattern = split_glob(need(args["path"], "text.count", "path"))
    if pattern or context.is_folder(context.absolute(path)):
        return _each(path, pattern, argv, context)
    return [[*argv, "--", context.word(path)]]


def _operands(args: Args, context: Context, counter: str) -> list[str]:
    if _from_data(args, context):
        return []
    return ["--", context.word(need(args["path"], "text.count", "path"))]


def _each(folder: str, pattern: str, counter: list[str], context: Context) -> list[list[str]]:
    """`counter` with the files that match; with all files below the folder where there is no pattern.

    By xargs and not by find's -exec, which takes a `;` or `{}` that is looked for as its own.
    """
    names = ["find", context.word(folder), "-mindepth", "1"]
    if pattern:
        names += [*context.depth(folder, pattern), "-type", "f", "-name", pattern]
    else:
        names += ["-type", "f", "-not", "-path", "*/.git/*"]
    named = ["-H"] if counter[:2] == ["grep", "-c"] else []
    return [[*names, "-print0"], ["xargs", "-0", "-r", *counter, *named, "--"]]


def read_count(outcome: Outcome, args: Args) -> Outcome:
    """The number; for several files each with its name. A complaint without a count is a failure."""
    if args["top"] is not None:
        return _ranked(outcome)
    if outcome.stderr and not re.search(r"(?m)^ *[1-9]|:[1-9]\d*$", outcome.stdout):
        return outcome.model_copy(update={"stdout": "", "exit_code": max(outcome.exit_code or 0, FAILED)})
    if not outcome.stdout.strip():
        return empty(outcome, f"Nothing matches {args['path']}.\n")
    lines = [line.strip() for line in outcome.stdout.splitlines()]
    return outcome.model_copy(update={"stdout": "\n".join(lines) + "\n", "exit_code": 0})


def _ranked(outcome: Outcome) -> Outcome:
    if not outcome.stdout:
        return empty(outcome, "Nothing to count.\n")
    rows = [line.strip().partition(" ") for line in outcome.stdout.rstrip("\n").split("\n")]
    text = table([(count, shown(what)) for count, _, what in rows], frozenset({0}))
    return outcome.model_copy(update={"stdout": text})


# --- replace -----------------------------------------------------------------------------------


def plan_replace(args: Args, context: Context) -> Draft:
    if not args["find"] or "\n" in args["find"]:
        raise UsageError("text.replace: argument `find`: expected text within one line", "Give some text.")
    path, pattern = split_glob(args["path"])
    sed = ["sed", "--sandbox", "-i", *(["-E"] if args["regex"] else []), "-e", expression(args)]
    names = [x for name in (pattern, args["name"]) if name for x in ("-name", name)]
    names += [word for test in left_out(args, context.word(path)) for word in ("-not", *test)]
    depth = context.depth(path, pattern) if pattern else ()
    argv = ["find", "-H", context.word(path), *depth, "-type", "f", *names]
    argv += ["-not", "-path", "*/.git/*", "-print0"]
    those = ("xargs", "-0", "-r", "grep", "-lIZ", "-E" if args["regex"] else "-F", "-e", args["find"], "--")
    # First their names, which are what a person is told; then all of them at once, not one by one.
    named = pipeline((argv, those), ok_codes=(0, _NONE), timeout_s=_REPLACE_S)
    changing = (argv, those, ("xargs", "-0", "-r", *sed, "--"))
    effects = Effects(writes=(context.absolute(path),), programs=programs(*changing))
    look = ("find", "-H", context.word(path), "-mindepth", "1", *depth)
    asked = found_below(look, left_out(args, context.word(path)), args.get("except") or ())
    steps = (*asked, named, pipeline(changing, timeout_s=_REPLACE_S))
    return Draft(steps, effects, command=" | ".join(map(shlex.join, changing)), whole=True)


def expression(args: Args) -> str:
    """sed's `s/FIND/REPLACE/g` with the text taken literally, or FIND as an extended regular expression."""
    if args["regex"]:
        found, replaced = _delimited(args["find"]), _delimited(args["replace"])
    else:
        found = re.sub(r"[][\\/.*^$]", r"\\\g<0>", args["find"])
        replaced = re.sub(r"[\\/&]", r"\\\g<0>", args["replace"])
    newline = "\\\n"
    return f"s/{found}/{replaced.replace(chr(10), newline)}/g"


def _delimited(text: str) -> str:
    """The same expression with every `/` escaped; raises UsageError for one that cannot end."""
    if len(text) - len(text.rstrip("\\")) & 1:
        raise UsageError(f"text.replace: {text!r} ends in a lone backslash", "Write two for one backslash.")
    return re.sub(r"(\\.)|/", lambda match: match[1] or r"\/", text, flags=re.DOTALL)


def read_replace(outcome: Outcome, args: Args) -> Outcome:
    if note := none_spared(outcome, args):
        return outcome.model_copy(update={"stderr": note})
    changed = [shown(name.removeprefix("./")) for name in outcome.stdout.split("\0") if name]
    if not changed:
        return empty(outcome, f"Nothing to replace: no file has {args['find']!r}.\n")
    if outcome.stderr or outcome.exit_code:  # some could not be read or written, and so none is changed
        return outcome.model_copy(update={"stdout": "", "exit_code": outcome.exit_code or 1})
    text = "".join(f"changed {name}\n" for name in changed[:_MOST_NAMED])
    if len(changed) > _MOST_NAMED:
        text += f"… and {len(changed) - _MOST_NAMED:,} more\n"
    return outcome.model_copy(update={"stdout": text})


PAIRS = {
    "text.search": Pair(plan_search, read_search),
    "text.count": Pair(plan_count, read_count),
    "text.replace": Pair(plan_replace, read_replace),
}
