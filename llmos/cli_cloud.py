"""The verbs route, resume, usage and backend: questions to the daemon, shown as tables or as its JSON."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Callable
from typing import Any

from llmos import cli_input
from llmos.cli_requests import connected, guarded, perform, print_json
from llmos.console import client, cloud, consent, screen
from llmos.errors import UsageError

JsonObject = dict[str, Any]

ROUTE_TIMEOUT_S = 900.0  # the local model may have to be loaded, and is asked


def route(options: argparse.Namespace) -> int:
    """`llmos route TEXT`: nothing leaves and nothing is carried out."""

    def work() -> int:
        text, data = cli_input.request_input(options)
        params: JsonObject = {"text": text, "cwd": cli_input.current_folder(), "id": client.new_id()}
        params |= cli_input.route_params(options)
        params["consent"] = "none" if consent.open_terminal() is None else "interactive"
        if data is not None:
            params["data_b64"] = base64.b64encode(data).decode("ascii")
        found = _ask("route", params, ROUTE_TIMEOUT_S)
        look = screen.look_of(sys.stdout)
        _show(found, options.json, lambda: cloud.route(found, look, full=options.explain))
        return 0

    return guarded(options, work)


def resume(options: argparse.Namespace) -> int:
    """`llmos resume [ID]`: go on after the last completed step; nothing runs twice unasked."""

    def work() -> int:
        if options.list:
            found = _ask("resume.list", {})
            _show(found, options.json, lambda: cloud.cut_off(found, screen.width(sys.stdout)))
            return 0
        if options.forget:
            found = _ask("resume.forget", {"of": options.of})
            _show(found, options.json, lambda: f"forgotten: {found['forgotten']}\n")
            return 0
        params = {"id": client.new_id(), "of": options.of, "consent": cli_input.consent_of(options)}
        return perform("resume", params, options)

    return guarded(options, work)


def usage(options: argparse.Namespace) -> int:
    def work() -> int:
        found = _ask("usage", {"days": min(options.days, 3660), "everybody": options.everybody})
        _show(found, options.json, lambda: cloud.usage(found, screen.width(sys.stdout)))
        return 0

    return guarded(options, work)


def backend(options: argparse.Namespace) -> int:
    def work() -> int:
        if options.action == "list":
            found = _ask("backend.list", {}, 90.0)
            _show(found, options.json, lambda: cloud.backends(found, screen.width(sys.stdout)))
            return 0
        if not options.name:
            step = f"For instance: llmos backend {options.action} NAME.  See: llmos backend list"
            raise UsageError(
                f"which backend is to be {options.action}ed?".replace("forgeted", "forgotten"), step
            )
        found = _ask(f"backend.{options.action}", {"name": options.name, "kind": options.kind})
        _show(found, options.json, lambda: cloud.changed(found))
        return 0

    return guarded(options, work)


def _ask(method: str, params: JsonObject, timeout_s: float = 30.0) -> JsonObject:
    with connected() as daemon:
        return daemon.call(method, params, timeout_s=timeout_s)


def _show(found: JsonObject, as_json: bool, text: Callable[[], str]) -> None:
    if as_json:
        print_json(found)
    else:
        screen.write(sys.stdout, text())


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "route": route,
    "resume": resume,
    "usage": usage,
    "backend": backend,
}
