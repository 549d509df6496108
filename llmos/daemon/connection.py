"""One client's connection: frames in, replies and events out, and what becomes of its work when it goes.

- A broken frame is answered with an error and the connection goes on: the next newline is a fresh
  start. An oversized frame cannot be skipped cheaply, so it is answered and the connection closed.
- Control methods start at once and count against no limit, so they never wait behind work.
- A client that does not read is cut off when MAX_UNSENT_BYTES wait for it; nobody else is slowed.
- Frames are taken a few at a time in the user's turn (`shares`), so a flood delays whoever sends it.
- A frame that does not end in time is answered the same way.
- A client that has gone loses its running requests. One that has only closed its sending side (socat
  does at end of input) still gets its answers. The kernel tells the two apart: EPOLLHUP.

It knows nothing of what the methods do.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llmos import wire
from llmos.daemon import fairness, rpc
from llmos.daemon.rpc import JsonObject
from llmos.daemon.shares import Share
from llmos.errors import LlmosError, Overloaded, WireError
from llmos.messages import Caller

log = logging.getLogger(__name__)

READ_BYTES = 1 << 16
MAX_UNSENT_BYTES = 32 << 20  # two of the largest results
MAX_BACKLOG_BYTES = 1 << 20  # above it, events for mere onlookers are dropped
MAX_RUNNING_REQUESTS = 32  # of one client; the queue as a whole has its own bound
LAST_WORDS_S = 1.0
FRAME_TIMEOUT_S = 60.0
FRAMES_OF_A_TURN = 4

Method = Callable[[JsonObject, "Connection"], Awaitable[JsonObject]]


@dataclass(frozen=True, slots=True)
class Table:
    """The methods by name; `control` names those that no limit on running requests holds up."""

    methods: Mapping[str, Method]
    control: frozenset[str]
    left: Callable[[Connection], None]  # called once, when the client has gone


class Connection:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        caller: Caller,
        table: Table,
        share: Share | None = None,
    ) -> None:
        """`share` is what all connections of this user may hold together."""
        self.caller = caller
        self._share = share or Share(bounded=False)
        self._pending_bytes = 0  # of a frame that is not complete yet
        self.gone = False
        self._reader, self._writer = reader, writer
        self._table = table
        self._frame_deadline: float | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._controls: set[asyncio.Task[None]] = set()

    # --- life ---

    async def serve(self, hello: JsonObject) -> None:
        """Speak with the client until it has gone; never raises for what the client did."""
        fairness.serving.set(self.caller.uid)
        try:
            self.send(rpc.notification("hello", hello))
            await self._read()
            await self._linger()
        except (WireError, Overloaded) as error:
            await self._close_with(error)
        except ConnectionError:
            pass  # it went away in the middle: the same as going away politely
        finally:
            self._wait_with(0)
            self.gone = True
            self._table.left(self)
            self._writer.close()

    def close(self) -> None:
        """End the connection from our side (the daemon stops); what was sent is still delivered."""
        self._writer.close()

    async def _read(self) -> None:
        frames = wire.FrameBuffer()
        while chunk := await self._next_chunk(frames.pending_bytes):
            complete = frames.feed(chunk)
            while some := list(islice(complete, FRAMES_OF_A_TURN)):
                async with self._share.turn():
                    for frame in some:
                        self._receive(frame)
            self._wait_with(frames.pending_bytes)

    def _wait_with(self, num_bytes: int) -> None:
        """So much of an unfinished frame waits here. Raises Overloaded."""
        more, self._pending_bytes = num_bytes - self._pending_bytes, num_bytes
        self._share.hold(more)

    async def _next_chunk(self, pending_bytes: int) -> bytes:
        """A frame that was begun has FRAME_TIMEOUT_S to end; between frames a client may be silent."""
        if not pending_bytes:
            self._frame_deadline = None
            return await self._reader.read(READ_BYTES)
        loop = asyncio.get_running_loop()
        self._frame_deadline = self._frame_deadline or loop.time() + FRAME_TIMEOUT_S
        try:
            async with asyncio.timeout_at(self._frame_deadline):
                return await self._reader.read(READ_BYTES)
        except TimeoutError as error:
            raise WireError(
                f"a frame was not finished within {FRAME_TIMEOUT_S:g} s", "Send each frame in one go."
            ) from error

    async def _linger(self) -> None:
        """After the client's end of input: let its requests finish, unless it has gone altogether."""
        tasks = self._requests | self._controls
        if not tasks:
            return
        gone = asyncio.create_task(_hung_up(self._writer.get_extra_info("socket").fileno()))
        finished = asyncio.create_task(asyncio.wait(tasks))
        await asyncio.wait([gone, finished], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if finished.done():
            await self._writer.drain()

    async def _close_with(self, error: LlmosError) -> None:
        """Say why, then read and throw away for a moment, so that a client still sending gets to read it."""
        self.send(rpc.refusal(None, error))
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                while await self._reader.read(READ_BYTES):
                    pass
        except (TimeoutError, ConnectionError):
            pass

    # --- requests ---

    def _receive(self, frame: bytes) -> None:
        try:
            request = rpc.parse(frame)
        except rpc.Fault as fault:
            self.send(rpc.refusal(fault.request_id, fault))
            return
        method = self._table.methods.get(request.method)
        if method is None:
            known = ", ".join(sorted(self._table.methods))
            self._refuse(request, rpc.unknown_method(request.method, known))
        elif request.method in self._table.control:
            self._start(request, method, self._controls, len(frame))
        elif len(self._requests) >= MAX_RUNNING_REQUESTS:
            full = f"this connection already has {len(self._requests)} requests running"
            self._refuse(request, Overloaded(full, "Wait for one of them to finish."))
        else:
            self._start(request, method, self._requests, len(frame))

    def _start(
        self, request: rpc.Request, method: Method, group: set[asyncio.Task[None]], num_bytes: int
    ) -> None:
        try:
            if group is self._requests:
                self._share.check_working()
            self._share.hold(num_bytes)
        except Overloaded as error:
            self._refuse(request, error)
            return
        self._share.working += 1
        task = asyncio.create_task(self._work(request, method))
        group.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            group.discard(task)
            self._share.working -= 1
            self._share.hold(-num_bytes)

        task.add_done_callback(ended)

    async def _work(self, request: rpc.Request, method: Method) -> None:
        """The session's broad catch: whatever a request runs into ends that request, never the daemon."""
        try:
            result = await method(request.params, self)
        except Exception as error:
            self._refuse(request, _as_reported(error))
        else:
            self._reply(request, result)

    # --- sending ---

    def _reply(self, request: rpc.Request, result: JsonObject) -> None:
        if not request.is_notification:
            self.send(rpc.reply(request.id, result))

    def _refuse(self, request: rpc.Request, error: LlmosError) -> None:
        if not request.is_notification:
            self.send(rpc.refusal(request.id, error))

    def event(self, params: JsonObject, *, may_drop: bool = False) -> None:
        """Send progress; for an onlooker (`may_drop`) it is left out while much waits unread."""
        if not (may_drop and self.unread_bytes > MAX_BACKLOG_BYTES):
            self.send(rpc.notification("event", params))

    def send(self, value: Any) -> None:
        if self._writer.is_closing():
            return
        if self.unread_bytes > MAX_UNSENT_BYTES or self._share.reads_too_little(self):
            log.warning("cut off a client of uid %d that does not read", self.caller.uid)
            self._writer.transport.abort()
            return
        self._writer.write(wire.encode(value))

    @property
    def unread_bytes(self) -> int:
        return self._writer.transport.get_write_buffer_size()


async def _hung_up(fd: int) -> None:
    """Wait until the peer has closed both directions of `fd`.

    An epoll set that asks for nothing still reports EPOLLHUP (epoll_ctl(2)), and is itself a file the
    event loop can watch; the loop's own watch would wake for the half-close again and again.
    """
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    with select.epoll() as epoll:
        epoll.register(fd, 0)
        loop.add_reader(epoll.fileno(), gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(epoll.fileno())


def _as_reported(error: Exception) -> LlmosError:
    if isinstance(error, LlmosError):
        return error
    log.error("a bug, please report it", exc_info=error)
    return rpc.Fault(
        rpc.INTERNAL_ERROR,
        f"an error inside the daemon: {type(error).__name__}: {error}",
        "Please report it; the daemon's log has the details.",
    )
