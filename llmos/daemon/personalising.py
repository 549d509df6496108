"""The socket's methods about what each person's requests came to mean. Everybody has their own alone."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llmos.daemon.broker import Broker
from llmos.daemon.connection import Connection, Method
from llmos.daemon.methods import NoParams, parsed
from llmos.errors import UsageError
from llmos.messages import JsonObject, ToolCall


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class PersonalSwitchParams(_Params):
    on: bool


class ForgetPhraseParams(_Params):
    id: str = Field(default="", max_length=40)
    everything: bool = False


class AddPhraseParams(_Params):
    text: str = Field(min_length=1, max_length=1000)
    tool: str
    args: dict[str, Any] = Field(default_factory=dict)


class Personalising:
    def __init__(self, broker: Broker) -> None:
        self._broker, self._personal = broker, broker.minds.personal

    def table(self) -> dict[str, Method]:
        return {
            "personal.list": self.list,
            "personal.switch": self.switch,
            "personal.add": self.add,
            "personal.forget": self.forget,
        }

    async def list(self, params: JsonObject, client: Connection) -> JsonObject:
        parsed(NoParams, params)
        habits = self._personal.of(client.caller.uid)
        return habits.model_dump(mode="json")

    async def switch(self, params: JsonObject, client: Connection) -> JsonObject:
        on = parsed(PersonalSwitchParams, params).on
        self._personal.switch(client.caller.uid, on=on)
        return {"on": on}

    async def add(self, params: JsonObject, client: Connection) -> JsonObject:
        """Teach a phrase. The call is checked as to its form, and neither judged nor run."""
        from llmos.toolbox import arguments

        read = parsed(AddPhraseParams, params)
        if not self._personal.of(client.caller.uid).on:
            raise UsageError("nothing is remembered while it is off", "Run: llmos tune personal on")
        arguments.check((await self._broker.hands()).catalog.get(read.tool).manifest, read.args)
        calls = (ToolCall(tool=read.tool, args=read.args),)
        pair = self._personal.add(client.caller.uid, read.text, calls, "taught")
        return {"added": pair.model_dump(mode="json")}

    async def forget(self, params: JsonObject, client: Connection) -> JsonObject:
        read = parsed(ForgetPhraseParams, params)
        if bool(read.id) == read.everything:
            raise UsageError("say which: `id`, or `everything`", "See: llmos tune personal list")
        return {"forgotten": self._personal.forget(client.caller.uid, read.id)}
