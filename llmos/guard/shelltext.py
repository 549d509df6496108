"""Shell text as pipelines of plain words, or the reason why it is not that.

tree-sitter-bash gives the structure; every word is then read again (`words`), and only what means the same in
every shell is taken. The rest raises `Opaque`. What is understood is written anew by `render`, so a parser
that disagrees with the shell changes what is run, never what was judged.

What it does not do: say what a command does. That is `programs`' business.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmos.guard import variables
from llmos.guard.characters import Opaque, check_characters
from llmos.guard.words import Word, WordReader

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

MAX_COMMANDS = 64
MAX_DEPTH = 40
_OPERATORS = frozenset({"&&", "||", ";", "\n", "|"})
_WRITE_OPS = frozenset({">", ">>", ">|", "&>", "&>>"})
# A backslash hides the line's end, everywhere but in single quotes: not worth telling apart.
_CONTINUED = re.compile(r"\\\n")
# Words that mean something to a shell where a program is named; `time` is a program as well.
_RESERVED = re.compile(
    r"if|then|else|elif|fi|case|esac|for|select|while|until|do|done|in|function|coproc|[{}!]|\[\[|\]\]|[%-].*"
)


@dataclass(frozen=True, slots=True)
class Redirect:
    """`fd` op target; the target of `>&` is a descriptor's number."""

    fd: int
    op: str  # < > >> >&
    target: Word


@dataclass(frozen=True, slots=True)
class Command:
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...] = ()
    variables: tuple[str, ...] = ()  # LC_ALL=C and the like in front, NAME=VALUE without quotes

    @property
    def argv(self) -> tuple[str, ...]:
        return tuple(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands joined by `|`. `joiner` stands before it: empty for the first, else `&&`, `||` or `;`."""

    commands: tuple[Command, ...]
    joiner: str = ""


def parse(text: str, *, cwd: str, home: str) -> tuple[Pipeline, ...]:
    """The pipelines of `text`; raises Opaque with the reason when it is more than plain words."""
    check_characters(text)
    if _CONTINUED.search(text):
        raise Opaque("it continues over a line's end")
    root = _parser().parse(text.encode()).root_node
    if root.has_error:
        raise Opaque("it is not a complete shell command")
    reader = _Reader(WordReader(cwd, home))
    pipelines = tuple(reader.statements(root, 0))
    reader.check_all_was_read(text.encode())
    if not pipelines:
        raise Opaque("there is no command in it")
    if sum(len(pipeline.commands) for pipeline in pipelines) > MAX_COMMANDS:
        raise Opaque(f"it has more than {MAX_COMMANDS} commands")
    pipelines = (replace(pipelines[0], joiner=""), *pipelines[1:])
    return tuple(_given(pipeline, reader.exported) for pipeline in pipelines)


def _given(pipeline: Pipeline, exported: tuple[str, ...]) -> Pipeline:
    """Each command with the variables that were exported before it."""
    if not exported:
        return pipeline
    commands = (replace(one, variables=(*exported, *one.variables)) for one in pipeline.commands)
    return replace(pipeline, commands=tuple(commands))


@functools.cache
def _parser() -> Parser:
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


class _Reader:
    """Walks the syntax tree and notes each leaf it has read."""

    def __init__(self, words: WordReader) -> None:
        self._words = words
        self.exported: tuple[str, ...] = ()
        self._in_commands = False  # what is exported from here on would not hold for all of them
        self._starts: set[int] = set()  # where statements start: a line may end before them
        self._read: list[tuple[int, int, str]] = []  # start, end, and its kind

    def _take(self, node: Node, kind: str) -> str:
        """The source of a leaf, noted as read."""
        self._read.append((node.start_byte, node.end_byte, kind))
        return _text(node)

    def check_all_was_read(self, source: bytes) -> None:
        """Raise Opaque unless the leaves are the whole text but for blanks, each read once and apart.

        The grammar drops what it takes for layout (`\\ ` in front of a word) and glues what a shell splits
        (`2>1>x`): whatever it makes of such text, it is not what a shell makes of it.
        """
        end, last = 0, ""
        self._starts.add(len(source))
        for start, stop, kind in [*sorted(self._read), (len(source), len(source), "end")]:
            between = source[end:start]
            if start < end or between.strip(b" \t\n"):
                raise Opaque("part of it is read differently by different shells")
            if b"\n" in between and last in ("word", "redirect") and start not in self._starts:
                raise Opaque(
                    "it goes over a line's end in a way that is read differently by different shells"
                )
            if not between and last and _is_glued(source, start, last, kind):
                raise Opaque("it joins words in a way that is read differently by different shells")
            end, last = stop, kind

    def statements(self, node: Node, depth: int) -> Iterator[Pipeline]:
        """The pipelines of a program or list, each with the operator before it."""
        if depth > MAX_DEPTH:
            raise Opaque("it is nested too deeply")
        joiner = ";"
        for child in node.children:
            if child.type == "comment":
                self._take(child, "comment")
                continue
            if not child.is_named:
                joiner = _joiner(child)
                self._take(child, "operator")
                continue
            self._starts.add(child.start_byte)
            if child.type == "declaration_command":
                self._export(child)
                continue
            if joiner == "||" and not self._in_commands:
                raise Opaque("it goes on if setting a variable fails")
            for number, pipeline in enumerate(self._statement(child, depth + 1)):
                self._in_commands = True
                yield replace(pipeline, joiner=joiner) if number == 0 else pipeline

    def _export(self, node: Node) -> None:
        """`export NAME=VALUE` before all commands: the same as in front of each of them."""
        if self._in_commands or node.children[0].type != "export":
            raise Opaque(f"it uses {_named(node.type)}")
        self._take(node.children[0], "word")
        for child in node.children[1:]:
            if child.type != "variable_assignment":
                raise Opaque(f"it uses {_named(node.type)}")
            name, value = _assigned(self._take(child, "word"), locale=False)
            self.exported += (f"{name}={value}",)
            if variables.is_one_word(value):
                self._words.known[name] = value
            else:
                self._words.known.pop(name, None)

    def _statement(self, node: Node, depth: int) -> list[Pipeline]:
        match node.type:
            case "list":
                return list(self.statements(node, depth))
            case "pipeline" | "command" | "test_command":
                return [Pipeline(tuple(self._commands(node, depth)))]
            case "redirected_statement":
                return self._redirected(node, depth)
            case _:
                raise Opaque(f"it uses {_named(node.type)}")

    def _commands(self, node: Node, depth: int) -> Iterator[Command]:
        if depth > MAX_DEPTH:
            raise Opaque("it is nested too deeply")
        if node.type == "command":
            yield self._command(node)
            return
        if node.type == "test_command":
            yield self._test(node)
            return
        if node.type == "redirected_statement":
            for pipeline in self._redirected(node, depth):
                if pipeline.joiner:
                    raise Opaque("it redirects a list")
                yield from pipeline.commands
            return
        if node.type != "pipeline":
            raise Opaque(f"it uses {_named(node.type)}")
        for child in node.children:
            if child.is_named:
                yield from self._commands(child, depth + 1)
            elif child.type != "|":
                raise Opaque(f"it uses `{child.type}`")
            else:
                self._take(child, "operator")

    def _redirected(self, node: Node, depth: int) -> list[Pipeline]:
        """A redirection binds to the last simple command of what it stands behind."""
        body = node.child_by_field_name("body")
        if body is None:
            raise Opaque("it redirects without a command")
        pipelines = self._statement(body, depth + 1)
        last = pipelines[-1]
        command = last.commands[-1]
        for child in node.children:
            if child != body:
                command = self._with_redirect(command, child)
        return [*pipelines[:-1], replace(last, commands=(*last.commands[:-1], command))]

    def _command(self, node: Node) -> Command:
        command = Command(())
        for child in node.children:
            if child.type == "variable_assignment":
                given = "=".join(_assigned(self._take(child, "word")))
                command = replace(command, variables=(*command.variables, given))
            elif child.type in ("file_redirect", "herestring_redirect"):
                command = self._with_redirect(command, child)
            elif child.is_named:
                command = replace(
                    command, words=(*command.words, self._words.read(self._take(child, "word")))
                )
            else:
                raise Opaque(f"it uses `{child.type}`")
        if not command.words:
            raise Opaque("it redirects or assigns without a command")
        if _RESERVED.fullmatch(command.argv[0]):
            raise Opaque(f"`{command.argv[0]}` is a word of the shell itself")
        return command

    def _test(self, node: Node) -> Command:
        """`[ WORDS ]`: an ordinary command whose last word is `]`, whatever the grammar makes of it."""
        text = self._take(node, "word")
        if not re.match(r"\[\s", text) or not re.search(r"\s\]\Z", text):
            raise Opaque("it uses a test command")
        (pipeline, *more) = parse(
            f"test{text[1:-1]}", cwd=self._words.known["PWD"], home=self._words.known["HOME"]
        )
        (command, *others) = pipeline.commands
        if more or others or command.redirects or command.variables:
            raise Opaque("it uses a test command")
        return Command((Word("["), *command.words[1:], Word("]")))

    def _with_redirect(self, command: Command, node: Node) -> Command:
        """The grammar takes the arguments behind `> file` for further targets: they are arguments."""
        if node.type != "file_redirect":
            raise Opaque(f"it uses {_named(node.type)}")
        fd, op = -1, ""
        targets: list[Word] = []
        for child in node.children:
            if child.type == "file_descriptor":
                fd = _descriptor(self._take(child, "redirect"))
            elif child.is_named:
                targets.append(self._words.read(self._take(child, "word")))
            else:
                op = self._take(child, "redirect")
        if not targets or not targets[0].text:
            raise Opaque("it redirects to nothing")
        redirects = (*command.redirects, *_redirects(fd, op, targets[0]))
        return replace(command, words=(*command.words, *targets[1:]), redirects=redirects)


def _is_glued(source: bytes, at: int, last: str, kind: str) -> bool:
    """Whether what starts `at`, right behind a leaf, is one with it to a shell: `a''b`, `2>f`, `;&`."""
    if last != "word":
        return kind != "end" and last == "operator" and {source[at - 1], source[at]} <= set(b";&|<>")
    descriptor = source[at - 1 : at].isdigit() or source[at - 1 : at] == b"}"
    return kind == "word" or (descriptor and source[at : at + 1] in (b"<", b">"))


def _joiner(node: Node) -> str:
    if node.type not in _OPERATORS or node.type == "|":
        raise Opaque("it runs in the background" if node.type == "&" else f"it uses `{node.type}`")
    return ";" if node.type == "\n" else node.type


def _assigned(text: str, *, locale: bool = True) -> tuple[str, str]:
    """(name, value) of an assignment that changes nothing of what a program does."""
    found = variables.assignment(text)
    if found is None or not variables.harmless(*found) or (not locale and variables.is_locale(*found)):
        raise Opaque(f"it sets a variable that programs may obey ({text.partition('=')[0][:40]})")
    return found


def _redirects(fd: int, op: str, target: Word) -> tuple[Redirect, ...]:
    if target.pattern is not None:
        raise Opaque("it redirects to a pattern")
    if op == ">&" and target.text in ("1", "2") and fd in (-1, 1, 2):
        return (Redirect(1 if fd < 0 else fd, ">&", target),)
    if op == "<" and fd in (-1, 0):
        return (Redirect(0, "<", target),)
    if op in ("&>", "&>>"):
        return (Redirect(1, op[1:], target), Redirect(2, ">&", Word("1")))
    if op in _WRITE_OPS and fd in (-1, 1, 2):
        return (Redirect(1 if fd < 0 else fd, op.replace("|", ""), target),)
    raise Opaque(f"it uses the redirection `{op}`")


def _descriptor(text: str) -> int:
    """The grammar takes more for a number than a shell does: `-n2>f` among others."""
    if not re.fullmatch(r"\d{1,3}", text, re.ASCII):
        raise Opaque("it redirects in a way that is read differently by different shells")
    return int(text)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _named(kind: str) -> str:
    return "a " + kind.replace("_", " ")


# --- writing it anew -------------------------------------------------------------------------------


def render(pipelines: tuple[Pipeline, ...]) -> str:
    """The text that is run: our own quoting of the words that were judged."""
    text = ""
    for pipeline in pipelines:
        joiner = {"": "", ";": "; "}.get(pipeline.joiner, f" {pipeline.joiner} ")
        text += joiner + " | ".join(render_command(command) for command in pipeline.commands)
    return text


def render_command(command: Command) -> str:
    given = (one.partition("=") for one in command.variables)
    words = [f"{name}={shlex.quote(value) if value else ''}" for name, _, value in given]
    words += [shlex.quote(word.text) for word in command.words]
    return " ".join([*words, *map(_render_redirect, command.redirects)])


def _render_redirect(redirect: Redirect) -> str:
    fd = "" if redirect.fd == (0 if redirect.op == "<" else 1) else str(redirect.fd)
    target = redirect.target.text if redirect.op == ">&" else shlex.quote(redirect.target.text)
    space = "" if redirect.op == ">&" else " "
    return f"{fd}{redirect.op}{space}{target}"
