"""`llmos` without words: the interactive shell over the same requests as the one-shot commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from llmos import cli_input, cli_requests
from llmos.console import client, consent, screen, welcome
from llmos.errors import UsageError

JsonObject = dict[str, Any]
BACKGROUND_TIMEOUT_S = 86_400.0


class _Actions:
    """Each request opens its own connection, so that a restarted daemon goes unnoticed."""

    def __init__(self) -> None:
        self._session = client.new_id()
        self._options = argparse.Namespace(
            json=False, yes=False, plan=False, write=[], policy="", timeout=0.0
        )

    def request(self, method: str, params: JsonObject) -> None:
        common = cli_input.common_params(self._options, None)
        if method in ("plan", "translate"):
            common["consent"] = "none"
        if method == "translate":
            common = {"id": common["id"], "cwd": common["cwd"], "consent": "none"}
        elif method in ("undo", "inbox.approve"):
            common = {"id": common["id"], "consent": common["consent"]}
        elif method != "call":
            common["session"] = self._session
        show = {"plan": cli_requests.show_plan, "translate": cli_requests.show_command}.get(method)
        cli_requests.perform(method, {**common, **params}, self._options, show=show)

    def unattended(self, asked: JsonObject) -> JsonObject:
        """For the background: what needs a word waits in the inbox."""
        params = cli_input.common_params(self._options, None) | {"consent": "none"} | asked
        with cli_requests.connected() as daemon:
            return daemon.call("inbox.ask", {**params, "origin": "shell"}, timeout_s=BACKGROUND_TIMEOUT_S)

    def question(
        self, method: str, params: JsonObject, say: Callable[[str], None] = screen.say
    ) -> JsonObject:
        with cli_requests.connected(say=say) as daemon:
            return daemon.call(method, params)


def shell() -> int:
    """Run the shell until the person leaves; returns 0. Without an answer channel it is a usage error."""
    terminal = consent.open_terminal()
    if terminal is None:
        raise UsageError("the shell needs a terminal", 'For a script: llmos --json "TEXT"')
    with welcome.shown(terminal):
        from llmos.console.app import Shell

        made = Shell(_Actions())
    return made.run()
