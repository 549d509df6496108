"""The blocking client."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
from llmos.client.results import Approve, Event, JsonObject, OnEvent, Result, Translation, question_of, result
from llmos.errors import DaemonUnreachable
from llmos.wire import MAX_FRAME_BYTES, FrameBuffer, encode


class Client:
    """One connection, one request at a time; not for several threads at once."""

    def __init__(
        self, socket_path: str | os.PathLike[str] | None = None, *, timeout_s: float | None = None
    ) -> None:
        """`timeout_s`: how long any answer may take before DaemonUnreachable is raised; None: for ever."""
        self._sock = connected(socket_path, CONNECT_TIMEOUT_S)
        self._frames = FrameBuffer(MAX_FRAME_BYTES)
        self._ready: list[JsonObject] = []
        self._last_id = 0
        try:
            self.hello = greeting(self._receive())
        except BaseException:
            self._sock.close()
            raise
        self._sock.settimeout(timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    # --- requests ---

    def ask(
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
        """A request in words. What the policy asks about: `yes` approves it, `approve` is asked, else it is
        not done (`needs_approval`). `data` is material for it, never instructions. Raises LlmosError."""
        params = request_params(
            cwd=cwd, yes=yes, approve=approve, data=data, write=write, policy=policy, session=session
        )
        return result(self._request("ask", params | {"text": text}, approve, on_event))

    def plan(self, text: str, *, cwd: str | os.PathLike[str] | None = None, **given: Any) -> Result:
        """What a request would do, tried on a copy; nothing is changed."""
        params = request_params(cwd=cwd, yes=False, approve=None, **given)
        return result(self._request("plan", params | {"text": text}, None, None))

    def call(
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
        """One typed call, without the model, through the same policy and sandbox; `then` are calls after it:
        all are judged before the first runs, the first failure ends them, and one undo takes all back.
        """
        params = request_params(cwd=cwd, yes=yes, approve=approve, data=data, write=write, policy=policy)
        return result(self._request("call", params | calls_params(tool, args, then), approve, on_event))

    def undo(self, undo_id: str = "", *, yes: bool = False, approve: Approve | None = None) -> Result:
        """Take back a change (the newest without an id), or do it again."""
        params = request_params(cwd="/", yes=yes, approve=approve)
        del params["cwd"]
        return result(self._request("undo", params | {"undo_id": undo_id}, approve, None))

    def translate(self, text: str, *, cwd: str | os.PathLike[str] | None = None) -> Translation:
        """The one shell command line that would do it; nothing runs. Raises NotUnderstood."""
        given = request_params(cwd=cwd, yes=False, approve=None)
        found = self.rpc("translate", {"text": text, "cwd": given["cwd"], "id": given["id"]})
        return Translation(found["command"], found["confidence"], found["route"])

    # --- questions ---

    def tools(self) -> list[JsonObject]:
        """The tools: name, summary, parameters (JSON Schema), examples."""
        return list(self.rpc("tools")["tools"])

    def history(self, limit: int = 20) -> list[JsonObject]:
        """What was done for you, newest last."""
        return list(self.rpc("history", {"limit": limit})["entries"])

    def status(self) -> JsonObject:
        return self.rpc("status")

    def check(self, command: str | Sequence[str], *, cwd: str | os.PathLike[str] | None = None) -> JsonObject:
        """The policy's verdict on a command, with its effects; nothing runs."""
        words = command if isinstance(command, str) else list(command)
        return self.rpc("policy.check", {"command": words, "cwd": os.fspath(cwd or Path.cwd())})

    def events(self) -> Iterator[Event]:
        """The events of all your requests, from now on, until the connection is closed."""
        self.rpc("subscribe")
        while True:
            if event := event_of(self._receive()):
                yield event

    def rpc(self, method: str, params: JsonObject | None = None) -> JsonObject:
        """Any method of the protocol, as plain JSON. Raises the daemon's error."""
        return self._request(method, params or {}, None, None)

    # --- frames ---

    def _request(
        self, method: str, params: JsonObject, approve: Approve | None, on_event: OnEvent | None
    ) -> JsonObject:
        number = self._send(method, params)
        while True:
            frame = self._receive()
            if (event := event_of(frame)) is None:
                if frame.get("id") == number:
                    return outcome(frame)
                continue
            if on_event is not None:
                on_event(event)
            if event.kind == "approval" and approve is not None and event.id == params.get("id"):
                question = question_of(event)
                self._send("approve", answer(question, bool(approve(question))))

    def _send(self, method: str, params: JsonObject) -> int:
        self._last_id += 1
        frame = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        try:
            self._sock.sendall(encode(frame))
        except OSError as error:
            raise DaemonUnreachable(f"the daemon closed the connection: {error}", "Connect again.") from error
        return self._last_id

    def _receive(self) -> JsonObject:
        while not self._ready:
            try:
                chunk = self._sock.recv(1 << 16)
            except TimeoutError as error:
                raise DaemonUnreachable("the daemon did not answer in time", "Raise timeout_s.") from error
            except OSError as error:
                raise DaemonUnreachable(f"the connection broke: {error}", "Connect again.") from error
            if not chunk:
                raise DaemonUnreachable("the daemon went away before it had answered", "Connect again.")
            self._ready += [parsed(frame) for frame in self._frames.feed(chunk)]
        return self._ready.pop(0)
