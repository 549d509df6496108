"""The command lines for programs: the protocol's schema, metrics, and the server for other assistants."""

from __future__ import annotations

from llmos.cli_parser import Parser, Verb


def _nothing(parser: Parser) -> None:
    return None


def _mcp(parser: Parser) -> None:
    parser.add_argument("--cwd", metavar="DIR", default="", help="the folder it works in (default: this one)")
    parser.add_argument(
        "--write", metavar="PATH", action="append", default=[], help="allow writing there too; repeatable"
    )
    parser.add_argument("--policy", metavar="FILE|SET", default="", help="further rules, such as: readonly")
    parser.add_argument(
        "--no-elicit",
        action="store_true",
        help="never ask through the assistant: questions wait in llmos inbox",
    )


VERBS: dict[str, Verb] = {
    "metrics": Verb(
        "the running daemon, for Prometheus", "llmos metrics > llmos.prom", _nothing, "cli_metrics"
    ),
    "mcp": Verb(
        "these tools for other assistants (MCP, on stdin and stdout)", "llmos mcp", _mcp, "cli_programs"
    ),
    "schema": Verb(
        "the socket's protocol, as OpenRPC", "llmos schema > llmos.openrpc.json", _nothing, "cli_programs"
    ),
}
