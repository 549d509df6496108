"""Understood shell text as data that can be run without a shell: absolute programs, words, redirections.

What a shell would do itself (`echo`, `test`, `:`, `type`) is done by the program of the same meaning, so
that every command is one execve(2). Everything here is pure but for looking up where programs lie.

What it does not do: judge. It is given what `commandline` has judged, and writes down exactly that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmos.guard import programs, shelltext
from llmos.guard.characters import Opaque
from llmos.messages import Exec, Pipeline, Redirect

# The shell's own commands that have a program of the same meaning. `type` and `command -v` say where a
# program lies, as which(1) does.
_INSTEAD = {":": "true", "type": "which", "command": "which"}
# What these would say of the shell's own words only a shell knows.
_SHELL_WORDS = re.compile(
    r"if|then|else|elif|fi|case|esac|for|select|while|until|do|done|in|function|time|coproc|alias|bg|bind|break"
    r"|builtin|caller|cd|command|comp\w+|continue|declare|dirs|disown|enable|eval|exec|exit|export|fc|fg|getopts"
    r"|hash|help|history|jobs|let|local|logout|mapfile|popd|pushd|read|readarray|readonly|return|set|shift|shopt"
    r"|source|suspend|times|trap|type|typeset|ulimit|umask|unalias|unset|wait|\W+"
)


def without_shell(argv: Sequence[str]) -> list[str]:
    """The argv of a program that does what the shell's own command would. Raises Opaque."""
    name, *words = argv
    instead = _INSTEAD.get(name)
    if instead is None:
        return list(argv)
    if instead != "which":
        return [instead, *words]
    if name == "command" and words and not words[0].startswith("-"):
        return list(argv)  # followed as a wrapper
    if name == "command" and (not words or words[0] not in ("-v", "-V")):
        raise Opaque("it runs a command by way of the shell's `command`")
    names = words[1:] if name == "command" else [word for word in words if word not in ("-a", "-p", "-P")]
    if not names or any(_SHELL_WORDS.fullmatch(word) or word.startswith("-") for word in names):
        raise Opaque(f"`{name}` asks about the shell itself")
    return ["which", *(["-a"] if "-a" in words else []), *names]


def executed(command: shelltext.Command, cwd: str) -> Exec:
    """One judged command as it is executed from `cwd`."""
    return Exec(
        argv=command.argv,
        program=programs.locate(command.argv[0], cwd),
        redirects=tuple(map(_redirect, command.redirects)),
        env=command.variables,
    )


def _redirect(found: shelltext.Redirect) -> Redirect:
    return Redirect.model_validate({"fd": found.fd, "op": found.op, "target": found.target.text})


def piped(joiner: str, commands: Sequence[Exec], cd: str | None = None) -> Pipeline:
    return Pipeline.model_validate({"joiner": joiner, "commands": tuple(commands), "cd": cd})
