"""What a program's arguments make it do: policies/programs.toml applied to one argv.

Options are taken exactly: no abbreviations, and one that is not in the table makes the command opaque
with that reason. So a dangerous option is kept out by not being listed. Wrappers (`nice`, `timeout`,
`find -exec`, `xargs`) are followed to the program they start.

What it does not protect against: a program that does not do what its manual says. The sandbox does.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from llmos import paths
from llmos.errors import ConfigError
from llmos.guard import places, scripts
from llmos.guard.shelltext import Opaque
from llmos.messages import Effects, Message

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FOLDERS = frozenset({*SAFE_PATH.split(":"), "/usr/lib/cargo/bin/coreutils"})
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/", "/opt/", "/snap/", "/nix/store/", "/gnu/store/")
MAX_FOLLOWED = 6


class Mode(Message):
    """What changes when one of these options (or, with `first`, this first argument) is given."""

    when: tuple[str, ...]
    args: tuple[str, ...] | None = None
    values: dict[str, str] = Field(default_factory=dict)
    writes: tuple[str, ...] | None = None
    opaque: str = ""


class Grammar(Message):
    """One program's options and arguments. Kinds of values are named in policies/programs.toml."""

    flags: str = ""
    long: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # --color[=WHEN], -i[SUFFIX]
    values: dict[str, str] = Field(default_factory=dict)
    numeric: bool = False  # head -5
    args: tuple[str, ...] = ()
    default: tuple[str, ...] = ()  # read when no file is named
    unless: tuple[str, ...] = ()  # options that stand in for the first argument
    writes: tuple[str, ...] = ()
    mode: tuple[Mode, ...] = ()
    operands: dict[str, str] = Field(default_factory=dict)  # dd's name=value
    expression: dict[str, str] = Field(default_factory=dict)  # find's -name PATTERN
    bundled: bool = False  # tar xzf
    follow: bool = False  # the arguments after `args` are a command
    deep: tuple[str, ...] = ()  # options that make it read all below a folder; "*": it always does
    shallow: bool = False  # it looks at names and properties, never at contents
    innocent: bool = False  # no option of it, listed or not, can write or start anything
    network: str = ""
    opaque: str = ""
    insert: tuple[str, ...] = ()  # options of ours that switch off what could start programs
    sub: dict[str, Grammar] = Field(default_factory=dict)
    alias: tuple[str, ...] = ()


@dataclass(slots=True)
class Found:
    """Effects as they are gathered; paths absolute, links not yet followed."""

    cwd: str
    home: str = "/"
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    network: list[str] = field(default_factory=list)
    opaque: str = ""

    def path(self, text: str) -> str:
        """Absolute. `..` behind a link leads elsewhere than it reads: then links are followed at once."""
        path = "/" + os.path.join(self.cwd, text).lstrip("/")
        return places.real(path) if ".." in text.split("/") else os.path.normpath(path)

    def add(self, kind: str, text: str) -> None:
        """Note the effect of one value. Raises Opaque for a script that may do more than print."""
        match kind:
            case "text":
                return
            case "read" | "write" | "delete":
                self._paths(kind).append(self.path(text))
            case "columns":
                if "env" in text.casefold():
                    raise Opaque("ps would show what other programs were given as environment")
            case "jq":
                if re.search(r"\b(?:import|include)\b", text):
                    raise Opaque("its jq script reads further files")
            case "replace":
                self.deletes.append(self.path(text))
                self.writes += [self.path(text), self.path(text) + ".gz"]
            case "host":
                self.network.append(text)
            case "rev":
                # A revision, unless a file has that name: outside a repository git diff reads files.
                if text.startswith(("/", "./", "../")) or os.path.lexists(self.path(text)):
                    self.reads.append(self.path(text))
            case _:
                self._add_checked(kind, text)

    def _add_checked(self, kind: str, text: str) -> None:
        """Kinds whose value may be refused."""
        match kind:
            case "sed":
                scripts.check_sed(text)
            case "awk":
                scripts.check_awk(text)
            case "format":
                if not text.startswith("+"):
                    raise Opaque("it sets the clock")
            case "process":
                if text.isalpha() and "e" in text:
                    raise Opaque("it shows the environment of processes")
            case "archive" | "new-archive":
                if ":" in text:
                    raise Opaque("tar takes HOST:FILE for an archive on another machine")
                self.add("read" if kind == "archive" else "write", text)
            case _:
                raise AssertionError(f"no kind {kind}")

    def check_depth(self, paths: Sequence[str]) -> None:
        """Raise Opaque when all below one of these folders is read and secrets lie there.

        The sandbox keeps them unreadable; that the command goes looking there is worth a question.
        """
        for path in paths:
            if places.holds_secrets(self.path(path), self.home):
                raise Opaque(f"it reads everything below {self.path(path)}, where secrets lie")

    def _paths(self, kind: str) -> list[str]:
        return {"read": self.reads, "write": self.writes, "delete": self.deletes}[kind]

    def effects(self) -> Effects:
        def unique(found: list[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(found))

        return Effects(
            reads=unique(self.reads), writes=unique(self.writes), deletes=unique(self.deletes),
            programs=unique(self.programs), network=unique(self.network), opaque=self.opaque,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parsed:
    options: tuple[tuple[str, str | None], ...]
    args: tuple[str, ...]

    def names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.options)


@functools.cache
def grammars(file: Path | None = None) -> Mapping[str, Grammar]:
    """The table, by program name; raises ConfigError naming file and key."""
    file = file or paths.builtin_policy_dir() / "programs.toml"
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
        found = {name: Grammar.model_validate(values) for name, values in raw.items()}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(error), "Mend or reinstall it.", where=str(file)) from error
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(error.errors()[0]["msg"], "Correct that key.", where=f"{file}: {key}") from error
    return found | {other: grammar for grammar in found.values() for other in grammar.alias}


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
    """Whether this absolute path is a program of the table, in the system's folders."""
    folder, name = os.path.split(program)
    if name not in grammars() or folder not in _FOLDERS:
        return False
    return places.real(program).startswith(_SYSTEM)


def judge(argv: Sequence[str], found: Found, depth: int = 0) -> list[str]:
    """Add what `argv` does to `found`; return the argv to run (with our neutralising options in it).

    Raises Opaque with the reason when it cannot be known. What was gathered until then stays: a
    denial for a known part holds for the whole.
    """
    name = argv[0]
    if depth > MAX_FOLLOWED:
        raise Opaque("it starts programs through too many others")
    grammar = _grammar_of(name, found)
    if grammar.network:
        found.network.append(grammar.network)
    if grammar.sub:
        return _with_subcommand(argv, grammar, found)
    if grammar.expression:
        return _judge_find(argv, grammar, found, depth)
    if grammar.follow:
        return _follow(argv, grammar, found, depth)
    _apply(name, argv[1:], grammar, found)
    return [name, *grammar.insert, *argv[1:]]


def _grammar_of(name: str, found: Found) -> Grammar:
    if not name or name.startswith("-"):
        raise Opaque("it starts a program without a name")
    path = locate(name, found.cwd)
    found.programs.append(path)
    key = name if "/" not in name else (os.path.basename(name) if is_described(path) else "")
    if key not in grammars():
        raise Opaque(f"it is not known what {name} does")
    return grammars()[key]


# --- options ---------------------------------------------------------------------------------------


def parse(name: str, words: Sequence[str], grammar: Grammar, *, stop: bool = False) -> Parsed:
    """Split words into options and arguments as getopt_long does, without abbreviations.

    `stop` ends the options at the first argument, as wrappers do. Raises Opaque.
    """
    options: list[tuple[str, str | None]] = []
    args: list[str] = []
    queue = list(words)
    if grammar.bundled and queue and not queue[0].startswith("-"):
        options += _bundle(name, queue.pop(0), queue, grammar)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return Parsed(tuple(options), (*args, *queue))
        if grammar.numeric and re.fullmatch(r"-\d+", word):
            continue
        if word.startswith("--"):
            options.append(_long(name, word[2:], queue, grammar))
        elif word.startswith("-") and len(word) > 1:
            options += _short(name, word[1:], queue, grammar)
        elif stop:
            return Parsed(tuple(options), (word, *queue))
        else:
            args.append(word)
    return Parsed(tuple(options), tuple(args))


def _long(name: str, text: str, queue: list[str], grammar: Grammar) -> tuple[str, str | None]:
    option, equals, value = text.partition("=")
    if len(option) > 1 and option in grammar.values:
        return option, value if equals else _next(name, f"--{option}", queue)
    if len(option) > 1 and option in grammar.optional:
        return option, value
    if option in grammar.long and not equals:
        return option, None
    raise Opaque(f"the option --{option} of {name} is not known")


def _short(name: str, cluster: str, queue: list[str], grammar: Grammar) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for at, char in enumerate(cluster):
        rest = cluster[at + 1 :]
        if char in grammar.values:
            return [*found, (char, rest or _next(name, f"-{char}", queue))]
        if char in grammar.optional:
            return [*found, (char, rest)]
        if char not in grammar.flags:
            raise Opaque(f"the option -{char} of {name} is not known")
        found.append((char, None))
    return found


def _bundle(name: str, cluster: str, queue: list[str], grammar: Grammar) -> list[tuple[str, str | None]]:
    """tar's oldest style, without a dash: values follow the bundle, one for each letter that takes one."""
    found: list[tuple[str, str | None]] = []
    for char in cluster:
        if char not in grammar.flags and char not in grammar.values:
            raise Opaque(f"the option -{char} of {name} is not known")
        found.append((char, _next(name, f"-{char}", queue) if char in grammar.values else None))
    return found


def _next(name: str, option: str, queue: list[str]) -> str:
    if not queue:
        raise Opaque(f"the option {option} of {name} lacks its value")
    return queue.pop(0)


# --- effects ---------------------------------------------------------------------------------------


def _apply(name: str, words: Sequence[str], grammar: Grammar, found: Found) -> None:
    if grammar.operands:
        _operands(name, words, grammar, found)
        return
    parsed = parse(name, words, grammar)
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
    if not parsed.args:
        for path in grammar.default:
            found.add("read", path)
    if "*" in grammar.deep or parsed.names() & set(grammar.deep):
        found.check_depth(parsed.args or grammar.default)
    found.cwd = before
    if grammar.opaque or (mode and mode.opaque):
        raise Opaque((mode.opaque if mode else "") or grammar.opaque)


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


# --- programs that start or contain others -----------------------------------------------------------


def _with_subcommand(argv: Sequence[str], grammar: Grammar, found: Found) -> list[str]:
    """git and its like: options, then a subcommand with a grammar of its own."""
    name = argv[0]
    parsed = parse(name, argv[1:], grammar, stop=True)
    own = list(argv[1 : len(argv) - len(parsed.args)])
    before = found.cwd
    for option, value in parsed.options:
        if grammar.values.get(option) == "chdir":
            found.cwd = found.path(value or ".")
    if not parsed.args:
        return [name, *grammar.insert, *own]
    word, *rest = parsed.args
    if word not in grammar.sub:
        raise Opaque(f"it is not known what {name} {word} does")
    sub = grammar.sub[word]
    if sub.network:
        found.network.append(sub.network)
    _apply(f"{name} {word}", rest, sub, found)
    found.cwd = before
    return [name, *grammar.insert, *own, word, *sub.insert, *rest]


def _follow(argv: Sequence[str], grammar: Grammar, found: Found, depth: int) -> list[str]:
    name = argv[0]
    parsed = parse(name, argv[1:], grammar, stop=True)
    own = len(grammar.args)
    if len(parsed.args) <= own:
        raise Opaque(f"{name} has no command to start")
    inner = parsed.args[own:]
    head = list(argv[: len(argv) - len(inner)])
    if name == "xargs":
        return head + _follow_xargs(inner, found, depth)
    return head + judge(inner, found, depth + 1)


def _follow_xargs(inner: Sequence[str], found: Found, depth: int) -> list[str]:
    """The arguments come from a pipe: only a program that can do no harm with any is understood.

    Names starting with a dash would be options, so the program must be innocent of every option. The
    files it reads are not known here: `commandline` looks at where the names come from.
    """
    judge(inner, found, depth + 1)
    if not grammars()[os.path.basename(inner[0])].shallow:
        found.check_depth([path for path in found.reads if places.is_folder(path)])
    if not grammars()[os.path.basename(inner[0])].innocent:
        raise Opaque(f"xargs gives {inner[0]} arguments that are not known before it runs")
    return list(inner)


def _judge_find(argv: Sequence[str], grammar: Grammar, found: Found, depth: int) -> list[str]:
    """find(1): options, roots, then an expression of exact words."""
    words = list(argv[1:])
    while words and words[0] in ("-H", "-L", "-P"):
        words.pop(0)
    roots: list[str] = []
    while words and not words[0].startswith(("-", "(", "!")):
        roots.append(words.pop(0))
    roots = roots or ["."]
    found.reads += [found.path(root) for root in roots]
    while words:
        word = words.pop(0)
        kind = grammar.expression.get(word)
        if kind is None:
            raise Opaque(f"the expression {word} of find is not known")
        if kind == "delete":
            found.deletes += [found.path(root) for root in roots]
        elif kind == "exec":
            words = _find_exec(words, roots, found, depth)
        elif kind:
            found.add(kind, _next("find", word, words))
    return list(argv)


def _find_exec(words: list[str], roots: list[str], found: Found, depth: int) -> list[str]:
    """Judge -exec's command with each root for `{}`; return the words behind it."""
    end = next((at for at, word in enumerate(words) if _ends_exec(words, at, word)), None)
    if not end:
        raise Opaque("find -exec lacks its end")
    inner = words[:end]
    if any("{}" in word and word != "{}" for word in inner) or inner[0] == "{}":
        raise Opaque("find -exec uses {} inside a word")
    name = os.path.basename(inner[0])
    if name not in grammars() or not grammars()[name].shallow:
        found.check_depth(roots)
    for root in roots:
        judge([root if word == "{}" else word for word in inner], found, depth + 1)
    return words[end + 1 :]


def _ends_exec(words: Sequence[str], at: int, word: str) -> bool:
    return word == ";" or (word == "+" and at > 0 and words[at - 1] == "{}")


Grammar.model_rebuild()
