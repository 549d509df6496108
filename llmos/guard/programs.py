"""What a program's arguments make it do: the tables of policies/programs applied to one argv.

Options are taken exactly: no abbreviations, and one that is not in the table makes the command opaque
with that reason. Wrappers (`nice`, `timeout`, `find -exec`, `xargs`) are followed to what they start.

What it does not protect against: a program that does not do what its manual says. The sandbox does.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence

from llmos.guard import checks, places, repository, wrappers
from llmos.guard.characters import Opaque
from llmos.guard.found import Found
from llmos.guard.grammar import Grammar, Mode, grammars
from llmos.guard.options import Parsed, parse
from llmos.guard.words import SAFE_PATH
from llmos.messages import ProgramUse

_FOLDERS = frozenset({*SAFE_PATH.split(":"), "/usr/lib/cargo/bin/coreutils"})
_LOADERS = frozenset({"/lib64", "/lib", "/usr/lib64", "/usr/lib"})  # where ld.so is started by its path
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/", "/opt/", "/snap/", "/nix/store/", "/gnu/store/")
_ABOUT_ITSELF = ("--help", "--version")
MAX_FOLLOWED = 6


def locate(name: str, cwd: str = "/") -> str:
    """The absolute path a command name stands for; for a missing program, where it would stand.

    The folder is without links, so that a link turned meanwhile leads nowhere else; the last part stays
    as it is, because many programs go by the name they are called by.
    """
    if "/" not in name:
        return shutil.which(name, path=SAFE_PATH) or f"/usr/bin/{name}"
    folder, last = os.path.split(os.path.join(cwd, name))
    return os.path.join(places.real(folder), last)


def is_described(program: str) -> bool:
    """Whether this absolute path is a program of the tables, in the system's folders."""
    name = os.path.basename(program)
    return _is_system(program) and name in grammars() and not grammars()[name].only


def _is_system(program: str) -> bool:
    folder = os.path.dirname(program)
    known = folder in _FOLDERS or (folder in _LOADERS and os.path.basename(program).startswith("ld"))
    return known and places.real(program).startswith(_SYSTEM)


def judge(argv: Sequence[str], found: Found, depth: int = 0) -> list[str]:
    """Add what `argv` does to `found`; return the argv to run (with our neutralising options in it).

    Raises Opaque with the reason when it cannot be known. What was gathered until then stays: a
    denial for a known part holds for the whole.
    """
    if depth > MAX_FOLLOWED:
        raise Opaque("it starts programs through too many others")
    name = argv[0]
    grammar, path = _grammar_of(name, found)
    if (words := list(argv[1:])) in [about.split() for about in (*_ABOUT_ITSELF, *grammar.about)]:
        found.uses.append(ProgramUse(program=path, options=tuple(words)))
        return list(argv)

    def inner(words: Sequence[str]) -> list[str]:
        return judge(words, found, depth + 1)

    if grammar.follow and not _lists_itself(argv, grammar):
        parsed, run = wrappers.follow(argv, grammar, found, inner)
        found.uses.append(ProgramUse(program=path, options=parsed.written()))
        return run
    if grammar.expression:
        used = wrappers.find(argv, grammar, found, inner)
        found.uses.append(ProgramUse(program=path, options=used))
        return list(argv)
    return _own(argv, grammar, path, found)


def _lists_itself(argv: Sequence[str], grammar: Grammar) -> bool:
    """`env` alone lists; every other wrapper wants a command."""
    return len(argv) == 1 and grammar.only == ("",)


def _grammar_of(name: str, found: Found) -> tuple[Grammar, str]:
    if not name or name.startswith("-"):
        raise Opaque("it starts a program without a name")
    path = locate(name, found.cwd)
    found.programs.append(path)
    key = name if "/" not in name else (os.path.basename(name) if _is_system(path) else "")
    if key not in grammars():
        raise Opaque(f"it is not known what {name} does")
    return grammars()[key], path


# --- a program, its subcommands, its effects ---------------------------------------------------------


def _own(argv: Sequence[str], grammar: Grammar, path: str, found: Found) -> list[str]:
    """A program that starts no command named on its line."""
    name, *words = argv
    if grammar.only and grammar.only != ("",):
        if len(words) != 1 or words[0] not in grammar.only:
            raise Opaque(f"what {name} runs is not known before it runs")
        found.uses.append(ProgramUse(program=path, options=tuple(words)))
        return list(argv)
    if grammar.endless and found.read_by != "head":
        raise Opaque(f"{name} goes on until it is stopped")
    before = found.cwd
    try:
        parsed, run, subcommand = _applied(name, words, grammar, found)
    finally:
        found.cwd = before
    found.uses.append(ProgramUse(program=path, options=parsed.written(), subcommand=subcommand))
    if grammar.instead:
        found.programs.append(locate(grammar.instead))
        return [grammar.instead, "--", *parsed.args]
    return _by_a_shell([name, *run], found) if grammar.builtin else [name, *run]


def _by_a_shell(argv: list[str], found: Found) -> list[str]:
    shell = "bash" if shutil.which("bash", path=SAFE_PATH) else "sh"
    found.programs.append(locate(shell))
    return [shell, "-c", shlex.join(argv)]


def _applied(
    name: str, words: Sequence[str], grammar: Grammar, found: Found
) -> tuple[Parsed, list[str], str]:
    """The options found, the words to run, and the subcommand, if any."""
    if grammar.check:
        checks.CHECKS[grammar.check](words)
    if grammar.network:
        found.network.append(grammar.network)
    if grammar.repository:
        _check_repository(words, grammar, found)
    if grammar.sub:
        return _with_subcommand(name, words, grammar, found)
    if grammar.operands:
        _operands(name, words, grammar, found)
        return Parsed((), ()), list(words), ""
    try:
        parsed = parse(name, words, grammar)
        _apply(name, parsed, grammar, found)
    except Opaque:
        if grammar.hosts:
            found.network.append("*")
        raise
    return parsed, [*grammar.insert, *words], ""


def _with_subcommand(
    name: str, words: Sequence[str], grammar: Grammar, found: Found
) -> tuple[Parsed, list[str], str]:
    """git and its like: options, then a subcommand with a grammar of its own."""
    parsed = parse(name, words, grammar, stop=True)
    own = list(words[: len(words) - len(parsed.args)])
    for option, value in parsed.options:
        if grammar.values.get(option) == "chdir":
            found.cwd = found.path(value or ".")
    if not parsed.args:
        if grammar.opaque:
            raise Opaque(grammar.opaque)
        return parsed, [*grammar.insert, *own], ""
    word, *rest = parsed.args
    if word not in grammar.sub:
        raise Opaque(f"it is not known what {name} {word} does")
    inner, run, deeper = _applied(f"{name} {word}", rest, grammar.sub[word], found)
    both = Parsed((*parsed.options, *inner.options), inner.args)
    return both, [*grammar.insert, *own, word, *run], f"{word} {deeper}".strip()


def _check_repository(words: Sequence[str], grammar: Grammar, found: Found) -> None:
    """git reads the settings of the repository it is in; -C says which that is."""
    parsed = parse("git", words, grammar, stop=True)
    folder = found.cwd
    for option, value in parsed.options:
        if option == "C":
            folder = os.path.join(folder, value or ".")
            found.reads.append(found.path(folder))
    if parsed.args:
        repository.check(places.real(folder))


def _apply(name: str, parsed: Parsed, grammar: Grammar, found: Found) -> None:
    mode = _mode(parsed, grammar)
    kinds = {**grammar.values, **(mode.values if mode else {})}
    into = ""
    here = Found(found.cwd, found.home)  # where relative arguments count from: tar -C
    for option, value in parsed.options:
        kind = kinds.get(option, "text")
        if kind == "chdir":
            here.cwd = here.path(value or ".")
        elif kind == "into":
            into = value or "."
        elif value is not None:
            found.add(kind, value)
    args = mode.args if mode and mode.args is not None else grammar.args
    if grammar.unless and parsed.names() & set(grammar.unless):
        args = args[1:]
    before, found.cwd = found.cwd, here.cwd
    _positional(name, parsed.args, (*args[:-1], "into=" + into) if into else args, found)
    for path in mode.writes if mode and mode.writes is not None else grammar.writes:
        found.add("write", path)
    _whole_folders(parsed, grammar, args, found)
    found.cwd = before
    if lacking := [option for option in grammar.needs if option not in parsed.names()]:
        raise Opaque(f"{name} without -{lacking[0]} goes on until it is stopped")
    if grammar.opaque or (mode and mode.opaque):
        raise Opaque((mode.opaque if mode else "") or grammar.opaque)


def _whole_folders(parsed: Parsed, grammar: Grammar, args: Sequence[str], found: Found) -> None:
    """What it reads when no file is named; and whether it goes through all below what it reads."""
    deep = "*" in grammar.deep or bool(parsed.names() & set(grammar.deep))
    before_files = sum(not kind.endswith(("*", "?")) and kind != "read" for kind in args)
    named: Sequence[str] = parsed.args[before_files:]
    if not named and (deep or not grammar.deep) and not (grammar.piped and found.piped):
        named = grammar.default
        for path in named:
            found.add("read", path)
    if deep:
        found.check_depth(named)


def _mode(parsed: Parsed, grammar: Grammar) -> Mode | None:
    names = parsed.names()
    return next((mode for mode in grammar.mode if names & set(mode.when)), None)


def _positional(name: str, words: Sequence[str], kinds: Sequence[str], found: Found) -> None:
    """Give each argument its kind; `KIND*` takes what the kinds after it leave over."""
    left, after = list(words), list(kinds)
    while after:
        kind = after.pop(0)
        if kind.startswith("into="):
            _into(kind[5:], words, found)
        elif kind == "into":
            if left:
                _into(left.pop(0), words[: len(words) - 1 - len(left)], found)
        elif kind.endswith("*"):
            room = len(left) - sum(1 for other in after if not other.startswith("into="))
            for _ in range(max(0, room)):
                _one(kind[:-1], left.pop(0), found)
        elif left:
            _one(kind.removesuffix("?"), left.pop(0), found)
    if left:
        raise Opaque(f"{name} has more arguments than are known to it")


def _one(kind: str, word: str, found: Found) -> None:
    if word == "-" and kind == "read":
        return  # standard input
    found.add(kind, word)


def _into(target: str, sources: Sequence[str], found: Found) -> None:
    """cp, mv, ln: the target itself, or each source's name inside it when it is a folder."""
    folder = found.path(target)
    if not places.is_folder(folder):
        found.writes.append(folder)
        return
    names = [os.path.basename(found.path(source)) for source in sources]
    found.writes += [os.path.join(folder, name) for name in names]


def _operands(name: str, words: Sequence[str], grammar: Grammar, found: Found) -> None:
    unknown = ""
    for word in words:
        key, equals, value = word.partition("=")
        kind = grammar.operands.get(key) if equals else None
        if kind is None:
            unknown = unknown or f"the operand {word} of {name} is not known"
        else:
            found.add(kind, value)
    if unknown:
        raise Opaque(unknown)
