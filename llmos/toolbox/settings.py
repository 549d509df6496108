"""One setting of a configuration file; a program of our own writes it."""

from __future__ import annotations

from typing import Any

from llmos.errors import UsageError
from llmos.messages import Effects, Run
from llmos.toolbox import inner
from llmos.toolbox.context import Args, Context, Draft, Pair, is_glob, programs


def plan_set(args: Args, context: Context) -> Draft:
    if is_glob(args["path"]):
        raise UsageError("text.set: argument `path`: it is a pattern", "Name one file.")
    if not args["key"].strip():
        raise UsageError("text.set: argument `key`: it is empty", "Say which setting, such as port.")
    given: dict[str, Any] = {**args, "name": args["path"], "path": context.word(args["path"])}
    run: Run = inner.run("settings", given)
    effects = Effects(writes=(context.absolute(args["path"]),), programs=programs(run.argv))
    return Draft((run,), effects, inner.command("text.set", args))


PAIRS = {"settings.set": Pair(plan_set)}
