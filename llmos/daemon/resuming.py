"""The socket's methods about requests of several steps that a daemon was stopped over."""

from __future__ import annotations

import asyncio

from pydantic import Field

from llmos.daemon import steplog
from llmos.daemon.broker import Broker
from llmos.daemon.connection import Connection, Method
from llmos.daemon.methods import ID, Methods, NoParams, Params, RequestParams, parsed
from llmos.daemon.steplog import Story
from llmos.messages import Consent, JsonObject, new_id


class ResumeParams(Params):
    of: str = Field(default="", max_length=64)  # the newest where it is empty
    id: str = Field(default_factory=new_id, pattern=ID)
    consent: Consent = "none"


class ForgetStepsParams(Params):
    of: str = Field(max_length=64)


class Resuming:
    def __init__(self, broker: Broker, methods: Methods) -> None:
        self._broker, self._methods = broker, methods

    def table(self) -> dict[str, Method]:
        return {"resume": self.resume, "resume.list": self.waiting, "resume.forget": self.forget}

    async def resume(self, params: JsonObject, client: Connection) -> JsonObject:
        """Go on from the last completed step; where and how it was asked for counts, consent is today's."""
        read = parsed(ResumeParams, params)
        story = await self._find(client, read.of)
        asked = {key: value for key, value in story.request.items() if key != "text"}
        given = RequestParams.model_validate({**asked, "id": read.id, "consent": read.consent})
        text = str(story.request["text"])
        async with self._methods.session(given, text, (), client, offer=False) as session:
            await session.take_up(story)
            return (await session.run()).model_dump(mode="json")

    async def waiting(self, params: JsonObject, client: Connection) -> JsonObject:
        parsed(NoParams, params)
        await self._broker.loaded()
        found = await asyncio.to_thread(steplog.waiting, client.caller.uid)
        return {"waiting": [story.told() for story in found]}

    async def forget(self, params: JsonObject, client: Connection) -> JsonObject:
        read = parsed(ForgetStepsParams, params)
        story = await self._find(client, read.of)
        await asyncio.to_thread(steplog.forget, story)
        return {"forgotten": story.id}

    async def _find(self, client: Connection, of: str) -> Story:
        await self._broker.loaded()  # what a dead daemon left is put by before the first request
        return await asyncio.to_thread(steplog.find, client.caller.uid, of)
