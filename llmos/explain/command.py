"""`llmos explain`: a command line taken apart, each part with what it does and where that is written.

Which word is an option, a value or an argument is known from the policy's tables of programs, else from the
program's own documentation. It explains the words; what the command would change is the policy's answer,
beside it.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llmos.errors import UsageError
from llmos.explain import tables
from llmos.explain.pages import Page, man
from llmos.guard.grammar import Grammar, grammars

HelpOf = Callable[[tuple[str, ...]], str]  # a program (and subcommand) → its --help text, or ""
MAX_CHARS = 16_000

_PROGRAM = re.compile(r"[\w./+-]+")


@dataclass(frozen=True, slots=True)
class Part:
    """One word of the command line (or letter of a cluster)."""

    text: str
    kind: str  # program, subcommand, option, value, argument, operator, assignment
    about: str
    source: str = ""


def explain(text: str, help_of: HelpOf) -> list[Part]:
    """Every part of a command line in order. Raises UsageError when it cannot even be cut into words."""
    if not text.strip():
        raise UsageError(
            "there is no command to explain", "For instance: llmos explain -- tar -xzf a.tgz -C /tmp"
        )
    if len(text) > MAX_CHARS:
        raise UsageError(f"more than {MAX_CHARS} characters", "Explain a part of it.")
    parts: list[Part] = []
    redirected = False
    for command in _commands(_cut(text)):
        if isinstance(command, str):
            parts.append(Part(command, "operator", tables.OPERATORS[command]))
            redirected = command[-1] in "<>"
            continue
        if redirected:
            parts.append(Part(command.pop(0), "argument", "the file, or the text, of the redirection"))
        parts += _Reader(command, help_of).parts() if command else []
    return parts


def _cut(text: str) -> list[str]:
    """Words and operators, quotes removed; `2>`, `2>&1` and `&>` are one operator."""
    lexer = shlex.shlex(
        text.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars="|&;<>()"
    )
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise UsageError(f"not a complete command: {error}", "Mind the quotes.") from error
    out: list[str] = []
    while words:
        word = words.pop(0)
        if word == "2" and words and words[0] in (">", ">>", ">&"):
            word += words.pop(0)
        if word in (">&", "2>&") and words and words[0].isdigit():
            word += words.pop(0)
        out.append(word)
    return out


def _commands(words: Sequence[str]) -> Iterator[str | list[str]]:
    """Runs of words, and the operators between them; a file after a redirection stays with it."""
    run: list[str] = []
    for word in words:
        if word in tables.OPERATORS:
            if run:
                yield run
            run = []
            yield word
        else:
            run.append(word)
    if run:
        yield run


class _Reader:
    """One command's words, from the program on."""

    def __init__(self, words: Sequence[str], help_of: HelpOf) -> None:
        self._queue = list(words)
        self._help_of = help_of
        self._pages: tuple[Page, ...] = ()
        self._grammar: Grammar | None = None
        self._seen_argument = False
        self._in_place = False  # sed's -i: what is read is written, too
        self._name = ""

    def parts(self) -> list[Part]:
        """All of them, in order."""
        found: list[Part] = []
        while self._queue and re.match(r"[A-Za-z_]\w*\+?=", self._queue[0]):
            found.append(Part(self._queue.pop(0), "assignment", "a variable, for this command alone"))
        if not self._queue:
            return found
        name = self._queue.pop(0)
        found.append(self._program(name))
        found += self._subcommand(name.rsplit("/", 1)[-1])
        follows = name in tables.FOLLOW or (self._grammar is not None and self._grammar.follow)
        while self._queue:
            found += self._word(self._queue.pop(0))
            if follows and found[-1].kind == "argument" and _PROGRAM.fullmatch(found[-1].text):
                return [*found[:-1], *_Reader([found[-1].text, *self._queue], self._help_of).parts()]
        return found

    def _program(self, name: str) -> Part:
        base = self._name = name.rsplit("/", 1)[-1]
        self._grammar = grammars().get(base)
        if base in tables.BUILTINS:
            return Part(name, "program", tables.BUILTINS[base], "the shell")
        if shutil.which(name) is None and man(base) is None:
            return Part(name, "program", "no such program is installed here, and it has no manual page")
        self._pages = self._documents((base,))
        summary, source = self._first_summary()
        return Part(name, "program", tables.SOME.get(base) or summary, source)

    def _documents(self, words: tuple[str, ...]) -> tuple[Page, ...]:
        from llmos.explain.pages import from_help

        pages = [page for page in (man("-".join(words)),) if page]
        if not (pages and pages[0].options) and (text := self._help_of(words)):
            pages.append(from_help(f"{' '.join(words)} --help", text))
        return tuple(pages)

    def _first_summary(self) -> tuple[str, str]:
        return next(((page.summary, page.source) for page in self._pages if page.summary), ("", ""))

    def _subcommand(self, name: str) -> Iterator[Part]:
        """git's and docker's second word, after options of their own."""
        known = self._grammar.sub if self._grammar is not None else {}
        while known and self._queue and self._queue[0].startswith("-"):
            yield from self._word(self._queue.pop(0))
        word = self._queue[0] if self._queue else ""
        if not re.fullmatch(r"[a-z][a-z0-9-]*", word) or not (word in known or man(f"{name}-{word}")):
            return
        self._queue.pop(0)
        self._grammar = known.get(word)
        own = self._documents((name, word))
        self._pages = (*own, *self._pages)
        summary, source = self._first_summary() if own else ("", "")
        yield Part(word, "subcommand", summary or f"a command of {name}", source)

    # --- words ---

    def _word(self, word: str) -> list[Part]:
        if word == "--":
            rest, self._queue = self._queue, []
            end = Part(word, "option", "no options after this: what follows are arguments")
            return [end, *(self._argument(other) for other in rest)]
        if word.startswith("--"):
            return self._long(word)
        if word.startswith("-") and len(word) > 1:
            return self._short(word)
        if self._is_bundle(word):
            assert self._grammar is not None
            self._grammar = self._grammar.model_copy(update={"bundled": False})
            return self._cluster(word, dash="")
        return [self._argument(word)]

    def _is_bundle(self, word: str) -> bool:
        """tar's oldest style: `xzf`."""
        return self._grammar is not None and self._grammar.bundled and set(word) <= self._letters()

    def _letters(self) -> set[str]:
        assert self._grammar is not None
        return set(self._grammar.flags) | {name for name in self._grammar.values if len(name) == 1}

    def _long(self, word: str) -> list[Part]:
        option, equals, value = word.partition("=")
        parts = [self._option(option)]
        if equals:
            parts.append(Part(value, "value", f"the value of {option}"))
        elif self._takes_value(option) and self._queue:
            parts.append(Part(self._queue.pop(0), "value", f"the value of {option}"))
        return parts

    def _short(self, word: str) -> list[Part]:
        if re.fullmatch(r"-\d+", word) and not any(word in page.options for page in self._pages):
            about = _signal(word[1:]) if self._name == "kill" else f"the number {word[1:]}: how many"
            return [Part(word, "option", about)]
        if len(word) == 2 or self._is_whole(word):
            parts = [self._option(word)]
            if self._takes_value(word) and self._queue:
                parts.append(Part(self._queue.pop(0), "value", self._about_value(word)))
            return parts
        return self._cluster(word[1:], dash="-")

    def _is_whole(self, word: str) -> bool:
        """find's -name, openssl's -in: one option, and no cluster of letters."""
        grammar = self._grammar
        if grammar is not None and (word in grammar.exact or word in grammar.values or grammar.expression):
            return True
        known = any(word in page.options for page in self._pages)
        return known and not (grammar is not None and set(word[1:]) <= self._letters())

    def _cluster(self, letters: str, *, dash: str) -> list[Part]:
        parts: list[Part] = []
        for at, char in enumerate(letters):
            if (
                parts
                and letters[at:].isdigit()
                and not any(f"-{char}" in page.options for page in self._pages)
            ):
                return [*parts, Part(letters[at:], "value", self._about_value(parts[-1].text))]  # make -j4
            option = f"-{char}"
            part = self._option(option)
            parts.append(Part(option if dash else char, part.kind, part.about, part.source))
            if self._takes_value(option):
                rest = letters[at + 1 :] if dash else ""
                if rest or self._queue:
                    parts.append(Part(rest or self._queue.pop(0), "value", self._about_value(option)))
                if dash:
                    break
        return parts

    def _option(self, option: str) -> Part:
        self._in_place = self._in_place or (self._name == "sed" and option in ("-i", "--in-place"))
        for page in self._pages:
            if about := page.about(option):
                return Part(option, "option", about, page.source)
        names = option.lstrip("-")
        grammar = self._grammar
        listed = grammar is not None and (
            names in grammar.flags
            or names in grammar.long
            or names in grammar.values
            or names in grammar.optional
        )
        return Part(
            option, "option", "" if listed else "not documented here: it may do anything the program can"
        )

    def _takes_value(self, option: str) -> bool:
        names = option.lstrip("-")
        if self._grammar is not None and (names in self._grammar.values or option in self._grammar.values):
            return True
        if self._grammar is not None and option in self._grammar.expression:
            return self._grammar.expression[option] not in ("", "flag", "none")
        if self._grammar is not None and (names in self._grammar.flags or names in self._grammar.long):
            return False
        return any(page.takes_value(option) for page in self._pages)

    def _about_value(self, option: str) -> str:
        values = self._grammar.values if self._grammar is not None else {}
        kind = values.get(option.lstrip("-")) or values.get(option) or ""
        return tables.VALUES.get(kind, f"the value of {option}")

    def _argument(self, word: str) -> Part:
        first, self._seen_argument = not self._seen_argument, True
        if first and re.fullmatch(r"[a-z][a-z-]+", word):
            for page in self._pages:
                if about := page.about(word):
                    return Part(word, "subcommand", about, page.source)
        grammar = self._grammar
        kinds = grammar.args if grammar is not None else ()
        if len(kinds) > 1 and kinds[0].endswith("*") and self._left() < len(kinds) - 1:
            kinds = kinds[1:]  # cp's last argument is where it goes
        kind = kinds[0].rstrip("*+?") if kinds else ""
        if grammar is not None and len(kinds) > 1:
            kinds = kinds if kinds[0].endswith("*") else kinds[1:]
            self._grammar = grammar.model_copy(update={"args": kinds})
        kind = "move" if self._name == "mv" and kind == "delete" else kind
        about = tables.VALUES.get("replace" if self._in_place and kind == "read" else kind) or self._plain(
            word, first
        )
        if re.search(r"[*?\[]", word) and kind not in ("sed", "awk", "jq"):
            about += "; a pattern for file names, unless it was quoted"
        return Part(word, "argument", about)

    def _left(self) -> int:
        """Arguments that are still to come, options with separate values counted as one too many."""
        return sum(not other.startswith("-") for other in self._queue)

    def _plain(self, word: str, first: bool) -> str:
        """What an argument is by the way it is written, where no table says it."""
        if self._name == "dd" and (found := re.fullmatch(r"(\w+)=.*", word)):
            return tables.DD.get(found[1], "a setting of dd")
        if first and self._name in tables.FIRST:
            return tables.FIRST[self._name]
        return next((about for pattern, about in tables.WRITTEN if pattern.fullmatch(word)), "an argument")


def _signal(number: str) -> str:
    try:
        return f"the signal {signal.Signals(int(number)).name}"
    except ValueError:
        return f"signal number {number}"
