"""The socket's methods for automation: pinned calls, triggers and the inbox.

What is pinned is judged, asked about and run like any other call; a pin only adds reasons not to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from llmos.daemon import pinning
from llmos.daemon import request as requests
from llmos.daemon.broker import Broker, Client
from llmos.daemon.connection import Connection, Method
from llmos.daemon.goalkeeping import Goalkeeper
from llmos.daemon.inbox import Inbox, Waiting
from llmos.daemon.methods import ID, Methods, NoParams, RequestParams, parsed
from llmos.daemon.triggers import Trigger, Triggers
from llmos.errors import LlmosError, UsageError
from llmos.messages import Ask, Caller, Consent, JsonObject, Pinned, Result, ToolCall, new_id

log = logging.getLogger(__name__)
MAX_CALLS = 100


class PinParams(RequestParams):
    """Words, or typed calls."""

    text: str = ""
    calls: tuple[ToolCall, ...] = Field(default=(), max_length=MAX_CALLS)
    unchanged: tuple[str, ...] = ()  # files whose content it depends on


class ReplayParams(RequestParams):
    calls: tuple[Pinned, ...] = Field(min_length=1, max_length=MAX_CALLS)


class InboxAskParams(RequestParams):
    """A request in words, or one typed call."""

    text: str = ""
    tool: str = ""
    args: JsonObject = Field(default_factory=dict)
    origin: str = Field(default="request", max_length=80)


class TriggerParams(RequestParams):
    """A new trigger: its request in words or as typed calls, and what it waits for."""

    text: str = ""
    calls: tuple[ToolCall, ...] = Field(default=(), max_length=MAX_CALLS)
    said: str = ""
    kind: Literal["watch", "schedule"]
    path: str = ""
    recursive: bool = False
    quiet_s: float = 1.0
    per_hour: int = 60
    calendar: str = ""


class OneParams(NoParams):
    id: str


class PauseParams(NoParams):
    id: str
    paused: bool = True


class TriggersParams(NoParams):
    kind: Literal["", "watch", "schedule"] = ""


class ItemParams(NoParams):
    """Something that waits in the inbox: to be run with the person's word, or tried."""

    item: str
    id: str = Field(default_factory=new_id, pattern=ID)
    consent: Consent = "none"
    mode: Literal["ask", "plan"] = "ask"


class Owner:
    """Who a trigger acts for, where a connection would stand: nobody hears its events."""

    def __init__(self, uid: int, gid: int) -> None:
        self.caller = Caller(uid=uid, gid=gid)
        self.gone = False

    def event(self, params: JsonObject, *, may_drop: bool = False) -> None:
        return None


class Automating:
    def __init__(self, broker: Broker, methods: Methods) -> None:
        self._broker, self._methods = broker, methods
        self._ready = asyncio.Event()  # what was kept has been read
        self.inbox = Inbox()
        self.triggers = Triggers(self._perform, self.inbox)
        self.goals = Goalkeeper(self._noted)

    def table(self) -> dict[str, Method]:
        return {
            "pin": self.pin,
            "replay": self.replay,
            **{name: self._when_ready(method) for name, method in self._kept_ones().items()},
        }

    def _kept_ones(self) -> dict[str, Method]:
        return {
            "trigger.add": self.trigger_add,
            "trigger.list": self.trigger_list,
            "trigger.pause": self.trigger_pause,
            "trigger.remove": self.trigger_remove,
            "trigger.run": self.trigger_run,
            "inbox.ask": self.inbox_ask,
            "inbox.list": self.inbox_list,
            "inbox.approve": self.inbox_approve,
            "inbox.reject": self.inbox_reject,
        }

    def _when_ready(self, method: Method) -> Method:
        async def waited(params: JsonObject, client: Connection) -> JsonObject:
            await self._ready.wait()
            return await method(params, client)

        return waited

    async def start(self) -> None:
        """Watch again what was watched before; waits for tools and policy."""
        try:
            await self._broker.hands()
        except LlmosError as error:
            log.error("triggers wait for a daemon that works: %s", error)
        await self.inbox.start()
        await self.triggers.start()
        self._ready.set()
        self.goals.start()

    async def stop(self) -> None:
        await self.triggers.stop()
        await asyncio.to_thread(self.goals.stop)

    def _noted(self, goal_id: str, facts: JsonObject) -> object:
        """Into the journal; called in the goals' thread, which starts when the parts are there."""
        hands = self._broker.parts
        return hands.gate.audit.note("goal", goal_id, facts) if hands else None

    # --- pinned calls ---

    async def pin(self, params: JsonObject, client: Connection) -> JsonObject:
        """The exact calls of a request with what they depend on; nothing runs."""
        given = parsed(PinParams, params)
        if bool(given.text) == bool(given.calls):
            raise UsageError(
                "give either `text` or `calls`", 'For instance: {"text": "list the files", "cwd": "/"}'
            )
        async with self._methods.session(given, given.text, given.calls, client) as session:
            pinned = await session.pins(given.unchanged)
        return {"calls": pinning.as_json(pinned)}

    async def replay(self, params: JsonObject, client: Connection) -> JsonObject:
        """Run pinned calls as one request, unless something they depend on has changed."""
        given = parsed(ReplayParams, params)
        calls = tuple(ToolCall(tool=call.tool, args=call.args) for call in given.calls)
        words = "; ".join(f"{call.tool} {json.dumps(call.args, ensure_ascii=False)}" for call in calls)
        pins = tuple(call.pin for call in given.calls)
        async with self._methods.session(given, words, calls, client, pins) as session:
            result = await session.run()
        return result.model_dump(mode="json")

    # --- triggers ---

    async def _perform(self, trigger: Trigger) -> tuple[Result, tuple[Pinned, ...]]:
        """One unattended request of a trigger, as its owner."""
        owner = Owner(trigger.uid, trigger.gid)
        words = trigger.text or trigger.said
        params = RequestParams(cwd=trigger.cwd, write=trigger.write, policy=trigger.policy, id=new_id())
        return await self.unattended(params, words, trigger.calls, owner)

    async def unattended(
        self, params: RequestParams, text: str, calls: tuple[ToolCall, ...], owner: Client
    ) -> tuple[Result, tuple[Pinned, ...]]:
        """A request's result, and the calls that wait for a person when it needs approval."""
        async with self._methods.session(params, text, calls, owner) as session:
            result = await session.run()
            left = await session.left() if result.status == "needs_approval" else ()
        return result, left

    async def trigger_add(self, params: JsonObject, client: Connection) -> JsonObject:
        given = parsed(TriggerParams, params)
        if bool(given.text) == bool(given.calls):
            raise UsageError("give either `text` or `calls`", 'For instance: {"text": "list the files", …}')
        most = self._broker.settings.server.max_request_chars
        ask = Ask(text=given.text or "call", cwd=given.cwd, write=given.write, policy=given.policy)
        job = await asyncio.to_thread(requests.check, ask, client.caller, most, given.calls)
        trigger = Trigger(
            **given.model_dump(include=_KEPT_OF_TRIGGER),
            id=f"{given.kind[0]}{os.urandom(3).hex()}",
            uid=client.caller.uid,
            gid=client.caller.gid,
            cwd=job.cwd,
            said=given.said or given.text,
            path=os.path.normpath(Path(job.cwd, given.path)) if given.path else "",
            created=time.time(),
        )
        await self.triggers.add(trigger)
        return {"trigger": trigger.model_dump(mode="json")}

    async def trigger_list(self, params: JsonObject, client: Connection) -> JsonObject:
        kind = parsed(TriggersParams, params).kind
        found = [trigger for trigger in self.triggers.of(client.caller) if kind in ("", trigger.kind)]
        return {"triggers": [trigger.model_dump(mode="json") for trigger in found]}

    async def trigger_pause(self, params: JsonObject, client: Connection) -> JsonObject:
        given = parsed(PauseParams, params)
        why = "by its owner" if given.paused else ""
        changed = await self.triggers.pause(self.triggers.get(given.id, client.caller), why)
        return {"trigger": changed.model_dump(mode="json")}

    async def trigger_remove(self, params: JsonObject, client: Connection) -> JsonObject:
        trigger = self.triggers.get(parsed(OneParams, params).id, client.caller)
        await self.triggers.remove(trigger)
        return {"trigger": trigger.model_dump(mode="json")}

    async def trigger_run(self, params: JsonObject, client: Connection) -> JsonObject:
        """Make a trigger's request now; systemd's timers do."""
        trigger = self.triggers.get(parsed(OneParams, params).id, client.caller)
        if trigger.paused:
            raise UsageError(
                f"{trigger.id} is paused: {trigger.paused}", f"llmos {trigger.kind} resume {trigger.id}"
            )
        return (await self.triggers.run(trigger)).model_dump(mode="json")

    # --- the inbox ---

    async def inbox_ask(self, params: JsonObject, client: Connection) -> JsonObject:
        """An unattended request; what of it needs a person's word waits in the inbox from then on."""
        given = parsed(InboxAskParams, params)
        if bool(given.text) == bool(given.tool):
            raise UsageError(
                "give either `text` or `tool`", 'For instance: {"tool": "file.list", "cwd": "/"}'
            )
        if given.consent != "none":
            raise UsageError(
                "an inbox is for requests without consent", "Leave `consent` out, or use: ask, call"
            )
        calls = (ToolCall(tool=given.tool, args=given.args),) if given.tool else ()
        said = given.text or f"{given.tool} {json.dumps(given.args, ensure_ascii=False)}"
        result, asked = await self.unattended(given, said, calls, client)
        item = None
        if asked and result.status == "needs_approval":
            item = await self.inbox.put(Waiting(
                id=os.urandom(4).hex(), uid=client.caller.uid, gid=client.caller.gid, origin=given.origin,
                said=said, cwd=given.cwd, write=given.write, policy=given.policy, created=time.time(),
                reason=result.answer or "", calls=asked,
            ))  # fmt: skip
        told = item.model_dump(mode="json") if item else None
        return {"result": result.model_dump(mode="json"), "item": told}

    async def inbox_list(self, params: JsonObject, client: Connection) -> JsonObject:
        parsed(NoParams, params)
        return {"waiting": [item.model_dump(mode="json") for item in self.inbox.waiting(client.caller)]}

    async def inbox_approve(self, params: JsonObject, client: Connection) -> JsonObject:
        """Run what waits. A plain yes holds for what was listed; a person at a terminal sees it anew."""
        given = parsed(ItemParams, params)
        item = self.inbox.item(given.item, client.caller)
        pins = tuple(call.pin for call in item.calls) if given.consent == "yes" else ()
        request = RequestParams(
            id=given.id,
            cwd=item.cwd,
            write=item.write,
            policy=item.policy,
            consent=given.consent,
            mode=given.mode,
        )
        calls = tuple(ToolCall(tool=call.tool, args=call.args) for call in item.calls)
        async with self._methods.session(request, item.said, calls, client, pins) as session:
            result = await session.run()
        if given.mode != "plan" and result.status in ("done", "failed"):
            await self.inbox.drop(item)
        return result.model_dump(mode="json")

    async def inbox_reject(self, params: JsonObject, client: Connection) -> JsonObject:
        item = self.inbox.item(parsed(OneParams, params).id, client.caller)
        await self.inbox.drop(item)
        return {"rejected": item.model_dump(mode="json")}


_KEPT_OF_TRIGGER = {
    "kind",
    "text",
    "calls",
    "write",
    "policy",
    "recursive",
    "quiet_s",
    "per_hour",
    "calendar",
}
