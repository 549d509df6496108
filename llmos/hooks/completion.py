"""Completion for bash, zsh and fish, from the command line's own argument tables. Pure: tables in, text out.

Names that only the daemon knows (tools, ids) are asked of `llmos complete KIND` when they are needed.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# What a value is, by the name it has in `--help`.
_KINDS = {
    "PATH": "files", "FILE": "files", "LOCK": "files", "DIR": "folders", "FILE|SET": "files",
    "TOOL": "tools", "NAME": "tools", "MODEL": "models",
}  # fmt: skip
_IDS = {"inbox": "inbox", "watch": "watch", "schedule": "schedule", "undo": "undo", "audit": "requests"}


@dataclass(frozen=True)
class Argument:
    """One option with its names, or one positional (no names)."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    kind: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    name: str
    summary: str
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(name for argument in self.arguments for name in argument.names)

    @property
    def words(self) -> tuple[str, ...]:
        """What the first positional may be, where that is a fixed set."""
        return next((found.choices for found in self.arguments if not found.names), ())


def command(name: str, summary: str, parser: argparse.ArgumentParser) -> Command:
    """A verb's parser as plain data."""
    return Command(name, summary, tuple(_argument(action) for action in parser._actions))


def _argument(action: argparse.Action) -> Argument:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    words = _words_of(metavar, action.help or "") if not action.option_strings else ()
    choices = tuple(map(str, action.choices)) if action.choices else words
    return Argument(
        tuple(action.option_strings),
        " ".join((action.help or "").split()),
        action.nargs != 0,
        _KINDS.get(metavar, ""),
        choices,
    )


def _words_of(metavar: str, help_text: str) -> tuple[str, ...]:
    """`list|pull|use`, or the actions that a help text lists after `or:`."""
    if "|" in metavar and metavar == metavar.lower():
        return tuple(metavar.split("|"))
    listed = help_text.partition("or: ")[2] or (help_text if metavar == "ACTION ID" else "")
    return tuple(part.split()[0] for part in listed.replace(";", ",").split(",") if part.split())


# --- bash ------------------------------------------------------------------------------------------


def bash(commands: Iterable[Command], shared: Command) -> str:
    found = list(commands)
    names = " ".join(verb.name for verb in found)
    cases = "".join(_bash_case(verb) for verb in (*found, shared))
    valued = _valued((*found, shared))
    return f"""\
_llmos() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb='' at i
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${{COMP_WORDS[i]}} == -* ]] || {{ verb=${{COMP_WORDS[i]}} at=$i; break; }}
    done
    local options='' words='' kind=''
    case $verb in
{cases}    esac
    case $prev in
{valued}    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [[ -z $verb ]]; then
        COMPREPLY=($(compgen -W {shlex.quote(names)} -- "$cur"))
    elif [[ -n $words && $((COMP_CWORD - at)) -eq 1 ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    elif [[ -n $kind ]]; then
        COMPREPLY=($(compgen -W "$(__llmos complete "$kind" 2>/dev/null)" -- "$cur"))
    fi
    [[ -n $kind || ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$cur"))
}}
complete -o filenames -F _llmos llmos
"""


def _bash_case(verb: Command) -> str:
    words, kind = " ".join(verb.words), _kind(verb)
    body = f"options={shlex.quote(' '.join(verb.options))}"
    body += f" words={shlex.quote(words)}" if words else ""
    body += f" kind={kind}" if kind else ""
    return f"    {verb.name or chr(39) * 2}) {body} ;;\n"


def _kind(verb: Command) -> str:
    """Where the words come from that only the daemon knows."""
    if verb.name in _IDS:
        return _IDS[verb.name]
    return next((found.kind for found in verb.arguments if not found.names and found.kind == "tools"), "")


def _valued(commands: Iterable[Command]) -> str:
    """What follows an option that takes a value."""
    found: dict[str, Argument] = {}
    for verb in commands:
        for argument in verb.arguments:
            if argument.names and argument.takes_value:
                found.update(dict.fromkeys(argument.names, argument))
    text = ""
    for name, argument in sorted(found.items()):
        if argument.choices:
            reply = f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(argument.choices))} -- "$cur")); return'
        elif argument.kind in ("files", "folders"):
            flag = "-f" if argument.kind == "files" else "-d"
            reply = f'COMPREPLY=($(compgen {flag} -- "$cur")); return'
        else:
            reply = "COMPREPLY=(); return"
        text += f"    {name}) {reply} ;;\n"
    return text


# --- zsh -------------------------------------------------------------------------------------------


def zsh(commands: Iterable[Command], shared: Command) -> str:
    found = list(commands)
    verbs = "\n".join(f"        {_q(f'{verb.name}:{verb.summary}')}" for verb in found)
    cases = "\n".join(f"        {verb.name}) _arguments -s {_specs(verb)} ;;" for verb in found)
    return f"""\
_llmos() {{
    local -a verbs
    verbs=(
{verbs}
    )
    local context state line
    _arguments -C -s {_specs(shared, whole=False)} '1: :->verb' '*:: :->rest'
    case $state in
    verb) _describe -t verbs 'verb' verbs || _files ;;
    rest)
        case ${{words[1]}} in
{cases}
        *) _files ;;
        esac ;;
    esac
}}
_llmos_ask() {{
    local -a found
    found=(${{(f)"$(__llmos complete $1 2>/dev/null)"}})
    compadd -a found
}}
(( $+functions[compdef] )) && compdef _llmos llmos
"""


def _specs(verb: Command, *, whole: bool = True) -> str:
    specs = [spec for argument in verb.arguments for spec in _zsh_option(argument)]
    if whole:
        words, kind = verb.words, _kind(verb)
        if words:
            specs.append(f"1:word:({' '.join(words)})")
        rest = f"{{_llmos_ask {kind}}}" if kind else "_files"
        specs.append(f"*:word:{rest}")
    return " ".join(map(_q, specs))


def _zsh_option(argument: Argument) -> list[str]:
    about = argument.help.replace("[", "(").replace("]", ")").replace(":", " -")
    value = ""
    if argument.takes_value:
        value = (
            f":value:({' '.join(argument.choices)})"
            if argument.choices
            else _ZSH_VALUES.get(argument.kind, ":value: ")
        )
    return [f"{name}[{about}]{value}" for name in argument.names]


_ZSH_VALUES: Mapping[str, str] = {"files": ":file:_files", "folders": ":folder:_files -/"}


def _q(text: str) -> str:
    return shlex.quote(text)


# --- fish ------------------------------------------------------------------------------------------


def fish(commands: Iterable[Command], shared: Command) -> str:
    """One `complete` line for a verb, one for each of its options, one for its first words."""
    found = list(commands)
    lines = ["complete -c llmos -e"]
    for verb in found:
        summary = _fish(verb.summary)
        lines.append(f"complete -c llmos -n __fish_use_subcommand -a {verb.name} -d {summary}")
        seen = f"-n '__fish_seen_subcommand_from {verb.name}'"
        lines += [f"complete -c llmos {seen} {line}" for line in _fish_of(verb)]
    lines += [f"complete -c llmos -n __fish_use_subcommand {line}" for line in _fish_of(shared)]
    return "\n".join(lines) + "\n"


def _fish_of(verb: Command) -> Iterable[str]:
    for argument in verb.arguments:
        names = " ".join(
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in argument.names
        )
        choices = f" -xa {_fish(' '.join(argument.choices))}" if argument.choices else ""
        if names:
            yield f"{names}{' -r' if argument.takes_value else ''}{choices} -d {_fish(argument.help)}"
    if verb.words:
        yield f"-a {_fish(' '.join(verb.words))}"
    if kind := _kind(verb):
        yield f"-xa '(llmos complete {kind} 2>/dev/null)'"


def _fish(text: str) -> str:
    """In fish's single quotes only `\\` and `'` mean something."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
