"""The tools that run no program of their own: free shell text, an answer, a question back.

`shell.run` plans to a Shell step as it stands; what it would do is for `guard.commandline` to find out.
"""

from __future__ import annotations

from llmos.errors import UsageError
from llmos.messages import Shell
from llmos.toolbox.context import Args, Context, Draft, Pair


def plan_shell(args: Args, context: Context) -> Draft:
    if not args["command"].strip():
        raise UsageError("shell.run: argument `command`: it is empty", "Say which command to run.")
    return Draft((Shell(text=args["command"], stdin_data=context.has_data),))


def plan_reply(args: Args, context: Context) -> Draft:
    (text,) = args.values()
    return Draft(reply=text, command="(no command)")


PAIRS = {"commands.shell": Pair(plan_shell), "commands.reply": Pair(plan_reply)}
