"""Completions and their chunks, in the words of OpenAI's API."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from llmos.engine.generate import Generation
from llmos.messages import JsonObject
from llmos.serve.prompting import calls_in
from llmos.serve.working import Event


class Reply:
    """One completion: its id and the frame that all its pieces share."""

    def __init__(self, model: str, *, with_tools: bool, include_usage: bool = False) -> None:
        self._common = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self._with_tools, self._include_usage = with_tools, include_usage

    def whole(self, generation: Generation) -> JsonObject:
        calls = self._calls(generation)
        message: JsonObject = {
            "role": "assistant",
            "content": None if calls else generation.text,
            "refusal": None,
        }
        message |= {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _why(generation, calls)}
        return {**self._common, "object": "chat.completion", "choices": [choice], "usage": usage(generation)}

    async def streamed(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """Server-sent events; text that may become a call is held back until it is whole."""
        yield self._chunk({"role": "assistant", "content": ""})
        held = ""
        async for event in events:
            if isinstance(event, str):
                held += event
                if not (self._with_tools and (not held or held.startswith("<"))):
                    yield self._chunk({"content": held})
                    held = ""
            elif isinstance(event, Generation):
                for line in self._ending(event, held):
                    yield line

    def _ending(self, generation: Generation, held: str) -> Iterator[str]:
        calls = self._calls(generation)
        if calls:
            yield self._chunk({"tool_calls": [{"index": at, **call} for at, call in enumerate(calls)]})
        elif held:
            yield self._chunk({"content": held})
        yield self._chunk({}, _why(generation, calls))
        if self._include_usage:
            yield self._line({"choices": [], "usage": usage(generation)})
        yield "data: [DONE]\n\n"

    def _calls(self, generation: Generation) -> list[JsonObject]:
        """None of a reply that was cut short: half a call is another call."""
        if not self._with_tools or generation.stop_reason in ("length", "cancelled"):
            return []
        return [
            {
                "id": f"call_{secrets.token_hex(12)}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for name, arguments in calls_in(generation.text)
        ]

    def _chunk(self, delta: JsonObject, why: str | None = None) -> str:
        return self._line({"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": why}]})

    def _line(self, more: dict[str, Any]) -> str:
        found = {**self._common, "object": "chat.completion.chunk", **more}
        return f"data: {json.dumps(found, ensure_ascii=False)}\n\n"


def usage(generation: Generation) -> JsonObject:
    made = generation.generated_tokens
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": made,
        "total_tokens": generation.prompt_tokens + made,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


def _why(generation: Generation, calls: list[JsonObject]) -> str:
    if calls:
        return "tool_calls"
    return "length" if generation.stop_reason == "length" else "stop"
