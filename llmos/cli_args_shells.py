"""The command lines of what lives beside a shell: its hook and completion, explanations of commands."""

from __future__ import annotations

from llmos.cli_parser import Parser, Verb, json_option


def _init(parser: Parser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that is to read it")


def _nothing(parser: Parser) -> None:
    """No options."""


def _complete(parser: Parser) -> None:
    kinds = ("tools", "inbox", "watch", "schedule", "undo", "requests")
    parser.add_argument("kind", choices=kinds, help="what to list")


def _explain(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="after --: one text, or its words")


def _why(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("--code", metavar="CODE", type=int, default=1, help="its exit code (default 1)")
    parser.add_argument(
        "--stderr", metavar="FILE", default="", help="what it said, from a file instead of stdin"
    )
    parser.add_argument("--no-stdin", action="store_true", help="do not read piped stdin as what it said")
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="after --: the command that failed")


VERBS: dict[str, Verb] = {
    "init": Verb(
        "a hook for your own bash or zsh: a key, not-found requests, why, completion (fish: completion)",
        """llmos init bash    # in ~/.bashrc: eval "$(llmos init bash)\"""",
        _init,
        "cli_hooks",
    ),
    "explain": Verb(
        "a command, part by part, from its documentation",
        "llmos explain -- tar -xzf a.tgz",
        _explain,
        "cli_explain",
    ),
    "why": Verb("why a command failed", "llmos why --code 1 -- cat /etc/shadow", _why, "cli_explain"),
    "man": Verb(
        "the manual page, in roff; what --help says, in one place",
        "llmos man | man -l -",
        _nothing,
        "cli_hooks",
    ),
    "complete": Verb(
        "names that the shells' completion asks for",
        "llmos complete tools",
        _complete,
        "cli_hooks",
        hidden=True,
    ),
}
