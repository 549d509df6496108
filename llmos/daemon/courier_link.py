"""One living courier: frames both ways, and its requests for connections.

It is trusted with keys and with what was approved to leave, and with nothing else: each connection it asks
for is made by `on_dial`, which knows what was approved. What it sends that is no frame ends it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from llmos import wire
from llmos.cloud.frames import Attempted, Equip, Equipped, FromCourier, Prepare, Prepared, Send
from llmos.daemon import carrier, supervisor
from llmos.daemon.link import READ_BYTES, WorkerEnd
from llmos.errors import CloudError, LlmosError, WireError, from_rpc
from llmos.messages import Delta, Failed, Message, Thought

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
_MAX_DIAL_BYTES = 4096
_FRAME: TypeAdapter[Any] = TypeAdapter(FromCourier)
_T = TypeVar("_T", bound=Message)

OnDial = Callable[[int, str, str], Awaitable[socket.socket]]  # number, request, backend


class CourierLink(WorkerEnd):
    def __init__(
        self,
        worker: supervisor.Worker,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dials: socket.socket,
        *,
        on_dial: OnDial,
        on_attempt: Callable[[Attempted], None],
    ) -> None:
        super().__init__(worker, reader, writer)
        loop = asyncio.get_running_loop()
        self.equipped: asyncio.Future[Equipped] = loop.create_future()
        self._dials, self._on_dial, self._on_attempt = dials, on_dial, on_attempt
        self._pending: dict[str, asyncio.Future[Message]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        loop.add_reader(dials.fileno(), self._take_dial)
        self.ended = asyncio.create_task(self._live())

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        equip: Equip,
        *,
        variables: Collection[str],
        on_dial: OnDial,
        on_attempt: Callable[[Attempted], None],
    ) -> CourierLink:
        """Start one and wait until it is confined. Raises CloudError, PlannerDied."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            worker = supervisor.start_worker(argv, more={"--dial": theirs}, variables=variables)
        reader, writer = await asyncio.open_connection(sock=worker.sock)
        link = cls(worker, reader, writer, ours, on_dial=on_dial, on_attempt=on_attempt)
        link.send(equip)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(link.equipped)
        except TimeoutError as error:
            link.kill()
            raise CloudError("the courier did not start in time", "Read the daemon's log.") from error
        return link

    async def prepare(self, prepare: Prepare) -> Prepared:
        """Raises CloudError, or what the courier reports."""
        answer = await self._submit(prepare.id, prepare)
        assert isinstance(answer, Prepared)
        return answer

    def ask(self, send: Send) -> asyncio.Future[Message]:
        """The future Thought; it raises CloudError, or what the courier reports."""
        return self._submit(send.id, send)

    def _submit(self, request: str, message: Message) -> asyncio.Future[Message]:
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if self.lost:
            answer.set_exception(_gone())
        else:
            self._pending[request] = answer
            self.send(message)
        return answer

    # --- frames ---

    async def _live(self) -> None:
        try:
            await self._read()
        except (WireError, ValidationError, AssertionError) as error:
            log.error("the courier sent what is no frame: %s", type(error).__name__)
            self._worker.kill()
        except OSError:
            pass
        self.lost = True
        self._writer.close()
        asyncio.get_running_loop().remove_reader(self._dials.fileno())
        self._dials.close()
        await asyncio.to_thread(self._worker.reap)
        waiting: list[asyncio.Future[Any]] = [self.equipped, *self._pending.values()]
        self._pending.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(_gone())
                future.exception()

    async def _read(self) -> None:
        frames = wire.FrameBuffer()
        while chunk := await self._reader.read(READ_BYTES):
            for frame in frames.feed(chunk):
                self._take(_FRAME.validate_json(frame))

    def _take(self, frame: Equipped | Prepared | Attempted | Delta | Thought | Failed) -> None:
        if isinstance(frame, Attempted):
            self._on_attempt(frame)
        elif isinstance(frame, Equipped):
            if not self.equipped.done():
                self.equipped.set_result(frame)
        elif isinstance(frame, Failed) and not frame.id:
            if not self.equipped.done():
                self.equipped.set_exception(from_rpc(frame.error))
        elif not isinstance(frame, Delta):
            self._answer(frame)

    def _answer(self, frame: Prepared | Thought | Failed) -> None:
        future = self._pending.pop(frame.id, None)
        if future is None or future.done():
            return
        if isinstance(frame, Failed):
            future.set_exception(from_rpc(frame.error))
        else:
            future.set_result(frame)

    # --- dials ---

    def _take_dial(self) -> None:
        try:
            data = self._dials.recv(_MAX_DIAL_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._dials.fileno())
            return
        task = asyncio.create_task(self._dial(data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial(self, data: bytes) -> None:
        try:
            asked = json.loads(data)
            number, request, backend = int(asked["n"]), str(asked["id"]), str(asked["backend"])
        except (ValueError, KeyError, TypeError):
            self.kill()
            return
        sock, problem = None, None
        try:
            sock = await self._on_dial(number, request, backend)
        except LlmosError as error:
            problem = {"kind": error.kind, "message": str(error), "next_step": error.next_step}
        except TimeoutError:
            problem = {"kind": "OSError", "message": "no connection in time"}
        except OSError as error:
            problem = {"kind": "OSError", "message": error.strerror or str(error)}
        answer = json.dumps({"n": number, "error": problem}).encode()
        carrier.hand_over(self._dials, answer, sock)


def _gone() -> CloudError:
    return CloudError(
        "the courier, which speaks with backends, ended", "Try again; the daemon's log says why."
    )
