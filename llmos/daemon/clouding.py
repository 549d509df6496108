"""The socket's methods about cloud backends: routes explained, usage, and what a person allowed."""

from __future__ import annotations

import asyncio
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field

from llmos.daemon.broker import Broker
from llmos.daemon.connection import Connection, Method
from llmos.daemon.consents import ALL_KINDS
from llmos.daemon.methods import Methods, NoParams, RequestParams, TranslateParams, parsed
from llmos.errors import UsageError
from llmos.messages import JsonObject
from llmos.planner.route import Kind


class Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class RouteParams(TranslateParams):
    data_b64: str | None = None
    translate: bool = False


class UsageParams(Params):
    days: int = Field(default=30, ge=1, le=3660)
    everybody: bool = False  # root only


class BackendParams(Params):
    name: str = Field(max_length=40)
    kind: str = Field(default="", max_length=20)


class Clouding:
    def __init__(self, broker: Broker, methods: Methods) -> None:
        self._broker, self._methods = broker, methods

    def table(self) -> dict[str, Method]:
        return {
            "route": self.route,
            "usage": self.usage,
            "backend.list": self.backends,
            "backend.allow": self.allow,
            "backend.forget": self.forget,
        }

    async def route(self, params: JsonObject, client: Connection) -> JsonObject:
        """Where a request would be thought about, and why; the local model is asked, nothing leaves."""
        read = parsed(RouteParams, params)
        given = RequestParams.model_validate(read.model_dump(exclude={"text", "translate"}))
        async with self._methods.session(given, read.text, (), client) as session:
            return await session.explain_route(translate=read.translate)

    async def usage(self, params: JsonObject, client: Connection) -> JsonObject:
        """What the caller's requests to backends cost, by day and backend; root may see everybody's."""
        read = parsed(UsageParams, params)
        if read.everybody and client.caller.uid != 0:
            raise UsageError("only root sees what others used", "Leave `everybody` out.")
        ledger, uid = self._broker.minds.offload.ledger, client.caller.uid
        rows = await asyncio.to_thread(ledger.used, None if read.everybody else uid, read.days)
        caps = self._broker.settings.budget.model_dump()
        return {"days": rows, "caps": caps, "left": await asyncio.to_thread(ledger.left, uid)}

    async def backends(self, params: JsonObject, client: Connection) -> JsonObject:
        parsed(NoParams, params)
        return await self._broker.minds.offload.listed(client.caller)

    async def allow(self, params: JsonObject, client: Connection) -> JsonObject:
        """The caller's word that requests of a kind may go to a backend, unasked."""
        read, offload = parsed(BackendParams, params), self._broker.minds.offload
        backend, days = offload.find(read.name), offload.settings.offload.consent_days
        kind = read.kind or ALL_KINDS
        if kind not in (ALL_KINDS, *get_args(Kind)):
            raise UsageError(f"there is no kind {kind!r}", f"Kinds: {', '.join(get_args(Kind))}.")
        await asyncio.to_thread(offload.consents.give, client.caller.uid, backend, kind, days)
        return {"allowed": backend.name, "kind": kind, "days": days}

    async def forget(self, params: JsonObject, client: Connection) -> JsonObject:
        read, consents = parsed(BackendParams, params), self._broker.minds.offload.consents
        count = await asyncio.to_thread(consents.revoke, client.caller.uid, read.name, read.kind)
        return {"forgotten": count}
