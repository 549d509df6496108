"""The socket's methods: parameters checked here, at the edge, and then typed. See docs/protocol.md.

Control methods (status, cancel, approve, …) do nothing slow. Everything else may wait its turn.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmos.daemon import request as requests
from llmos.daemon import rpc
from llmos.daemon.broker import Broker, Client
from llmos.daemon.connection import Connection, Method, Table
from llmos.daemon.hands import Hands
from llmos.daemon.session import Answer, Session
from llmos.daemon.undoing import Undoing
from llmos.errors import Cancelled, UsageError
from llmos.messages import Ask, Consent, Event, JsonObject, Pin, Route, ToolCall, new_id

_M = TypeVar("_M", bound=BaseModel)
MAX_HISTORY = 1000
MAX_THEN = 63  # calls of a request after the first
ID = r"^[A-Za-z0-9_-]{1,64}$"


class Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class RequestParams(Params):
    """What every request carries."""

    cwd: str
    id: str = Field(default_factory=new_id, pattern=ID)
    consent: Consent = "none"
    data_b64: str | None = None
    write: tuple[str, ...] = ()
    session: str = Field(default="", max_length=64)
    policy: str = Field(default="", max_length=65_536)  # rules of this request alone
    mode: Literal["ask", "plan"] = "ask"
    route: Route = "auto"
    backend: str = Field(default="", max_length=40)  # the one backend to ask; it may then leave the machine
    detach: bool = False  # the request outlives this connection


class AskParams(RequestParams):
    text: str


class CallParams(RequestParams):
    """One call, and those that come after it: one request, judged as a whole and undone as a whole."""

    tool: str
    args: JsonObject = Field(default_factory=dict)
    then: tuple[ToolCall, ...] = Field(default=(), max_length=MAX_THEN)


class TranslateParams(Params):
    text: str
    cwd: str
    id: str = Field(default_factory=new_id, pattern=ID)
    consent: Consent = "none"
    route: Route = "auto"
    backend: str = Field(default="", max_length=40)


class ApproveParams(Params):
    id: str
    decision: Answer
    call: ToolCall | None = None
    index: int | None = None


class CancelParams(Params):
    id: str


class CheckParams(Params):
    """A command, or a tool with its arguments."""

    cwd: str
    command: str | tuple[str, ...] | None = None
    tool: str | None = None
    args: JsonObject = Field(default_factory=dict)
    write: tuple[str, ...] = ()
    policy: str = Field(default="", max_length=65_536)
    unattended: bool = False


class ForgetParams(Params):
    rule_id: str


class HistoryParams(Params):
    limit: int = Field(default=20, ge=1, le=MAX_HISTORY)


class UndoParams(Params):
    undo_id: str = Field(default="", max_length=80)
    id: str = Field(default_factory=new_id, pattern=ID)
    consent: Consent = "none"
    mode: Literal["do", "plan"] = "do"


class NoParams(Params):
    pass


class Methods:
    def __init__(self, broker: Broker) -> None:
        from llmos.daemon.automating import Automating  # which builds on this module

        self._broker = broker
        self.automating = Automating(broker, self)

    def table(self) -> Table:
        work: dict[str, Method] = {
            "ask": self.ask,
            "plan": self.plan,
            "call": self.call,
            "translate": self.translate,
            "tools": self.tools,
            "wake": self.wake,
            "policy.check": self.policy_check,
            "policy.explain": self.policy_explain,
            "policy.list": self.policy_list,
            "policy.remembered": self.policy_remembered,
            "policy.forget": self.policy_forget,
            "history": self.history,
            "undo": self.undo,
        }
        control: dict[str, Method] = {
            "approve": self.approve,
            "cancel": self.cancel,
            "status": self.status,
            "subscribe": self.subscribe,
        }
        from llmos.daemon.clouding import Clouding
        from llmos.daemon.personalising import Personalising
        from llmos.daemon.resuming import Resuming

        work |= self.automating.table() | Clouding(self._broker, self).table()
        work |= Personalising(self._broker).table() | Resuming(self._broker, self).table()
        return Table(work | control, frozenset(control), self._broker.left)

    # --- requests ---

    async def ask(self, params: JsonObject, client: Connection) -> JsonObject:
        return await self._perform(parsed(AskParams, params), client)

    async def plan(self, params: JsonObject, client: Connection) -> JsonObject:
        return await self._perform(parsed(AskParams, {**params, "mode": "plan"}), client)

    async def call(self, params: JsonObject, client: Connection) -> JsonObject:
        return await self._perform(parsed(CallParams, params), client)

    async def translate(self, params: JsonObject, client: Connection) -> JsonObject:
        read = parsed(TranslateParams, params)
        given = RequestParams.model_validate(read.model_dump(exclude={"text"}))
        if read.route != "cloud":
            self._broker.planner.wake()
        async with self.session(given, read.text, (), client) as session:
            thought = await session.translate()
        return {"command": thought.command, "confidence": thought.confidence, "route": thought.route}

    async def _perform(self, params: AskParams | CallParams, client: Connection) -> JsonObject:
        if params.detach and params.consent == "interactive":
            raise UsageError("nobody could answer a detached request", "Use consent `none` or `yes`.")
        text, calls = _words(params)
        if not calls and params.route != "cloud":
            self._broker.planner.wake()  # while what the request needs besides is read
        async with self.session(params, text, calls, client) as session:
            result = await session.run()
        return result.model_dump(mode="json")

    @asynccontextmanager
    async def session(
        self,
        params: RequestParams,
        text: str,
        calls: tuple[ToolCall, ...],
        client: Client,
        pins: tuple[Pin, ...] = (),
        *,
        offer: bool = True,
    ) -> AsyncIterator[Session]:
        """Check the request and enter it among the running, until the end of the block.

        `offer`: say, once, what of theirs was cut off and may go on.
        """
        given = params.model_dump(include=set(RequestParams.model_fields) - {"detach"})
        ask = Ask.model_validate({**given, "text": text})
        most = self._broker.settings.server.max_request_chars
        job = await asyncio.to_thread(requests.check, ask, client.caller, most, calls)
        job = replace(job, pins=pins)
        hands = await self._broker.hands()
        session = Session(job, hands, self._broker.minds, lambda event: self._broker.emit(event, client))
        self._broker.admit(session, client, detached=params.detach)
        if text := self._broker.notice(hands, client.caller):
            self._broker.emit(Event(id=job.id, kind="notice", data={"text": text}), client)
        if offer and not calls and (text := await asyncio.to_thread(self._broker.offer, client.caller)):
            self._broker.emit(Event(id=job.id, kind="notice", data={"text": text}), client)
        try:
            yield session
        except Cancelled as error:
            raise self._broker.instead(error) from error
        finally:
            self._broker.release(session)

    # --- control ---

    async def approve(self, params: JsonObject, client: Connection) -> JsonObject:
        """Only the connection that asked may approve: it alone has shown the person the question."""
        read = parsed(ApproveParams, params)
        running = self._broker.find(read.id, client.caller)
        if running.owner is not client:
            raise UsageError("another client asked for that", "Answer where the request was made.")
        await running.session.approve(read.decision, read.call, read.index)
        return {"ok": True}

    async def cancel(self, params: JsonObject, client: Connection) -> JsonObject:
        self._broker.find(parsed(CancelParams, params).id, client.caller).session.cancel()
        return {"ok": True}

    async def status(self, params: JsonObject, client: Connection) -> JsonObject:
        parsed(NoParams, params)
        goals = self.automating.goals.standing(client.caller.uid)
        return {**self._broker.status(client.caller), "goals": goals}

    async def subscribe(self, params: JsonObject, client: Connection) -> JsonObject:
        """From now on this connection hears the events of all its user's requests."""
        parsed(NoParams, params)
        self._broker.subscribe(client)
        return {"ok": True}

    # --- questions ---

    async def tools(self, params: JsonObject, client: Connection) -> JsonObject:
        parsed(NoParams, params)
        hands = await self._broker.hands()
        told = hands.catalog.describe()
        return {"tools": [{key: value for key, value in tool.items() if key != "file"} for tool in told]}

    async def wake(self, params: JsonObject, client: Connection) -> JsonObject:
        """Start loading the model: a person is about to ask. Returns at once."""
        parsed(NoParams, params)
        self._broker.planner.wake()
        return {"ok": True}

    async def policy_check(self, params: JsonObject, client: Connection) -> JsonObject:
        """The verdict on a command or a call; nothing runs."""
        hands, call, job = await self._checked(params, client)
        return self._noticed(hands, job, await asyncio.to_thread(hands.check, call, job))

    async def policy_explain(self, params: JsonObject, client: Connection) -> JsonObject:
        """The verdict, with every effect and the rules that matched it."""
        hands, call, job = await self._checked(params, client)
        return self._noticed(hands, job, await asyncio.to_thread(hands.explain, call, job))

    def _noticed(self, hands: Hands, job: requests.Job, found: JsonObject) -> JsonObject:
        """With what else has to be known of the verdict: that it is not by the newest files."""
        notice = self._broker.notice(hands, job.caller)
        return {**found, "notice": notice} if notice else found

    async def _checked(self, params: JsonObject, client: Connection) -> tuple[Hands, ToolCall, requests.Job]:
        read = parsed(CheckParams, params)
        call = _checked_call(read)
        ask = Ask(
            text="", cwd=read.cwd, write=read.write, policy=read.policy,
            consent="none" if read.unattended else "interactive",
        )  # fmt: skip
        most = self._broker.settings.server.max_request_chars
        job = await asyncio.to_thread(requests.check, ask, client.caller, most, (call,))
        return await self._broker.hands(), call, job

    async def policy_list(self, params: JsonObject, client: Connection) -> JsonObject:
        """The rules in force for this caller, strictest tier last."""
        parsed(NoParams, params)
        hands = await self._broker.hands()
        return await asyncio.to_thread(hands.rules, client.caller)

    async def policy_remembered(self, params: JsonObject, client: Connection) -> JsonObject:
        """The caller's answers given for good."""
        parsed(NoParams, params)
        answers = (await self._broker.hands()).gate.answers
        found = [asdict(rule) for rule in await asyncio.to_thread(answers.rules)]
        return {"remembered": [rule for rule in found if rule["uid"] == client.caller.uid]}

    async def policy_forget(self, params: JsonObject, client: Connection) -> JsonObject:
        read = parsed(ForgetParams, params)
        answers = (await self._broker.hands()).gate.answers
        return {"forgotten": asdict(await asyncio.to_thread(answers.forget, read.rule_id, client.caller.uid))}

    async def history(self, params: JsonObject, client: Connection) -> JsonObject:
        read = parsed(HistoryParams, params)
        hands = await self._broker.hands()
        return {"entries": await asyncio.to_thread(hands.history, client.caller, read.limit)}

    async def undo(self, params: JsonObject, client: Connection) -> JsonObject:
        """Take back a change, or have it again: previewed and asked about like any other."""
        read = parsed(UndoParams, params)
        job = requests.undo_job(client.caller, read.id, read.consent, plan_only=read.mode == "plan")
        hands = await self._broker.hands()
        undoing = Undoing(job, read.undo_id, hands, lambda event: self._broker.emit(event, client))
        self._broker.admit(undoing, client)
        try:
            result = await undoing.run()
        except Cancelled as error:
            raise self._broker.instead(error) from error
        finally:
            self._broker.release(undoing)
        for request_id, undone in undoing.turned:
            self._broker.minds.personal.turned(client.caller.uid, request_id, undone=undone)
        return result.model_dump(mode="json")


def _words(params: AskParams | CallParams) -> tuple[str, tuple[ToolCall, ...]]:
    if isinstance(params, AskParams):
        return params.text, ()
    calls = (ToolCall(tool=params.tool, args=params.args), *params.then)
    said = (f"{call.tool} {json.dumps(call.args, ensure_ascii=False)}" for call in calls)
    return "; then ".join(said), calls


def _checked_call(read: CheckParams) -> ToolCall:
    """What `policy.check` is about, as a call; raises UsageError unless it is exactly one thing."""
    if (read.command is None) == (read.tool is None):
        raise UsageError("give either `command` or `tool`", 'For instance: {"command": "ls", "cwd": "/"}')
    if read.tool is not None:
        return ToolCall(tool=read.tool, args=read.args)
    text = read.command if isinstance(read.command, str) else shlex.join(read.command or ())
    return ToolCall(tool="shell.run", args={"command": text})


def parsed(model: type[_M], params: JsonObject) -> _M:
    """Parameters as the method's type; raises Fault naming the first wrong one."""
    try:
        return model.model_validate(params)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "params"
        known = ", ".join(model.model_fields) or "none"
        raise rpc.Fault(
            rpc.INVALID_PARAMS, f"parameter `{name}`: {first['msg']}", f"Parameters: {known}."
        ) from error
