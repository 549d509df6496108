"""What a shell command would do, as far as that can be known before it runs.

`analyse` parses (shelltext), expands globs, applies the programs' grammars (programs) and writes the
understood command anew. What is not understood is *opaque*: it is asked about, and what it plainly
names (a device, a secret) is noted all the same, so that a denial holds for it too.

Not protected against: a file that changes between this reading and the run. The sandbox judges again.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from llmos.guard import places, programs, shelltext
from llmos.guard.programs import Found
from llmos.guard.shelltext import Command, Opaque, Pipeline, Redirect, Word
from llmos.messages import Effects

MAX_MATCHES = 500  # of one glob
# Whose output are names of files below what they were given to look at.
_LISTERS = frozenset({"find", "ls", "rg", "grep", "git"})
_FILTERS = frozenset({"sort", "uniq", "head", "tail", "grep", "tac", "rev", "cut"})
_MENTION = re.compile(r"(?:~|/)[^\s'\"`;&|<>(){}$*?,=]*")
_STDOUT_OR_NULL = "/dev/null"


@dataclass(frozen=True, slots=True)
class Analysis:
    """`opaque` says why the command is not understood; empty when it is. `normalised` is what is run."""

    pipelines: tuple[Pipeline, ...]
    opaque: str
    effects: Effects
    read_only: bool
    normalised: str


def analyse(text: str, *, cwd: str, home: str) -> Analysis:
    """Analyse shell text as run in `cwd` for the owner of `home`. Looks at names only; never raises."""
    found = Found(cwd, home)
    try:
        pipelines = shelltext.parse(text, cwd=cwd, home=home)
        judged, reason = _judge_all(pipelines, found)
    except Opaque as why:
        return _opaque(text, (), str(why), found, home)
    if reason:
        return _opaque(text, pipelines, reason, found, home)
    effects = found.effects()
    changes = effects.writes or effects.deletes or effects.network
    return Analysis(judged, "", effects, not changes, shelltext.render(judged))


def _opaque(text: str, pipelines: tuple[Pipeline, ...], why: str, found: Found, home: str) -> Analysis:
    for path in _mentions(text, found, home):
        if places.is_device(path):
            found.writes.append(path)
        elif places.is_protected(path, home):
            found.reads.append(path)
    effects = found.effects().model_copy(update={"opaque": why})
    return Analysis(pipelines, why, effects, False, text)


def _mentions(text: str, found: Found, home: str) -> Iterator[str]:
    """Paths the text names, read as loosely as possible: quotes and backslashes are ignored."""
    plain = re.sub(r"[\\'\"]", "", text.replace("${HOME}", home).replace("$HOME", home))
    for match in islice(_MENTION.finditer(plain), 200):
        word = match[0]
        yield found.path(home + word[1:] if word.startswith("~") else word)


def _judge_all(pipelines: tuple[Pipeline, ...], found: Found) -> tuple[tuple[Pipeline, ...], str]:
    """Each command judged, even after one is opaque: a denial further on must be seen. First reason wins."""
    judged: list[Pipeline] = []
    reason = ""
    for number, pipeline in enumerate(pipelines):
        follows = pipelines[number + 1].joiner if number + 1 < len(pipelines) else ""
        try:
            if pipeline.commands[0].argv[0] == "cd":
                judged.append(_change_folder(pipeline, follows, found))
                continue
            _check_xargs(pipeline)
        except Opaque as why:
            reason = reason or str(why)
        commands: list[Command] = []
        for command in pipeline.commands:
            fresh, why_not = _judge_command(command, found)
            reason = reason or why_not
            commands.append(fresh)
        judged.append(replace(pipeline, commands=tuple(commands)))
    return tuple(judged), reason


def _judge_command(command: Command, found: Found) -> tuple[Command, str]:
    reason = ""
    try:
        expanded = replace(command, words=_expand(command.words, found))
    except Opaque as why:
        expanded, reason = command, str(why)
    try:
        argv = programs.judge(expanded.argv, found)
    except Opaque as why:
        argv, reason = list(expanded.argv), reason or str(why)
    for redirect in command.redirects:
        _redirect(redirect, found)
    return replace(expanded, words=tuple(Word(word) for word in argv)), reason


def _change_folder(pipeline: Pipeline, follows: str, found: Found) -> Pipeline:
    """`cd FOLDER && …`: what follows is judged from there, provided that it cannot run elsewhere."""
    command = pipeline.commands[0]
    if len(pipeline.commands) > 1 or command.redirects or len(command.words) != 2:
        raise Opaque("it changes the folder in a way that is not followed")
    if (
        follows == "||"
        or pipeline.joiner == "||"
        or command.words[1].pattern
        or command.argv[1].startswith("-")
    ):
        raise Opaque("it changes the folder in a way that is not followed")
    target = places.real(found.path(command.argv[1]))
    if follows != "&&" and not Path(target).is_dir():
        raise Opaque("it changes to a folder that is not there, and goes on")
    found.reads.append(target)
    found.cwd = target
    return pipeline


def _check_xargs(pipeline: Pipeline) -> None:
    """xargs is understood where names come from a lister, through filters that only choose among them."""
    names = [command.argv[0] for command in pipeline.commands]
    if "xargs" not in names:
        return
    before = names[: names.index("xargs")]
    if not before or before[0] not in _LISTERS or not set(before[1:]) <= _FILTERS:
        raise Opaque("xargs takes file names from what another command prints")
    first = pipeline.commands[0].argv
    names_only = {"grep": {"-l", "-rl", "-lr", "-ril", "-rli"}, "rg": {"-l", "--files"}, "git": {"ls-files"}}
    if before[0] in names_only and not names_only[before[0]] & set(first[1:]):
        raise Opaque("xargs takes file names from what another command prints")


def _redirect(redirect: Redirect, found: Found) -> None:
    target = redirect.target.text
    if redirect.op == ">&" or (redirect.op != "<" and target == _STDOUT_OR_NULL):
        return
    found.add("read" if redirect.op == "<" else "write", target)


def _expand(words: tuple[Word, ...], found: Found) -> tuple[Word, ...]:
    """Globs become the names they match now, so that exactly what was judged is run and shown.

    A match never becomes an option: a pattern that starts with a wildcard gives `./NAME` where the name
    starts with a dash. Without a match the pattern stays as it is, quoted, as shells do.
    """
    if words[0].pattern is not None:
        raise Opaque("it starts whatever program a pattern matches")
    return tuple(fresh for word in words for fresh in _expand_word(word, found))


def _expand_word(word: Word, found: Found) -> list[Word]:
    if word.pattern is None:
        return [word]
    absolute = word.pattern.startswith("/")
    matches = glob.iglob(word.pattern, root_dir=None if absolute else found.cwd)  # noqa: PTH207 - root_dir
    names = list(islice(matches, MAX_MATCHES + 1))
    if len(names) > MAX_MATCHES:
        raise Opaque(f"the pattern {word.text} matches more than {MAX_MATCHES} names")
    for name in names:
        if not name.isprintable():
            raise Opaque(f"the pattern {word.text} matches a name with characters that cannot be seen")
        shelltext.check_characters(name)
    return [Word(f"./{name}" if name.startswith("-") else name) for name in sorted(names)] or [
        Word(word.text)
    ]
