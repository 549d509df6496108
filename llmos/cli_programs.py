"""For programs: `llmos schema` (the protocol), `llmos mcp` (these tools for other assistants)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from llmos import cli_input, cli_requests
from llmos.console import screen
from llmos.errors import UsageError


def schema(options: argparse.Namespace) -> int:
    """Print the OpenRPC document; no daemon is needed."""
    from llmos.daemon import schema as protocol

    screen.write(sys.stdout, json.dumps(protocol.document(), indent=2, ensure_ascii=False) + "\n")
    return 0


def mcp(options: argparse.Namespace) -> int:
    """Serve one assistant on stdin and stdout; a daemon is started where none runs."""
    try:
        from llmos import mcp_server
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the MCP SDK is not installed ({error.name} is missing)", "Run: pip install 'llmos[mcp]'"
        ) from error
    cli_requests.connected().close()
    cwd = str(Path(options.cwd).expanduser().absolute()) if options.cwd else cli_input.current_folder()
    write = tuple(str(Path(path).expanduser().absolute()) for path in options.write)
    policy = cli_input.policy_text(options.policy) if options.policy else ""
    mcp_server.run(cwd, policy=policy, write=write, elicit=not options.no_elicit)
    return 0


VERBS = {"schema": schema, "mcp": mcp}
