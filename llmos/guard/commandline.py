"""What a shell command would do, as far as that can be known before it runs.

`analyse` parses (shelltext), expands globs, applies the programs' grammars (programs) and writes the
understood command anew. What is not understood is *opaque*: it is asked about, and what it plainly
names (a device, a secret) is noted all the same, so that a denial holds for it too.

Not protected against: a file that changes between this reading and the run. The sandbox judges again.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from llmos.guard import characters, checks, enginelines, places, programs, shelltext, wiring
from llmos.guard.characters import Opaque
from llmos.guard.found import Found
from llmos.guard.shelltext import Command, Pipeline, Redirect
from llmos.guard.words import Word
from llmos.messages import Effects, Exec
from llmos.messages import Pipeline as Wired

MAX_MATCHES = 500  # of one glob
MAX_SIGNS = 32  # `*`, `?` and `[` in one glob
_UNSEEN_NAMES = "xargs takes file names from what another command prints"
_MENTION = re.compile(r"(?:~|/)[^\s'\"`;&|<>(){}$*?,=]*")
_GLOB_SIGN = re.compile(r"[*?[]")
_STDOUT_OR_NULL = "/dev/null"


@dataclass(frozen=True, slots=True)
class Analysis:
    """`opaque` says why the command is not understood; empty when it is, and then `pipelines` is what is run.

    `normalised` is the text that is shown for it: the same words, quoted anew.
    """

    pipelines: tuple[Wired, ...]
    opaque: str
    effects: Effects
    read_only: bool
    normalised: str


def analyse(text: str, *, cwd: str, home: str) -> Analysis:
    """Analyse shell text as run in `cwd` for the owner of `home`. Looks at names only; never raises."""
    found = Found(cwd, home)
    try:
        judged, wired, reason = _judge_all(shelltext.parse(text, cwd=cwd, home=home), found)
    except Opaque as why:
        return _opaque(text, str(why), found, home)
    if reason:
        return _opaque(text, reason, found, home)
    effects = found.effects()
    changes = effects.writes or effects.deletes or effects.network
    return Analysis(wired, "", effects, not changes, shelltext.render(judged))


def warm() -> None:
    """Import and read all that judging needs, while the process has its own file rights.

    Commands are judged with their caller's, and who calls may not be able to read where llmos lies.
    """
    for text in ("ls -l *.c | grep -c x > /dev/null", "kill 1", "docker ps", "sh -c 'echo $(id)'"):
        analyse(text, cwd="/", home="/")


def _opaque(text: str, why: str, found: Found, home: str) -> Analysis:
    for path in _mentions(text, found, home):
        if places.is_device(path):
            found.writes.append(path)
        elif places.is_protected(path, home):
            found.reads.append(path)
    settings = enginelines.settings(text, found)
    effects = found.effects().model_copy(update={"opaque": why, "settings": settings})
    return Analysis((), why, effects, False, text)


def _mentions(text: str, found: Found, home: str) -> Iterator[str]:
    """Paths the text names, read as loosely as possible: quotes and backslashes are ignored."""
    printable = text.replace("\0", " ").encode(errors="replace").decode()
    plain = re.sub(r"[\\'\"]", "", printable.replace("${HOME}", home).replace("$HOME", home))
    for match in islice(_MENTION.finditer(plain), 200):
        word = match[0]
        yield found.path(home + word[1:] if word.startswith("~") else word)


def _judge_all(
    pipelines: tuple[Pipeline, ...], found: Found
) -> tuple[tuple[Pipeline, ...], tuple[Wired, ...], str]:
    """Each command judged, even after one is opaque: a denial further on must be seen. First reason wins."""
    judged: list[Pipeline] = []
    wired: list[Wired] = []
    reason = ""
    for number, pipeline in enumerate(pipelines):
        follows = pipelines[number + 1].joiner if number + 1 < len(pipelines) else ""
        try:
            if pipeline.commands[0].argv[0] == "cd":
                judged.append(_change_folder(pipeline, follows, found))
                wired.append(wiring.piped(pipeline.joiner, (), cd=found.cwd))
                continue
            _check_xargs(pipeline)
        except Opaque as why:
            reason = reason or str(why)
        commands = []
        for place, command in enumerate(pipeline.commands):
            found.piped = place > 0
            found.read_by = next((after.argv[0] for after in pipeline.commands[place + 1 :]), "")
            commands.append(_judge_command(command, found))
        reason = reason or next((why for _, _, why in commands if why), "")
        judged.append(replace(pipeline, commands=tuple(command for command, _, _ in commands)))
        wired.append(wiring.piped(pipeline.joiner, [execs for _, execs, _ in commands]))
    return tuple(judged), tuple(wired), reason


def _judge_command(command: Command, found: Found) -> tuple[Command, Exec, str]:
    """The command as it is shown, as it is executed, and why it is opaque if it is."""
    reason = ""
    try:
        expanded = replace(command, words=expand(command.words, found))
    except Opaque as why:
        expanded, reason = command, str(why)
    try:
        argv = programs.judge(wiring.without_shell(expanded.argv), found)
        checks.terminal(argv[1:])
    except Opaque as why:
        argv, reason = list(expanded.argv), reason or str(why)
    for redirect in command.redirects:
        _redirect(redirect, found)
    fresh = replace(expanded, words=tuple(Word(word) for word in argv))
    return fresh, wiring.executed(fresh, found.cwd), reason


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
    if follows != "&&" and not places.is_folder(target):
        raise Opaque("it changes to a folder that is not there, and goes on")
    found.reads.append(target)
    found.cwd = target
    return pipeline


def _check_xargs(pipeline: Pipeline) -> None:
    """xargs is understood where names come from a lister, through filters that only choose among them.

    So a lister may not print text of the command's own choice, and a filter may not read another file:
    else `find -printf` or `head LIST` would name files that the policy never saw.
    """
    names = [command.argv[0] for command in pipeline.commands]
    if "xargs" not in names:
        return
    before = pipeline.commands[: names.index("xargs")]
    after = names[len(before) + 1 :]
    if not before or "xargs" in after or any(_merges(command) for command in before):
        raise Opaque(_UNSEEN_NAMES)
    if not _lists_names(before[0].argv) or not all(_only_chooses(command.argv) for command in before[1:]):
        raise Opaque(_UNSEEN_NAMES)


def _merges(command: Command) -> bool:
    """Whether error messages, or another file, get into what is passed on."""
    return any(
        redirect.op != ">" or redirect.target.text != _STDOUT_OR_NULL for redirect in command.redirects
    )


def _lists_names(argv: Sequence[str]) -> bool:
    """Whether it prints names of files that are there, one a line, and nothing else."""
    name, words = argv[0], argv[1:]
    options = [word for word in words if word.startswith("-")]
    match name:
        case "find":
            return not {"-printf", "-ls", "-exec", "-execdir"} & set(words)
        case "ls":
            return all(re.fullmatch(r"-[1aAdrtSRUXfp]+", word) for word in options)
        case "git":
            return list(words[:1]) == ["ls-files"] and not any(
                word.startswith("--format") for word in options
            )
        case "grep" | "rg":
            if name == "rg" and any(re.fullmatch(r"-[^-]*r.*", word) for word in options):
                return False  # --replace
            shown = any(re.fullmatch(r"-[rRiwxEFv]*l[rRiwxEFv]*|--files", word) for word in options)
            return shown and not any(_renames(word) for word in words)
    return False


def _renames(word: str) -> bool:
    """grep and rg: options that make them print a name, or something beside names, of one's own choice."""
    others = ("--label", "--replace", "--path", "--color", "--colour", "--json", "--pretty", "--stats")
    return word == "-" or word.startswith(others) or bool(re.fullmatch(r"-[a-zA-Z]*[op]", word))


def _only_chooses(argv: Sequence[str]) -> bool:
    """Whether it passes on lines of its input unchanged, and reads nothing else."""
    options = argv[1:]
    match argv[0]:
        case "sort" | "uniq" | "tac":
            return all(re.fullmatch(r"-[bdfghinrRuVz]+", word) for word in options)
        case "head" | "tail":
            return bool(re.fullmatch(r"(-n ?\+?-?\d+|-\d+)?", " ".join(options)))
        case "grep":
            plain = [word for word in options if not re.fullmatch(r"-[EFGPivwx]+", word)]
            return len(plain) == 1 and not plain[0].startswith("-")
    return False


def _redirect(redirect: Redirect, found: Found) -> None:
    target = redirect.target.text
    if redirect.op == ">&" or (redirect.op != "<" and target == _STDOUT_OR_NULL):
        return
    found.add("read" if redirect.op == "<" else "write", target)


def expand(words: tuple[Word, ...], found: Found) -> tuple[Word, ...]:
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
    if len(_GLOB_SIGN.findall(word.pattern)) > MAX_SIGNS:
        raise Opaque(f"a pattern in it has more than {MAX_SIGNS} signs")
    absolute = word.pattern.startswith("/")
    matches = glob.iglob(word.pattern, root_dir=None if absolute else found.cwd)  # noqa: PTH207 - root_dir
    names = list(islice(matches, MAX_MATCHES + 1))
    if len(names) > MAX_MATCHES:
        raise Opaque(f"the pattern {word.text} matches more than {MAX_MATCHES} names")
    for name in names:
        if not name.isprintable():
            raise Opaque(f"the pattern {word.text} matches a name with characters that cannot be seen")
        characters.check_characters(name)
    if not names and places.may_name_secret(word.pattern):
        raise Opaque(f"the pattern {word.text} is made to match a place of keys and passwords")
    return [Word(f"./{name}" if name.startswith("-") else name) for name in sorted(names)] or [
        Word(word.text)
    ]
