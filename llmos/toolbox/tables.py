"""Tables in files: some columns, questions to a CSV or JSON file, and what answers them as a new file;
programs of our own read them."""

from __future__ import annotations

import json
from typing import Any

from llmos.errors import UsageError
from llmos.messages import Effects, Outcome, Run
from llmos.toolbox import inner
from llmos.toolbox.context import Args, Context, Draft, Pair, programs
from llmos.toolbox.files import folders, parent
from llmos.toolbox.listing import need
from llmos.toolbox.values import shown, table

_TIMEOUT_S = 300


def _draft(tool: str, name: str, args: Args, context: Context, **more: str | None) -> Draft:
    path = args["path"]
    piped = context.has_data and path == "-"
    if not piped:
        need(path, tool, "path")
    given: dict[str, Any] = {
        "separator": None,
        **args,
        **more,
        "name": path,
        "path": "-" if piped else context.word(path),
    }
    run: Run = inner.run(name, given, stdin_data=piped, timeout_s=_TIMEOUT_S)
    reads = () if piped else (context.absolute(path),)
    return Draft((run,), Effects(reads=reads, programs=programs(run.argv)), inner.command(tool, args))


def plan_columns(args: Args, context: Context) -> Draft:
    return _draft("text.columns", "columns", args, context)


def plan_query(args: Args, context: Context) -> Draft:
    return _draft("text.query", "query", args, context)


def plan_export(args: Args, context: Context) -> Draft:
    target = need(args["to"], "text.export", "to")
    more = {"to": context.word(target), "to_name": target, "separator": None, "between": args["separator"]}
    asked = _draft("text.export", "export", args, context, **more)
    effects = asked.effects.model_copy(update={"writes": (context.absolute(target),)})
    return Draft((*folders(parent(target), context), *asked.steps), effects, asked.command, whole=True)


def plan_update(args: Args, context: Context) -> Draft:
    path, target = args["path"], args["to"]
    if path == "-":
        raise UsageError("text.update: it changes a file, and not piped data", "Name the file.")
    more = {"to": context.word(target) if target else None, "to_name": target}
    asked = _draft("text.update", "update", args, context, **more)
    effects = asked.effects.model_copy(update={"writes": (context.absolute(target or path),)})
    before = folders(parent(target), context) if target else ()
    return Draft((*before, *asked.steps), effects, asked.command, whole=True)


def read_rows(outcome: Outcome, args: Args) -> Outcome:
    """One column as its values alone, one row as names and values, more as a table with its header."""
    lines = [_loaded(line) for line in outcome.stdout.splitlines()]
    rows = [[shown(cell) for cell in line] for line in lines if isinstance(line, list)]
    end = next((line for line in lines if isinstance(line, dict)), None)
    if outcome.exit_code or not rows:
        return outcome.model_copy(update={"stdout": ""})
    header, body = rows[0], rows[1:]
    if not body:
        text = "No row fits.\n"
    elif len(header) == 1:
        text = "".join(f"{row[0]}\n" for row in body)
    elif len(body) == 1 and any(header):
        text = table(list(zip(header, body[0], strict=True)))
    else:
        text = table([header, *body] if any(header) else body)
    more = end["rows"] - end["shown"] if end else 0
    return outcome.model_copy(update={"stdout": text + (f"… and {more:,} more rows.\n" if more else "")})


def _loaded(line: str) -> Any:
    """The output may have been cut short in the middle of a line."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


PAIRS = {
    "tables.columns": Pair(plan_columns, read_rows),
    "tables.query": Pair(plan_query, read_rows),
    "tables.export": Pair(plan_export),
    "tables.update": Pair(plan_update),
}
