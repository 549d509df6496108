"""The command lines of the cloud half: where a request is thought about, what it cost, and serving others."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmos.cli_parser import Parser, Verb, count, json_option, seconds

_BACKEND_HELP = """example:
  llmos backend list                     what is configured, with keys, prices and what you allowed
  llmos backend allow lab --kind call    requests of that kind may go there unasked (no --kind: all)
  llmos backend forget lab               ask me again

kinds: call, question, document, script, steps, translate"""


def routing(parser: Parser) -> None:
    """Where a request may be thought about."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="on this machine only; nothing leaves")
    where.add_argument("--cloud", action="store_true", help="by a cloud backend; you agree that it leaves")
    where.add_argument("--backend", metavar="NAME", default="", help="by this backend; you agree likewise")


def _route(parser: Parser) -> None:
    json_option(parser)
    routing(parser)
    parser.add_argument("--explain", action="store_true", help="with every fact that counted")
    parser.add_argument("--no-stdin", action="store_true", help="do not read piped stdin as data")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="the request; nothing of it is carried out")


def _resume(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--timeout", metavar="SECONDS", type=seconds, default=0.0, help="give up after that")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--list", action="store_true", help="what there is to go on with, and how far it came"
    )
    action.add_argument("--forget", action="store_true", help="do not go on with ID")
    parser.add_argument("of", nargs="?", metavar="ID", default="", help="the newest when left out")


def _usage(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("-n", "--days", metavar="DAYS", type=count, default=30, help="how far back (30)")
    parser.add_argument("--everybody", action="store_true", help="of all users (root only)")


def _backend(parser: Parser) -> None:
    json_option(parser)
    parser.add_argument("action", nargs="?", default="list", choices=("list", "allow", "forget"))
    parser.add_argument("name", nargs="?", metavar="NAME", default="", help="allow, forget: the backend")
    parser.add_argument("--kind", metavar="KIND", default="", help="only this kind of request")
    parser.epilog = _BACKEND_HELP


def _port(text: str) -> int:
    if not 0 <= (value := int(text)) <= 65535:
        raise argparse.ArgumentTypeError("between 0 and 65535, please")
    return value


def _replicas(text: str) -> tuple[int, int]:
    """N, or MIN:MAX."""
    least, _, most = text.partition(":")
    found = int(least), int(most or least)
    if not 0 <= found[0] <= found[1] or found[1] < 1:
        raise argparse.ArgumentTypeError("a number from 1 up, or the least and the most: 1:4")
    return found


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < 1000:
        raise argparse.ArgumentTypeError("above 0, please")
    return value


def _serve(parser: Parser) -> None:
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="where to listen (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8080, metavar="PORT", help="0: any that is free (8080)")
    parser.add_argument("--model", default="", metavar="NAME|PATH", help="(the one in use)")
    parser.add_argument("--name", default="", help="what clients call the model (its own name)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="who may ask: NAME KEY a line, mode 600")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument("--plain", action="store_true", help="no TLS for other machines: a proxy does it")
    parser.add_argument("--per-minute", type=count, default=0, metavar="N", help="requests a key may make")
    parser.add_argument("--max-waiting", type=count, default=16, metavar="N", help="more are refused (16)")
    parser.add_argument("--context", type=count, default=4096, metavar="TOKENS", help="window (4096)")
    parser.add_argument("--threads", type=count, default=0, metavar="N", help="processors (all it may use)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it computes (cpu)")
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="HOST:PORT",
        help="several engines, on the Ray cluster that this machine belongs to, or on one of its own",
    )  # fmt: skip
    parser.add_argument(
        "--replicas", type=_replicas, default=None, metavar="N|MIN:MAX", help="with --ray: engines (1)"
    )
    parser.add_argument(
        "--target", type=_positive, default=1.5, metavar="X",
        help="with --ray: requests for each engine, above which more are started (1.5)",
    )  # fmt: skip


VERBS: dict[str, Verb] = {
    "route": Verb(
        "where a request would be thought about, and why",
        'llmos route --explain "tidy this up"',
        _route,
        "cli_cloud",
    ),
    "resume": Verb(
        "go on with a request of several steps that the daemon was stopped over",
        "llmos resume --list",
        _resume,
        "cli_cloud",
    ),
    "usage": Verb("what cloud backends cost so far", "llmos usage --days 7", _usage, "cli_cloud"),
    "serve": Verb(
        "this machine's model for other programs, over OpenAI's HTTP API",
        "llmos serve --model tiny --port 8080",
        _serve,
        "cli_serve",
    ),
    "backend": Verb("cloud backends: list, allow, forget", "llmos backend list", _backend, "cli_cloud"),
}
