"""The HTTP application: chat completions and models as OpenAI's API has them, health, and metrics.

Every address but /health wants a key where there are keys. Bodies are JSON and bounded. Without keys only
names of this machine are answered, so that a web page cannot reach it through its own name.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llmos.engine.generate import Generation
from llmos.errors import LlmosError
from llmos.serve import asked
from llmos.serve.keys import Doorkeeper
from llmos.serve.replies import Reply
from llmos.serve.told import ApiError, bad
from llmos.serve.working import Began, Event, Room

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20
_OWN_NAMES = ["localhost", "127.0.0.1", "[::1]"]


class Metrics:
    def __init__(self, room: Room) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "llmos_serve_requests", "Answered requests", ["holder", "status"], registry=self.registry
        )
        self.tokens = Counter("llmos_serve_tokens", "Tokens", ["holder", "kind"], registry=self.registry)
        self.seconds = Histogram(
            "llmos_serve_seconds", "Seconds for one completion", registry=self.registry,
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300),
        )  # fmt: skip
        held = Gauge("llmos_serve_held", "Requests that run or wait", registry=self.registry)
        held.set_function(lambda: room.held)

    def count(self, holder: str, generation: Generation, seconds: float) -> None:
        self.tokens.labels(holder, "prompt").inc(generation.prompt_tokens)
        self.tokens.labels(holder, "cached").inc(generation.cached_tokens)
        self.tokens.labels(holder, "reply").inc(generation.generated_tokens)
        self.seconds.observe(seconds)


class Server:
    def __init__(self, room: Room, door: Doorkeeper, model: str) -> None:
        self._room, self._door, self._model = room, door, model
        self._started = int(time.time())
        self._metrics = Metrics(room)

    # --- addresses ---

    async def chat(self, request: Request, holder: str) -> Response:
        self._door.admit(holder)
        wanted = asked.read(await _body(request))
        if wanted.model != self._model:
            raise ApiError(
                404, f"The model `{wanted.model}` does not exist; this server has `{self._model}`.",
                param="model", code="model_not_found",
            )  # fmt: skip
        events = self._counted(self._room.think(wanted), holder)
        began = await anext(events)  # what is wrong with the request is raised here, before any answer
        assert isinstance(began, Began)
        options = wanted.stream_options
        reply = Reply(
            self._model,
            with_tools=bool(wanted.offered),
            include_usage=bool(options and options.include_usage),
        )
        if wanted.stream:
            return StreamingResponse(_guarded(reply, events), media_type="text/event-stream")
        return JSONResponse(reply.whole(await _last(events, request)))

    async def models(self, _request: Request, _holder: str) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request, _holder: str) -> Response:
        if (name := request.path_params["name"]) != self._model:
            raise ApiError(404, f"The model `{name}` does not exist.", param="model", code="model_not_found")
        return JSONResponse(self._card())

    async def metrics(self, _request: Request, _holder: str) -> Response:
        text = generate_latest(self._metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(self, _request: Request) -> Response:
        if await self._room.able():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("no replica is up\n", 503)

    # --- parts ---

    def _card(self) -> dict[str, Any]:
        return {
            "id": self._model, "object": "model", "created": self._started, "owned_by": "llmos",
            "max_model_len": self._room.context_tokens,
        }  # fmt: skip

    async def _counted(self, events: AsyncIterator[Event], holder: str) -> AsyncIterator[Event]:
        started = time.perf_counter()
        async for event in events:
            if isinstance(event, Generation):
                self._metrics.count(holder, event, time.perf_counter() - started)
            yield event

    def kept(
        self, handle: Callable[[Request, str], Awaitable[Response]]
    ) -> Callable[..., Awaitable[Response]]:
        """The handler behind the door; its errors as answers, its answers counted."""

        async def handled(request: Request) -> Response:
            holder = "nobody"
            try:
                holder = self._door.holder(request.headers.get("authorization", ""))
                response = await handle(request, holder)
            except ApiError as error:
                response = JSONResponse(error.body(), error.status, error.headers)
            except LlmosError as error:
                told = ApiError(500, f"{error}", kind="server_error")
                response = JSONResponse(told.body(), told.status)
            self._metrics.requests.labels(holder, str(response.status_code)).inc()
            return response

        return handled


def application(room: Room, door: Doorkeeper, model: str, *, own_names_only: bool) -> Starlette:
    server = Server(room, door, model)
    routes = [
        Route("/v1/chat/completions", server.kept(server.chat), methods=["POST"]),
        Route("/v1/models", server.kept(server.models)),
        Route("/v1/models/{name:path}", server.kept(server.model)),
        Route("/metrics", server.kept(server.metrics)),
        Route("/health", server.health),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        room.close()

    hosts = [Middleware(TrustedHostMiddleware, allowed_hosts=_OWN_NAMES)] if own_names_only else []
    return Starlette(
        routes=routes, middleware=hosts, lifespan=lifespan,
        exception_handlers={HTTPException: _unknown, Exception: _broken},
    )  # fmt: skip


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    there_is = "There is: POST /v1/chat/completions, GET /v1/models"
    text = f"{request.method} {request.url.path}: {error.detail}. {there_is}"
    return JSONResponse(ApiError(error.status_code, text, code="unknown_url").body(), error.status_code)


async def _broken(_request: Request, error: Exception) -> Response:
    log.error("an error of ours", exc_info=error)
    return JSONResponse(ApiError(500, "An error inside the server.", kind="server_error").body(), 500)


async def _body(request: Request) -> Any:
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send JSON: Content-Type: application/json")
    data = b""
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > MAX_BODY_BYTES:
                raise ApiError(413, f"The request is longer than {MAX_BODY_BYTES:,} bytes.")
        return json.loads(data)
    except ClientDisconnect:
        raise bad("the request ended early") from None
    except (ValueError, RecursionError):
        raise bad("We could not parse the JSON body of your request.") from None


async def _last(events: AsyncIterator[Event], request: Request) -> Generation:
    """The whole reply; given up when nobody waits for it any more."""
    async with aclosing(events) as found:  # type: ignore[type-var]
        async for event in found:
            if isinstance(event, Generation):
                return event
            if await request.is_disconnected():
                break
    raise ApiError(499, "The client went away.", code="cancelled")


async def _guarded(reply: Reply, events: AsyncIterator[Event]) -> AsyncIterator[str]:
    """An error after the answer has begun is one more event, as OpenAI sends it."""
    try:
        async for line in reply.streamed(events):
            yield line
    except (ApiError, LlmosError) as error:
        told = error if isinstance(error, ApiError) else ApiError(500, str(error), kind="server_error")
        yield f"data: {json.dumps(told.body())}\n\n"
