"""The command lines about the machine as a whole: what is wrong with it."""

from __future__ import annotations

from llmos.cli_parser import Parser, Verb, json_option

ABOUT = ("all", "cpu", "memory", "disk", "io", "processes", "services", "containers")


def _advise(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument(
        "about", nargs="?", choices=ABOUT, default="all", help="what to look at (default: all)"
    )


VERBS: dict[str, Verb] = {
    "advise": Verb(
        "what is wrong with this machine, how that is known, and what would mend it",
        "llmos advise memory",
        _advise,
        "cli_machine",
    ),
}
