"""The command lines about the machine as a whole: what is wrong with it, which goals it keeps."""

from __future__ import annotations

from llmos.cli_parser import Parser, Verb, json_option, seconds

ABOUT = ("all", "cpu", "memory", "disk", "io", "processes", "services", "containers")


def _advise(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument(
        "about", nargs="?", choices=ABOUT, default="all", help="what to look at (default: all)"
    )


def _goals(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="remove: do not ask")
    parser.add_argument("words", nargs="*", metavar="ACTION", help="list; or remove ID")


def _top(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("--once", action="store_true", help="look once, print, and end")
    parser.add_argument("--every", metavar="SECONDS", type=seconds, default=1.0, help="how often (default 1)")


VERBS: dict[str, Verb] = {
    "advise": Verb(
        "what is wrong with this machine, how that is known, and what would mend it",
        "llmos advise memory",
        _advise,
        "cli_machine",
    ),
    "top": Verb(
        "CPU, memory, pressure and disks as they go, the goals, and what runs",
        "llmos top --every 2",
        _top,
        "cli_machine",
    ),
    "goals": Verb(
        "the standing goals: who is protected, who yields, how it stands",
        "llmos goals remove g1a2b3c",
        _goals,
        "cli_machine",
    ),
}
