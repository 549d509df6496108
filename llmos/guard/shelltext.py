"""Shell text as pipelines of plain words, or the reason why it is not that.

tree-sitter-bash gives the structure; every word is then read again here, character by character, and
only what means the same in every shell is taken: literals, quotes, backslashes, `~`, $HOME and $PWD,
and glob patterns. The rest raises `Opaque`. What is understood is written anew by `render`, so a parser
that disagrees with the shell changes what is run, never what was judged.

What it does not do: say what a command does. That is `programs`' business.
"""

from __future__ import annotations

import functools
import glob
import pwd
import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # the sandbox's
MAX_CHARS = 10_000
MAX_COMMANDS = 64
MAX_DEPTH = 40
_OPERATORS = frozenset({"&&", "||", ";", "\n", "|"})
_WRITE_OPS = frozenset({">", ">>", ">|", "&>", "&>>"})
# Not blanks to Unicode, and yet nothing to be seen; then quotes, dashes, slashes and operators of elsewhere.
_LOOKALIKE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffc\U000e0100-\U000e01ef"
    "\u00b4\u02b9-\u02bf\u02c8\u02ca\u02cb\u2010-\u2015\u2018-\u201f\u2024\u2032-\u2037\u2039\u203a\u2043\u2044"
    "\u2212\u2215-\u2217\u2223\u2236\u223c\u2758\u27cb\u29f5\u29f8\u01c0\u02dc\u037e\u3003\ufe58]"
)
# Space-like, invisible and direction-changing characters make text look like other text.
_HIDDEN_CATEGORIES = {"Cc": "a control character", "Cf": "an invisible character", "Cs": "half a character",
                      "Co": "a private-use character", "Cn": "an unassigned character",
                      "Zl": "a line separator", "Zp": "a paragraph separator"}  # fmt: skip
_GLOB = frozenset("*?[")
# `{` and `}` alone are literal; braces with a comma or a range are not.
_SPECIAL = frozenset("$`!;&|<>()\"'\\\n")
# A Latin letter beside a Greek, Cyrillic, Armenian or Cherokee one: `ѕh`. Whole words in them are honest.
_MIXED = re.compile("[A-Za-z][\u0370-\u058f\u13a0-\u13ff]|[\u0370-\u058f\u13a0-\u13ff][A-Za-z]")
# A backslash hides the line's end, everywhere but in single quotes: not worth telling apart.
_CONTINUED = re.compile(r"\\\n")
# Words that mean something to a shell where a program is named; `time` is a program as well.
_RESERVED = re.compile(
    r"if|then|else|elif|fi|case|esac|for|select|while|until|do|done|in|function|coproc|[{}!]|\[\[|\]\]|[%-].*"
)
# In brackets quotes, classes and `^` mean different things to different readers of patterns.
_BRACKET = re.compile(r"\[!?[\w.,:+-]+\]", re.ASCII)
# `a=~` and `a=b:~` are expanded like assignments, wherever they stand.
_TILDE = re.compile(r"[A-Za-z_]\w*\+?=.*~|.*[=:]~", re.DOTALL)
_STACKED = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff]{3}")  # marks that run into other lines
_LOCALE = re.compile(r"(?:LC_[A-Z]+|LANG|LANGUAGE)=[A-Za-z0-9_.@-]*\Z")


class Opaque(Exception):
    """The text is not plain words; the message says what in it is not."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quote removal. `pattern` is set when it globs: as for `glob`, literals escaped."""

    text: str
    pattern: str | None = None


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
    locale: tuple[str, ...] = ()  # LC_ALL=C and the like in front

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
    reader = _Reader(cwd, home)
    pipelines = tuple(reader.statements(root, 0))
    reader.check_all_was_read(text.encode())
    if not pipelines:
        raise Opaque("there is no command in it")
    if sum(len(pipeline.commands) for pipeline in pipelines) > MAX_COMMANDS:
        raise Opaque(f"it has more than {MAX_COMMANDS} commands")
    return (replace(pipelines[0], joiner=""), *pipelines[1:])


def check_characters(text: str) -> None:
    """Raise Opaque for text that is too long or holds characters a person cannot see or tell apart."""
    if len(text) > MAX_CHARS:
        raise Opaque(f"it is longer than {MAX_CHARS} characters")
    if _MIXED.search(text):
        raise Opaque("it mixes letters of different scripts in one word")
    if _STACKED.search(text):
        raise Opaque("it stacks marks on a letter")
    for char in text:
        if char in " \t\n" or " " < char <= "~":
            continue
        if what := _hidden(char):
            raise Opaque(f"it holds {what} (U+{ord(char):04X})")


def _hidden(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Zs":
        return "a space that is not a plain space"
    if what := _HIDDEN_CATEGORIES.get(category):
        return what
    if _LOOKALIKE.match(char):
        return "a look-alike of a plain character"
    # NFKC folds full-width and mathematical look-alikes: whoever sees `ｒｍ` or `；` reads `rm` or `;`.
    folded = unicodedata.normalize("NFKC", char)
    return "a look-alike of a plain character" if folded != char and folded.isascii() else ""


@functools.cache
def _parser() -> Parser:
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


class _Reader:
    """Walks the syntax tree; knows the folder and home that `~`, $PWD and $HOME stand for."""

    def __init__(self, cwd: str, home: str) -> None:
        self._known = {"HOME": home, "PWD": cwd, "PATH": SAFE_PATH} | _user_of(home)
        self._home = home
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
            for number, pipeline in enumerate(self._statement(child, depth + 1)):
                yield replace(pipeline, joiner=joiner) if number == 0 else pipeline

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
                command = replace(command, locale=(*command.locale, _locale(self._take(child, "word"))))
            elif child.type in ("file_redirect", "herestring_redirect"):
                command = self._with_redirect(command, child)
            elif child.is_named:
                command = replace(command, words=(*command.words, self.word(self._take(child, "word"))))
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
        (pipeline, *more) = parse(f"test{text[1:-1]}", cwd=self._known["PWD"], home=self._home)
        (command, *others) = pipeline.commands
        if more or others or command.redirects or command.locale:
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
                targets.append(self.word(self._take(child, "word")))
            else:
                op = self._take(child, "redirect")
        if not targets or not targets[0].text:
            raise Opaque("it redirects to nothing")
        redirects = (*command.redirects, *_redirects(fd, op, targets[0]))
        return replace(command, words=(*command.words, *targets[1:]), redirects=redirects)

    # --- words ---

    def word(self, raw: str) -> Word:
        """Read one word's source; raises Opaque when it is more than literals, quotes and globs."""
        text: list[str] = []
        pattern: list[str] = []
        globs = False
        for part, quoted in self._whole(raw):
            text.append(part)
            wild = not quoted and bool(_GLOB & set(part))
            pattern.append(part if wild else glob.escape(part))
            globs = globs or wild
        return Word("".join(text), "".join(pattern) if globs else None)

    def _whole(self, raw: str) -> list[tuple[str, bool]]:
        """The pieces of a word. The grammar lets a few words end inside their quotes."""
        try:
            return list(self._parts(raw))
        except (IndexError, ValueError) as error:
            raise Opaque("it is not a complete shell command") from error

    def _parts(self, raw: str) -> Iterator[tuple[str, bool]]:
        """(text, quoted) pieces of a word."""
        at = 0
        if raw == "~" or raw.startswith("~/"):
            yield self._home, True
            at = 1
        elif raw.startswith("~"):
            raise Opaque("it names another user's home")
        if "[" in _unquoted(_BRACKET.sub("", raw)) and "]" in raw:
            raise Opaque("it uses a pattern with brackets that is read differently by different shells")
        if _TILDE.match(_unquoted(raw)):
            raise Opaque("it expands a `~` inside a word")
        if re.search(r"\{.*(?:,|\.\.).*\}", _unquoted(raw), re.DOTALL):
            raise Opaque("it uses a brace expansion")
        while at < len(raw):
            part, quoted, at = self._part(raw, at)
            yield part, quoted

    def _part(self, raw: str, at: int) -> tuple[str, bool, int]:
        char = raw[at]
        if char == "'":
            end = raw.index("'", at + 1)
            return raw[at + 1 : end], True, end + 1
        if char == '"':
            return self._double(raw, at + 1)
        if char == "\\":
            if at + 1 >= len(raw) or raw[at + 1] == "\n":
                raise Opaque("it continues over a line's end")
            return raw[at + 1], True, at + 2
        if char == "$":
            value, at = self._variable(raw, at)
            return value, True, at
        if char.isspace():
            raise Opaque("it joins words in a way that is read differently by different shells")
        if char in _SPECIAL and char != "!":
            raise Opaque(f"it uses `{char}` inside a word")
        return char, False, at + 1

    def _double(self, raw: str, at: int) -> tuple[str, bool, int]:
        """The text of a double-quoted string that starts at `at`."""
        text: list[str] = []
        while raw[at] != '"':
            if raw[at] == "\\" and raw[at + 1] in '"\\$`':
                text.append(raw[at + 1])
                at += 2
            elif raw[at] == "\\" and raw[at + 1] == "\n":
                raise Opaque("it continues over a line's end")
            elif raw[at] == "$" and (raw[at + 1].isalnum() or raw[at + 1] in "_{(*@#?$!-"):
                value, at = self._variable(raw, at)
                text.append(value)
            elif raw[at] == "`":
                raise Opaque("it substitutes a command's output")
            else:
                text.append(raw[at])
                at += 1
        return "".join(text), True, at + 1

    def _variable(self, raw: str, at: int) -> tuple[str, int]:
        match = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII).match(raw, at)
        name = (match[1] or match[2]) if match else ""
        if match is None or name not in self._known:
            what = f"the variable ${name}" if name else "a `$` expansion"
            raise Opaque(f"it depends on {what}")
        return self._known[name], match.end()


def _is_glued(source: bytes, at: int, last: str, kind: str) -> bool:
    """Whether what starts `at`, right behind a leaf, is one with it to a shell: `a''b`, `2>f`, `;&`."""
    if last != "word":
        return kind != "end" and last == "operator" and {source[at - 1], source[at]} <= set(b";&|<>")
    descriptor = source[at - 1 : at].isdigit() or source[at - 1 : at] == b"}"
    return kind == "word" or (descriptor and source[at : at + 1] in (b"<", b">"))


def _user_of(home: str) -> dict[str, str]:
    """$USER and $LOGNAME as the sandbox sets them: of whoever owns the home."""
    try:
        name = pwd.getpwuid(Path(home).stat().st_uid).pw_name
    except (OSError, KeyError):
        return {}
    return {"USER": name, "LOGNAME": name} if re.fullmatch(r"[\w.-]+", name) else {}


def _joiner(node: Node) -> str:
    if node.type not in _OPERATORS or node.type == "|":
        raise Opaque("it runs in the background" if node.type == "&" else f"it uses `{node.type}`")
    return ";" if node.type == "\n" else node.type


def _locale(text: str) -> str:
    if not _LOCALE.match(text):
        raise Opaque("it sets a variable for a program")
    return text


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


def _unquoted(raw: str) -> str:
    return re.sub(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", "", raw, flags=re.DOTALL)


# --- writing it anew -------------------------------------------------------------------------------


def render(pipelines: tuple[Pipeline, ...]) -> str:
    """The text that is run: our own quoting of the words that were judged."""
    text = ""
    for pipeline in pipelines:
        joiner = {"": "", ";": "; "}.get(pipeline.joiner, f" {pipeline.joiner} ")
        text += joiner + " | ".join(render_command(command) for command in pipeline.commands)
    return text


def render_command(command: Command) -> str:
    words = [*command.locale, *(shlex.quote(word.text) for word in command.words)]
    return " ".join([*words, *map(_render_redirect, command.redirects)])


def _render_redirect(redirect: Redirect) -> str:
    fd = "" if redirect.fd == (0 if redirect.op == "<" else 1) else str(redirect.fd)
    target = redirect.target.text if redirect.op == ">&" else shlex.quote(redirect.target.text)
    space = "" if redirect.op == ">&" else " "
    return f"{fd}{redirect.op}{space}{target}"
