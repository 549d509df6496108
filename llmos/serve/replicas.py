"""Engines as replicas on a Ray cluster, behind the one application that clients speak with.

The application stays in this process, and with it TLS, keys and limits; what it hands on is the thinking. Ray
Serve starts the replicas, shares requests out, adds and removes replicas by load and replaces dead ones. What
it does not do is ask again when a replica dies with a request in it. That is done here: a reply has no side
effects, so it is thought about once more, and a streamed one goes on after the last word that was sent.

Not protected against: the end of this process, which ends its connections.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from llmos.engine import store
from llmos.engine.engine import Engine
from llmos.errors import CallFailed, LlmosError
from llmos.serve.asked import ChatAsked
from llmos.serve.cluster import Cluster, first_line
from llmos.serve.retold import Told, repeatable
from llmos.serve.told import ApiError, busy
from llmos.serve.working import Event, Workroom

log = logging.getLogger(__name__)

ATTEMPTS = 3  # a request that kills whoever thinks about it must not kill all of them
_ONE_RUNS_ONE_WAITS = 2  # requests in a replica: so the engine never stands still between two
_SILENT_S = 600.0  # an engine that was given work and says nothing for so long is replaced
_LOOK_AGAIN_S = 2.0
_DEPLOYMENT = "engine"


@dataclass(frozen=True)
class Wanted:
    model: str
    app: str  # its name on the cluster
    least: int = 1  # replicas
    most: int = 1
    target: float = 1.5  # requests that run or wait for each replica: above it there will be more replicas
    threads: int = 1  # of each replica
    context_tokens: int = 4096
    max_waiting: int = 16  # beyond the one that each replica thinks about


class EngineReplica:
    """One engine in a process of its own, which Ray starts."""

    def __init__(self, model: str, threads: int, context_tokens: int) -> None:
        engine = Engine.load(
            store.resolve(model), dtype="auto", threads=threads, context_tokens=context_tokens
        )
        self._room = Workroom(engine, max_waiting=100)  # Ray sends fewer

    def context_tokens(self) -> int:
        return self._room.context_tokens

    async def think(self, asked: ChatAsked) -> AsyncIterator[Event | ApiError]:
        """What is wrong with the request comes as a value: an exception would arrive in Ray's wrapping."""
        try:
            async with aclosing(self._room.think(asked)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        except ApiError as error:
            yield error
        except LlmosError as error:
            yield ApiError(500, str(error), kind="server_error")

    def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises."""
        if self._room.silent_s > _SILENT_S:
            raise RuntimeError(f"the engine has said nothing for {self._room.silent_s:.0f} s")


class Replicas:
    """The room of an application whose engines are elsewhere (working.Room)."""

    def __init__(self, handle: Any, wanted: Wanted, context_tokens: int, cluster: Cluster) -> None:
        self._handle, self._app, self._cluster = handle.options(stream=True), wanted.app, cluster
        self._most_held = wanted.most + wanted.max_waiting
        self.context_tokens, self.held = context_tokens, 0
        self._may_be_none = not wanted.least
        self._seen, self._able = 0.0, True

    async def think(self, asked: ChatAsked) -> AsyncIterator[Event]:
        if self.held >= self._most_held:
            raise busy(503, f"{self.held} requests are ahead of this one; try again", "overloaded", 1)
        self.held += 1
        try:
            async with aclosing(self._until_told(repeatable(asked))) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        finally:
            self.held -= 1

    async def _until_told(self, asked: ChatAsked) -> AsyncIterator[Event]:
        told = Told(streamed=bool(asked.stream))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with aclosing(self._once(asked)) as events:  # type: ignore[type-var]
                    async for event in events:
                        for fresh in told.fresh(event):
                            yield fresh
                return
            except (RayError, RayServeException) as error:
                if isinstance(error, RayTaskError):  # an error of ours inside a replica, not the loss of it
                    raise
                log.warning(
                    "attempt %d of %d ended with its replica (%s)", attempt, ATTEMPTS, type(error).__name__
                )
                told.again()
        raise busy(503, f"{ATTEMPTS} replicas were lost with this request; try again", "replicas_lost", 5)

    async def _once(self, asked: ChatAsked) -> AsyncIterator[Event]:
        response = self._handle.think.remote(asked)
        try:
            async for event in response:
                if isinstance(event, ApiError):
                    raise event
                yield event
        finally:
            response.cancel()  # nothing where it has ended

    async def able(self) -> bool:
        """Whether a replica is up; Ray is asked at most every two seconds, however often we are."""
        if time.monotonic() - self._seen > _LOOK_AGAIN_S:
            self._seen = time.monotonic()
            self._able = self._may_be_none or await asyncio.to_thread(_any_runs, self._app)
        return self._able

    def close(self) -> None:
        """The replicas end. A cluster of our own ends with them; one that was there before stays."""
        _end(self._app, self._cluster)


def start(wanted: Wanted, cluster: Cluster) -> Replicas:
    """Once the first replicas are up. Raises CallFailed."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what it warns of is told here, in `_until_told`
    try:
        serve.start(proxy_location="Disabled")
        handle = serve.run(_deployment(wanted), name=wanted.app, route_prefix=None)
        context_tokens = handle.context_tokens.remote().result(timeout_s=60)
    except BaseException as error:  # Ctrl-C as well: nothing stays behind
        _end(wanted.app, cluster)
        if not isinstance(error, RayError | RayServeException | RuntimeError | TimeoutError):
            raise
        raise CallFailed(
            f"no replica came up: {first_line(error)}",
            f"Check that every node has llmos, the model and {wanted.threads} free processors.",
        ) from None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray had taken it; the HTTP server takes it next
    return Replicas(handle, wanted, context_tokens, cluster)


def _end(app: str, cluster: Cluster) -> None:
    if not cluster.own_folder:
        serve.delete(app)
    cluster.leave()


def _deployment(wanted: Wanted) -> Any:
    size: dict[str, Any] = {"num_replicas": wanted.most}
    if wanted.least != wanted.most:
        size = {
            "autoscaling_config": {
                "min_replicas": wanted.least,
                "max_replicas": wanted.most,
                "initial_replicas": max(1, wanted.least),
                "target_ongoing_requests": wanted.target,
            }
        }
    return serve.deployment(
        EngineReplica, name=_DEPLOYMENT, max_ongoing_requests=_ONE_RUNS_ONE_WAITS,
        ray_actor_options={"num_cpus": wanted.threads}, health_check_period_s=5, health_check_timeout_s=10,
        graceful_shutdown_timeout_s=30, max_constructor_retry_count=3, **size,
    ).bind(wanted.model, wanted.threads, wanted.context_tokens)  # fmt: skip


def _any_runs(app: str) -> bool:
    try:
        found = serve.status().applications[app].deployments[_DEPLOYMENT]
    except (KeyError, RayError, RayServeException):
        return False
    return bool(found.replica_states.get("RUNNING", 0))
