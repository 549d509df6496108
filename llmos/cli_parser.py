"""What every verb's command line is made of: the parser, a verb's entry, the options that many share.

The parser is argparse whose errors are sentences with a suggestion. Nothing here knows which verbs there are.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from llmos.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UsageErrors with a suggestion, instead of an exit from within."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def format_help(self) -> str:
        """In the person's language. The parser is done with: its texts are replaced."""
        from llmos.console.words import tr

        for group in (self._positionals, self._optionals):
            group.title = tr(group.title or "")
        for action in self._actions:
            if action.help and action.help != argparse.SUPPRESS:
                action.help = tr(action.help)
        summary = tr((self.description or "").removesuffix("."))
        self.description = f"{summary}。" if not summary.isascii() else self.description
        self.epilog = (self.epilog or "").replace("example:", tr("example:"), 1)
        return super().format_help().replace("usage: ", tr("usage: "), 1)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", f"See: {self.prog} --help")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse options and positionals in any order; raises UsageError with what was meant, perhaps."""
        found, extra = self.parse_known_intermixed_args(list(words))
        if extra:
            self._refuse(extra, words)
        return found

    def _refuse(self, extra: Sequence[str], words: Sequence[str]) -> NoReturn:
        import difflib

        flag = next((word for word in extra if word.startswith("-")), "")
        known = {option.lstrip("-"): option for option in self._option_string_actions}  # every one has dashes
        near = difflib.get_close_matches(flag.split("=")[0].lstrip("-"), list(known), 1, 0.6)
        if near:
            raise UsageError(f"{self.prog} knows no {flag}", f"Did you mean {known[near[0]]}?")
        if flag:
            step = f"See: {self.prog} --help.  Text that starts with a dash goes after --"
            raise UsageError(f"{self.prog} knows no {flag}", step)
        sentence = " ".join([self.prog.removeprefix("llmos "), *words])
        raise UsageError(
            f"{self.prog} does not take {shlex.join(extra)}",
            f"To ask it in plain words: {in_quotes(sentence)}",
        )


class Verb(NamedTuple):
    summary: str
    example: str
    build: Callable[[Parser], None]
    module: str = ""  # where its function stands in a table VERBS; empty: cli_requests or cli_service
    hidden: bool = False  # for programs: completion does not offer it


def in_quotes(sentence: str) -> str:
    return f'llmos "{sentence}"' if '"' not in sentence else f"llmos {shlex.quote(sentence)}"


def json_option(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on stdout")


def grants(parser: Parser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="approve what the policy asks about")
    parser.add_argument(
        "--write", metavar="PATH", action="append", default=[], help="allow writing there too; repeatable"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=0.0, help="cancel the request after that long"
    )
    parser.add_argument("--no-stdin", action="store_true", help="do not read piped stdin as data")
    parser.add_argument(
        "--policy", metavar="FILE|SET", default="", help="further rules for this request: ask and deny only"
    )


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError("between 0 and 86400 seconds, please")
    return value


def count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError("between 1 and 100000, please")
    return value
