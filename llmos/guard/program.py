"""One sandboxed program as the broker's event loop sees it: its output, its end, and its death.

Nothing here blocks: output and status are read when the loop says they are there. Output beyond the
cap is read and thrown away, so that a program is never stuck on a full pipe and `make | tee` ends
as it would elsewhere; the time limit bounds what is too much.

Killing means the pid namespace's init, so nothing inside can escape it by setsid, nohup or a double fork.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.errors import SandboxUnavailable
from llmos.guard import layers
from llmos.waiting import done_or_set

OnOutput = Callable[[str, str], None]

_CHUNK_BYTES = 1 << 16
_MAX_FDS = 253  # SCM_MAX_FD
_DEATH_TIMEOUT_S = 10.0
_OUT_OF_MEMORY = (
    "[the call needed more memory than it may use and was ended in part; the bound is max_memory_bytes in the"
    " [sandbox] section of config.toml, or memory_bytes in [quota] for all of a user's calls]\n"
)
KILLED = 128 + signal.SIGKILL


class Stream:
    """One of the program's outputs: decoded as it comes, kept and passed on up to a cap."""

    def __init__(self, fd: int, name: str, max_bytes: int, on_output: OnOutput) -> None:
        self._fd, self._name, self._on_output = fd, name, on_output
        self._left = max_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._parts: list[str] = []
        self.dropped_bytes = 0
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._readable)

    @property
    def text(self) -> str:
        note = f"\n[{self.dropped_bytes} more bytes of {self._name} left out]\n" if self.dropped_bytes else ""
        return "".join(self._parts) + note

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        kept = data[: self._left]
        self._left -= len(kept)
        self.dropped_bytes += len(data) - len(kept)
        self._keep(self._decode(kept, final=not data))
        if not data:
            self.close()

    def _keep(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self._on_output(self._name, text)

    def close(self) -> None:
        if not self.ended.done():
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self.ended.set_result(None)


class Status:
    """What launcher and init tell about the program, and the handle to kill it by."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pending = b""
        self._pidfd = -1
        self._doomed = False  # killed, perhaps before there was anything to kill
        self.init_pid = 0
        self.exit_code: int | None = None
        self.out_of_memory = False
        self.failure: tuple[str, str] | None = None
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.listeners: asyncio.Future[list[int]] = loop.create_future()  # of a call held to named machines
        self.ended: asyncio.Future[None] = loop.create_future()
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _CHUNK_BYTES, _MAX_FDS)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in filter(None, lines):
            self._told(json.loads(line), fds)
        if self._doomed:
            self.kill()
        if not data:
            self._end()

    def _told(self, message: dict[str, Any], fds: list[int]) -> None:
        """One line, and the descriptors that came with it: one read never brings those of two messages."""
        if "pid" in message:
            self.init_pid = message["pid"]
            if fds:
                self._pidfd = fds[0]
        if "listening" in message:
            self.listeners.set_result(fds)
        if "layer" in message:
            self.failure = (message["layer"], message["error"])
        if "started" in message:
            _settle(self.started)
        self.out_of_memory |= "out-of-memory" in message
        if "exit-code" in message:
            self.exit_code = message["exit-code"]
            _settle(self.ended)

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock.fileno())
        self._sock.close()
        _settle(self.started)
        _settle(self.ended)

    def kill(self) -> None:
        """SIGKILL all of it, now or, where it is only just being started, as soon as it can be held."""
        self._doomed = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def gone(self) -> None:
        """Wait until everything inside is dead: the init says so at its end, or is dead itself."""
        await self.ended
        if self.exit_code is None and self._pidfd >= 0:
            await readable(self._pidfd)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._end()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        while self.listeners.done() and self.listeners.result():  # what nobody has taken
            os.close(self.listeners.result().pop())


def _first_child(init_pid: int) -> int:
    """The program itself, seen from the host: the init has started it and nothing else."""
    try:
        children = Path(f"/proc/{init_pid}/task/{init_pid}/children").read_text().split()
    except OSError:
        children = []
    return int(children[0]) if children else init_pid


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _settle, future)
    try:
        await future
    finally:
        loop.remove_reader(fd)


@dataclass(frozen=True, slots=True)
class Ended:
    """How one program ended. `exit_code` is its own, or 128+N when signal N ended it."""

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool
    timed_out: bool
    cancelled: bool


class Program:
    """A program that was handed to the launcher. Always `close` it."""

    def __init__(self, status: socket.socket, out_fd: int, err_fd: int, *, cap: int, tell: OnOutput) -> None:
        self.status = Status(status)
        self._reason = ""
        self._out = Stream(out_fd, "stdout", cap, tell)
        self._err = Stream(err_fd, "stderr", cap, tell)

    async def wait(self, timeout_s: float, cancel: asyncio.Event) -> Ended:
        """Until the end, the time limit or `cancel`; in each case nothing of it is left running.

        Raises SandboxUnavailable (or UsageError) when a layer failed before the program began.
        """
        ended = asyncio.ensure_future(self._all_ended())
        try:
            early = not await done_or_set(ended, cancel, timeout_s=timeout_s)
            if early:
                self.status.kill()
                await self._dead(ended)
            return self._result(timed_out=early and not cancel.is_set(), cancelled=early and cancel.is_set())
        finally:
            ended.cancel()

    async def settle(self, check_s: float) -> int:
        """For a program that is to stay: its pid once it runs, or 0 when it ended within `check_s`."""
        await asyncio.wait({self.status.started}, timeout=_DEATH_TIMEOUT_S)
        await asyncio.wait({self.status.ended}, timeout=check_s)
        return 0 if self.status.ended.done() else _first_child(self.status.init_pid)

    def release(self) -> None:
        """Let the program live on without us."""
        self.status.close()
        self._out.close()
        self._err.close()

    def end(self, reason: str) -> None:
        """End it before its time; the reason, a line, goes to its stderr."""
        self._reason = reason
        self.status.kill()

    async def _all_ended(self) -> None:
        await self.status.gone()
        await asyncio.gather(self._out.ended, self._err.ended)

    async def _dead(self, ended: asyncio.Future[None]) -> None:
        _, pending = await asyncio.wait({ended}, timeout=_DEATH_TIMEOUT_S)
        if pending:  # in an uninterruptible system call: say so rather than claim that it is gone
            raise SandboxUnavailable(
                f"a killed command still holds process {self.status.init_pid}",
                "It waits in the kernel, mostly for a disk or a network file system: look at its state with"
                f" ps -o pid,stat,wchan -p {self.status.init_pid}",
            )

    def ended_at_once(self, stderr: str) -> tuple[int, str]:
        """Exit code and message of a program that was to stay and did not."""
        ended = self._result(timed_out=False, cancelled=False, stderr=stderr)
        return ended.exit_code, ended.stderr

    def _result(self, *, timed_out: bool, cancelled: bool, stderr: str | None = None) -> Ended:
        stdout, stderr = self._out.text, self._err.text if stderr is None else stderr
        exit_code = self.status.exit_code
        if exit_code is None:
            if self.status.failure:
                raise layers.explain(*self.status.failure)
            exit_code = KILLED
        stderr += self._reason + (_OUT_OF_MEMORY if self.status.out_of_memory else "")
        truncated = bool(self._out.dropped_bytes or self._err.dropped_bytes)
        return Ended(exit_code, stdout, stderr, truncated, timed_out, cancelled)

    def close(self) -> None:
        self.status.kill()
        self.status.close()
        self._out.close()
        self._err.close()
