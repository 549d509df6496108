"""`llmos tune personal`: what your own requests came to mean, kept for you alone and shown to the model.

    llmos tune personal on                 from now on, calls that you approve or edit are remembered
    llmos tune personal add "the usual backup" file.archive --args '{"path": "docs", "to": "docs.tgz"}'
    llmos tune personal list
    llmos tune personal forget ID          or --all
    llmos tune personal off                nothing more is kept or used; what is kept stays

The daemon keeps it in a private file of its state, apart for each user. Changes that you undo, and calls that
you refuse, are no examples; what looks like a secret is not kept. Every proposal is judged and asked about.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llmos import cli_requests
from llmos.console import safetext, screen
from llmos.errors import UsageError

JsonObject = dict[str, Any]
TIMEOUT_S = 30.0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="llmos tune personal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="on|off|list|add|forget")
    for name, about in (
        ("on", "remember, and use what is remembered"),
        ("off", "neither"),
        ("list", "show it"),
    ):
        _json(actions.add_parser(name, help=about))
    add = actions.add_parser("add", help="a phrase and the call that you mean by it")
    add.add_argument("text")
    add.add_argument("tool")
    add.add_argument("--args", default="{}", metavar="JSON")
    _json(add)
    forget = actions.add_parser("forget", help="one of them, or all")
    which = forget.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", default="")
    which.add_argument("--all", action="store_true")
    _json(forget)
    return parser.parse_args(argv)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def main(argv: Sequence[str] | None = None) -> int:
    given = _options(argv)
    with cli_requests.connected() as daemon:

        def call(method: str, **params: Any) -> JsonObject:
            return daemon.call(f"personal.{method}", params, timeout_s=TIMEOUT_S)

        result, text = _ACTIONS[given.action](given, call)
    if given.json:
        cli_requests.print_json(result)
    else:
        screen.write(sys.stdout, text + "\n")
    return 0


Told = tuple[JsonObject, str]
Call = Callable[..., JsonObject]


def _switch(given: argparse.Namespace, call: Call) -> Told:
    result = call("switch", on=given.action == "on")
    kept = len(call("list")["pairs"])
    state = "on: calls that you approve or edit are remembered" if result["on"] else "off"
    return result, f"{state}; {kept} {'phrase is' if kept == 1 else 'phrases are'} kept"


def _list(given: argparse.Namespace, call: Call) -> Told:
    result = call("list")
    lines = [_line(pair) for pair in result["pairs"]] or ["nothing is remembered"]
    return result, "\n".join([f"{'on' if result['on'] else 'off'}", *lines])


def _line(pair: JsonObject) -> str:
    calls = "; then ".join(
        f"{call['tool']} {json.dumps(call['args'], ensure_ascii=False)}" for call in pair["calls"]
    )
    how = "undone, not used" if pair["undone"] else pair["how"]
    return f"{pair['id']}  {safetext.one_line(pair['say'])} → {safetext.one_line(calls)}  ({how})"


def _add(given: argparse.Namespace, call: Call) -> Told:
    try:
        args = json.loads(given.args)
    except ValueError as error:
        raise UsageError(
            f"--args is not JSON: {error}", 'For instance: --args \'{"path": "docs"}\''
        ) from None
    if not isinstance(args, dict):
        raise UsageError("--args is no JSON object", 'For instance: --args \'{"path": "docs"}\'')
    result = call("add", text=given.text, tool=given.tool, args=args)
    return result, _line(result["added"])


def _forget(given: argparse.Namespace, call: Call) -> Told:
    result = call("forget", id=given.id or "", everything=given.all)
    count = result["forgotten"]
    return result, f"{count} {'phrase is' if count == 1 else 'phrases are'} forgotten"


_ACTIONS: dict[str, Callable[[argparse.Namespace, Call], Told]] = {
    "on": _switch, "off": _switch, "list": _list, "add": _add, "forget": _forget,
}  # fmt: skip
