"""The socket's methods for automation: pin calls that a person reviews, and run them while their pins hold.

What is pinned is judged, asked about and run like any other call; a pin only adds reasons not to.
"""

from __future__ import annotations

import json

from pydantic import Field

from llmos.daemon import pinning
from llmos.daemon.broker import Broker
from llmos.daemon.connection import Connection, Method
from llmos.daemon.methods import Methods, RequestParams, parsed
from llmos.errors import UsageError
from llmos.messages import JsonObject, Pinned, ToolCall

MAX_CALLS = 100


class PinParams(RequestParams):
    """Words, or typed calls."""

    text: str = ""
    calls: tuple[ToolCall, ...] = Field(default=(), max_length=MAX_CALLS)
    unchanged: tuple[str, ...] = ()  # files whose content it depends on


class ReplayParams(RequestParams):
    calls: tuple[Pinned, ...] = Field(min_length=1, max_length=MAX_CALLS)


class Automating:
    def __init__(self, broker: Broker, methods: Methods) -> None:
        self._broker, self._methods = broker, methods

    def table(self) -> dict[str, Method]:
        return {"pin": self.pin, "replay": self.replay}

    async def pin(self, params: JsonObject, client: Connection) -> JsonObject:
        """The exact calls of a request with what they depend on; nothing runs."""
        given = parsed(PinParams, params)
        if bool(given.text) == bool(given.calls):
            raise UsageError(
                "give either `text` or `calls`", 'For instance: {"text": "list the files", "cwd": "/"}'
            )
        session = await self._methods.session(given, given.text, given.calls, client)
        try:
            pinned = await session.pins(given.unchanged)
        finally:
            self._broker.release(session)
        return {"calls": pinning.as_json(pinned)}

    async def replay(self, params: JsonObject, client: Connection) -> JsonObject:
        """Run pinned calls as one request, unless something they depend on has changed."""
        given = parsed(ReplayParams, params)
        calls = tuple(ToolCall(tool=call.tool, args=call.args) for call in given.calls)
        words = "; ".join(f"{call.tool} {json.dumps(call.args, ensure_ascii=False)}" for call in calls)
        pins = tuple(call.pin for call in given.calls)
        session = await self._methods.session(given, words, calls, client, pins)
        try:
            result = await session.run()
        finally:
            self._broker.release(session)
        return result.model_dump(mode="json")
