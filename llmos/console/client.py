"""A blocking client of the daemon's socket, on plain dicts: no pydantic, no asyncio, quick to import.

Protocol: JSON-RPC 2.0, one JSON value per line; the daemon greets with the notification `hello`
{protocol, version, pid}; progress comes as notifications `event` {id, kind, data}. One client runs one
request at a time. It reconnects to nothing: a daemon that goes away ends the request with an error.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from llmos import paths
from llmos.console.interrupts import Interrupts
from llmos.errors import CallFailed, Cancelled, DaemonUnreachable, LlmosError, WireError, from_rpc
from llmos.wire import PROTOCOL_VERSION, FrameBuffer, decode, encode

JsonObject = dict[str, Any]

CANCEL_GRACE_S = 10.0  # how long the daemon may take to report the end of what we cancelled
TICK_S = 0.1
INTERNAL_ERROR = -32603


class Listener(Protocol):
    """Who follows a running request. `event` and `refused` may return the params of an `approve`."""

    def event(self, event: JsonObject, interrupts: Interrupts) -> JsonObject | None: ...

    def refused(self, error: LlmosError, interrupts: Interrupts) -> JsonObject | None: ...

    def tick(self) -> None: ...

    def notice(self, text: str) -> None: ...


def new_id() -> str:
    return os.urandom(6).hex()


def _log_hint() -> str:
    return f"Run it again (one of several steps: llmos resume); the daemon's log is {paths.log_file()}."


class Client:
    """One greeted connection. `hello` is what the daemon said of itself."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.path = path
        self.hello: JsonObject = {}
        self._sock = sock
        self._buffer = FrameBuffer()
        self._frames: deque[JsonObject] = deque()
        self._last_id = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    # --- frames ---

    def send(self, method: str, params: JsonObject | None = None) -> int:
        """Send one request and return its JSON-RPC id."""
        self._last_id += 1
        frame = encode({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params or {}})
        try:
            self._sock.sendall(frame)
        except OSError as error:
            # A daemon that refuses a frame says why before it closes: prefer its words to EPIPE.
            raise self._last_words() or DaemonUnreachable(
                f"the daemon closed the connection: {error.strerror}", _log_hint()
            ) from error
        return self._last_id

    def receive(self, timeout_s: float | None, interrupts: Interrupts | None = None) -> JsonObject | None:
        """The next frame, or None when the time is over or Ctrl-C came first."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        watched: list[Any] = [self._sock] if interrupts is None else [self._sock, interrupts]
        while not self._frames:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select(watched, [], [], left)
            if self._sock not in ready:
                return None
            self._fill()
        return self._frames.popleft()

    def _fill(self) -> None:
        try:
            chunk = self._sock.recv(1 << 16)
        except OSError as error:
            raise DaemonUnreachable(f"the connection broke: {error.strerror}", _log_hint()) from error
        if not chunk:
            raise DaemonUnreachable("the daemon went away before it had answered", _log_hint())
        for frame in self._buffer.feed(chunk):
            value = decode(frame)
            if not isinstance(value, dict):
                raise WireError("the daemon sent a frame that is no JSON object", "Run: llmos doctor")
            self._frames.append(value)

    def _last_words(self) -> LlmosError | None:
        try:
            while (frame := self.receive(0.2)) is not None:
                if isinstance(frame.get("error"), dict):
                    return from_rpc(frame["error"])
        except LlmosError:
            pass
        return None

    # --- calls ---

    def greet(self, timeout_s: float) -> None:
        """Wait for `hello`; raises WireError for another protocol, or what the daemon says instead."""
        frame = self.receive(timeout_s)
        if frame is None:
            raise DaemonUnreachable(
                f"something listens at {self.path} but does not greet as llmos does",
                "Run: llmos daemon stop, then try again.",
            )
        if isinstance(frame.get("error"), dict):
            raise from_rpc(frame["error"])
        params = frame.get("params")
        self.hello = params if frame.get("method") == "hello" and isinstance(params, dict) else {}
        if self.hello.get("protocol") != PROTOCOL_VERSION:
            raise WireError(
                f"the daemon speaks protocol {self.hello.get('protocol')}, this client {PROTOCOL_VERSION}",
                "Stop the old daemon: llmos daemon stop",
            )

    def call(self, method: str, params: JsonObject | None = None, *, timeout_s: float = 10.0) -> JsonObject:
        """One short call; raises the daemon's error, or DaemonUnreachable when it does not answer in time."""
        number = self.send(method, params)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            frame = self.receive(left)
            if frame is not None and frame.get("id") == number and "method" not in frame:
                return _result(frame)
        raise DaemonUnreachable(f"the daemon did not answer {method} within {timeout_s:g} s", _log_hint())

    def request(
        self,
        method: str,
        params: JsonObject,
        listener: Listener,
        interrupts: Interrupts,
        *,
        timeout_s: float = 0.0,
    ) -> JsonObject:
        """Run one request (`ask`, `plan`, `call`, `translate`) to its end and return its result.

        `params["id"]` names it. The first Ctrl-C, or the end of `timeout_s` (0: no limit), cancels it and
        waits for how it ended; a second Ctrl-C raises Cancelled at once. Raises the daemon's error.
        """
        return _Request(self, params["id"], listener, interrupts, timeout_s).run(method, params)


class _Request:
    """The state of one running request: what is awaited, and whether it was cancelled."""

    def __init__(
        self, client: Client, request_id: str, listener: Listener, interrupts: Interrupts, timeout_s: float
    ) -> None:
        self._client, self._id = client, request_id
        self._listener, self._interrupts = listener, interrupts
        self._deadline = time.monotonic() + timeout_s if timeout_s else None
        self._timeout_s = timeout_s
        self._approvals: set[int] = set()  # JSON-RPC ids of the answers given
        self._seen = 0  # Ctrl-Cs already acted on
        self._give_up: float | None = None  # set once cancelled

    def run(self, method: str, params: JsonObject) -> JsonObject:
        number = self._client.send(method, params)
        while True:
            frame = self._client.receive(TICK_S, self._interrupts)
            self._check_cancel()
            if frame is None:
                self._listener.tick()
            elif frame.get("id") == number and "method" not in frame:
                return _result(frame)
            else:
                self._answer(frame)

    def _answer(self, frame: JsonObject) -> None:
        reply = None
        if frame.get("method") == "event" and isinstance(frame.get("params"), dict):
            if frame["params"].get("id") == self._id:
                reply = self._listener.event(frame["params"], self._interrupts)
        elif frame.get("id") in self._approvals and isinstance(frame.get("error"), dict):
            # The answer was not taken (an edit that is no valid call, say): the question still stands.
            reply = self._listener.refused(from_rpc(frame["error"]), self._interrupts)
        if reply is not None:
            self._approvals.add(self._client.send("approve", {"id": self._id, **reply}))

    def _check_cancel(self) -> None:
        now = time.monotonic()
        if self._interrupts.count > self._seen:
            self._interrupts.drain()
            if self._seen or self._interrupts.count > 1:
                raise Cancelled("left while the request was being cancelled", "See: llmos history")
            self._seen = self._interrupts.count
            self._cancel("cancelling … (Ctrl-C again leaves at once)")
        elif self._deadline is not None and now > self._deadline:
            self._deadline = None
            self._cancel(f"not done after {self._timeout_s:g} s: cancelling …")
        if self._give_up is not None and now > self._give_up:
            raise Cancelled("the daemon did not report the end of the cancelled request", "Run: llmos status")

    def _cancel(self, why: str) -> None:
        if self._give_up is None:
            self._listener.notice(why)
            self._give_up = time.monotonic() + CANCEL_GRACE_S
            self._client.send("cancel", {"id": self._id})


def _error(error: JsonObject) -> LlmosError:
    """The daemon's error; its bugs (JSON-RPC's -32603) are failures and nobody's wrong usage."""
    found = from_rpc(error)
    return CallFailed(str(found), found.next_step) if error.get("code") == INTERNAL_ERROR else found


def _result(frame: JsonObject) -> JsonObject:
    if isinstance(frame.get("error"), dict):
        raise _error(frame["error"])
    result = frame.get("result")
    return result if isinstance(result, dict) else {"value": result}
