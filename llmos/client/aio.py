"""The asyncio client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from llmos.client.frames import (
    CONNECT_TIMEOUT_S,
    answer,
    calls_params,
    connected,
    event_of,
    greeting,
    outcome,
    parsed,
    request_params,
)
from llmos.client.results import (
    Approve,
    JsonObject,
    OnEvent,
    Question,
    Result,
    Translation,
    question_of,
    result,
)
from llmos.errors import DaemonUnreachable, LlmosError
from llmos.wire import MAX_FRAME_BYTES, encode


@dataclass(slots=True)
class _Pending:
    answer: asyncio.Future[JsonObject]
    request_id: str
    approve: Approve | None
    on_event: OnEvent | None


class AsyncClient:
    """The same methods as coroutines; requests on one connection run side by side.

    `async with AsyncClient() as llmos: …`. `approve` may take its time: it is called in a thread. A coroutine
    that is cancelled cancels its request.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None = None) -> None:
        self._path = socket_path
        self.hello: JsonObject = {}
        self._last_id = 0
        self._pending: dict[int, _Pending] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> AsyncClient:
        sock = await asyncio.to_thread(connected, self._path, CONNECT_TIMEOUT_S)
        sock.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_FRAME_BYTES)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            self.hello = greeting(parsed(await reader.readline()))
        self._spawn(self._read(reader))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._writer is not None:
            self._writer.close()

    async def ask(
        self,
        text: str,
        *,
        cwd: str | os.PathLike[str] | None = None,
        yes: bool = False,
        approve: Approve | None = None,
        data: bytes | str | None = None,
        write: Sequence[str | os.PathLike[str]] = (),
        policy: str = "",
        session: str = "",
        on_event: OnEvent | None = None,
    ) -> Result:
        params = request_params(
            cwd=cwd, yes=yes, approve=approve, data=data, write=write, policy=policy, session=session
        )
        return result(await self._request("ask", params | {"text": text}, approve, on_event))

    async def plan(self, text: str, *, cwd: str | os.PathLike[str] | None = None, **given: Any) -> Result:
        params = request_params(cwd=cwd, yes=False, approve=None, **given)
        return result(await self._request("plan", params | {"text": text}, None, None))

    async def call(
        self,
        tool: str,
        args: JsonObject | None = None,
        *,
        cwd: str | os.PathLike[str] | None = None,
        yes: bool = False,
        approve: Approve | None = None,
        data: bytes | str | None = None,
        write: Sequence[str | os.PathLike[str]] = (),
        policy: str = "",
        then: Sequence[tuple[str, JsonObject]] = (),
        on_event: OnEvent | None = None,
    ) -> Result:
        params = request_params(cwd=cwd, yes=yes, approve=approve, data=data, write=write, policy=policy)
        return result(await self._request("call", params | calls_params(tool, args, then), approve, on_event))

    async def undo(self, undo_id: str = "", *, yes: bool = False, approve: Approve | None = None) -> Result:
        params = request_params(cwd="/", yes=yes, approve=approve)
        del params["cwd"]
        return result(await self._request("undo", params | {"undo_id": undo_id}, approve, None))

    async def translate(self, text: str, *, cwd: str | os.PathLike[str] | None = None) -> Translation:
        given = request_params(cwd=cwd, yes=False, approve=None)
        found = await self.rpc("translate", {"text": text, "cwd": given["cwd"], "id": given["id"]})
        return Translation(found["command"], found["confidence"], found["route"])

    async def tools(self) -> list[JsonObject]:
        return list((await self.rpc("tools"))["tools"])

    async def history(self, limit: int = 20) -> list[JsonObject]:
        return list((await self.rpc("history", {"limit": limit}))["entries"])

    async def status(self) -> JsonObject:
        return await self.rpc("status")

    async def check(
        self, command: str | Sequence[str], *, cwd: str | os.PathLike[str] | None = None
    ) -> JsonObject:
        words = command if isinstance(command, str) else list(command)
        return await self.rpc("policy.check", {"command": words, "cwd": os.fspath(cwd or Path.cwd())})

    async def rpc(self, method: str, params: JsonObject | None = None) -> JsonObject:
        return await self._request(method, params or {}, None, None)

    # --- frames ---

    async def _request(
        self, method: str, params: JsonObject, approve: Approve | None, on_event: OnEvent | None
    ) -> JsonObject:
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        request_id = str(params.get("id", ""))
        number = self._send(method, params, _Pending(answer, request_id, approve, on_event))
        try:
            return outcome(await answer)
        except asyncio.CancelledError:
            if request_id and self._writer is not None and not self._writer.is_closing():
                self._send("cancel", {"id": request_id}, None)
            raise
        finally:
            self._pending.pop(number, None)

    def _send(self, method: str, params: JsonObject, pending: _Pending | None) -> int:
        if self._writer is None or self._writer.is_closing():
            raise DaemonUnreachable("the connection is closed", "Connect again.")
        self._last_id += 1
        if pending is not None:
            self._pending[self._last_id] = pending
        frame = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        self._writer.write(encode(frame))
        return self._last_id

    async def _read(self, reader: asyncio.StreamReader) -> None:
        error: LlmosError = DaemonUnreachable("the daemon went away before it had answered", "Connect again.")
        try:
            while line := await reader.readline():
                self._receive(parsed(line))
        except (OSError, ValueError) as broken:
            error = DaemonUnreachable(f"the connection broke: {broken}", "Connect again.")
        except LlmosError as broken:
            error = broken
        finally:
            for pending in self._pending.values():
                if not pending.answer.done():
                    pending.answer.set_exception(error)
            if self._writer is not None:
                self._writer.close()

    def _receive(self, frame: JsonObject) -> None:
        if (event := event_of(frame)) is None:
            number = frame.get("id")
            pending = self._pending.get(number) if isinstance(number, int) else None
            if pending is not None and not pending.answer.done():
                pending.answer.set_result(frame)
            return
        for pending in tuple(self._pending.values()):
            if pending.request_id != event.id:
                continue
            if pending.on_event is not None:
                pending.on_event(event)
            if event.kind == "approval" and pending.approve is not None:
                self._spawn(self._approve(question_of(event), pending.approve))

    async def _approve(self, question: Question, approve: Approve) -> None:
        approved = await asyncio.to_thread(approve, question)
        self._send("approve", answer(question, bool(approved)), None)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
