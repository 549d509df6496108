"""One living planner worker: frames both ways over its socketpair, and its end.

A frame that does not parse as `messages.FromPlanner` ends the worker: half-understood speech from the
process that reads untrusted text is not to be guessed at.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from llmos import wire
from llmos.config import ModelSettings
from llmos.daemon import planner_unit, supervisor
from llmos.errors import WireError, from_rpc
from llmos.messages import Delta, Failed, FromPlanner, Message, Ready, Think, Thought

log = logging.getLogger(__name__)

READ_BYTES = 1 << 16
AnyWorker = supervisor.Worker | planner_unit.UnitWorker
_FRAME: TypeAdapter[Ready | Delta | Thought | Failed] = TypeAdapter(FromPlanner)


class LinkLost(Exception):
    """The worker is gone; the text says how. Not an error for the person yet: it is tried again first."""


@dataclass(frozen=True, slots=True)
class _Pending:
    answer: asyncio.Future[Thought]
    on_delta: Callable[[str], None]


def _frame(message: Message) -> bytes:
    """As text at once: a list of all tools as Python objects would leave a megabyte of holes in the heap."""
    try:
        return message.model_dump_json().encode() + b"\n"
    except ValueError:  # a file name that is no UTF-8
        return wire.encode(message.model_dump(mode="json"))


class WorkerEnd:
    """Our end of a worker: what is said to it, and the ways it ends."""

    def __init__(self, worker: AnyWorker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lost = False
        self._worker, self._reader, self._writer = worker, reader, writer

    @property
    def pid(self) -> int:
        return self._worker.pid

    def send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(_frame(message))

    def close(self) -> None:
        """End of input: a worker that behaves leaves by itself, another is killed after a grace."""
        self.lost = True
        self._writer.close()

    def kill(self) -> None:
        self.lost = True
        self._worker.kill()


class Link(WorkerEnd):
    """`ready` resolves when weights are loaded, `ended` when the process is gone and reaped."""

    def __init__(self, worker: AnyWorker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(worker, reader, writer)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready_frame: Ready | None = None
        self._pending: dict[str, _Pending] = {}
        self.ended = asyncio.create_task(self._live())

    @classmethod
    async def start(cls, argv: Sequence[str], settings: ModelSettings) -> Link:
        """Start a worker; raises PlannerDied when there is no such program."""
        worker = await _started(argv, settings)
        reader, writer = await asyncio.open_connection(sock=worker.sock)
        return cls(worker, reader, writer)

    def submit(self, think: Think, on_delta: Callable[[str], None]) -> asyncio.Future[Thought]:
        """Send one request; the future raises LinkLost, or the error the worker reports."""
        answer: asyncio.Future[Thought] = asyncio.get_running_loop().create_future()
        if self.lost:
            answer.set_exception(LinkLost("it ended before the request reached it"))
        else:
            self._pending[think.id] = _Pending(answer, on_delta)
            self.send(think)
        return answer

    # --- reading ---

    async def _live(self) -> None:
        why = ""
        try:
            await self._read()
        except (WireError, ValidationError) as error:
            why = f"it sent what is no frame ({type(error).__name__})"
            log.error("the planner sent what is no frame: %s", str(error)[:500])
            self._worker.kill()
        except OSError:
            pass  # reset: it ended with our words unread
        self.lost = True
        self._writer.close()
        exit_code = await asyncio.to_thread(self._worker.reap)
        self._fail(why or _describe(exit_code))

    async def _read(self) -> None:
        frames = wire.FrameBuffer()
        while chunk := await self._reader.read(READ_BYTES):
            for frame in frames.feed(chunk):
                self._take(_FRAME.validate_json(frame))

    def _take(self, frame: Ready | Delta | Thought | Failed) -> None:
        if isinstance(frame, Ready):
            self.ready_frame = frame
            if not self.ready.done():
                self.ready.set_result(None)
        elif isinstance(frame, Failed) and not frame.id:
            if not self.ready.done():
                self.ready.set_exception(from_rpc(frame.error))
        elif (pending := self._pending.get(frame.id)) is not None:
            self._answer(pending, frame)
        # else: the tail of a request that was given up

    def _answer(self, pending: _Pending, frame: Delta | Thought | Failed) -> None:
        if isinstance(frame, Delta):
            pending.on_delta(frame.text)
            return
        del self._pending[frame.id]
        if pending.answer.done():
            return
        if isinstance(frame, Failed):
            pending.answer.set_exception(from_rpc(frame.error))
        else:
            pending.answer.set_result(frame)

    def _fail(self, why: str) -> None:
        lost = LinkLost(why)  # one for all: it is one loss
        waiting: list[asyncio.Future[Thought] | asyncio.Future[None]] = [self.ready]
        waiting += [pending.answer for pending in self._pending.values()]
        self._pending.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(lost)
                future.exception()  # marks it as seen: nobody may be waiting any more


async def _started(argv: Sequence[str], settings: ModelSettings) -> AnyWorker:
    """By the service manager, where it has a unit for it; any program but the usual one is our child."""
    place = os.environ.get(planner_unit.VARIABLE, "")
    usual = supervisor.WORKER_ARGV
    if not place or tuple(argv[: len(usual)]) != usual:
        return supervisor.start_worker(argv)  # not in a thread: it ends with the thread that started it
    return await asyncio.to_thread(planner_unit.start, place, settings)


def _describe(exit_code: int | None) -> str:
    if exit_code is None:
        return f"it ended (how: journalctl -u '{planner_unit.UNIT}*')"
    if exit_code == -signal.SIGKILL:
        return "it was killed (SIGKILL; often the kernel, for want of memory)"
    if exit_code < 0:
        return f"it died of signal {-exit_code}"
    return f"it ended with exit code {exit_code}"
