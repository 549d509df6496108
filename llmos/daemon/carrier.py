"""Connections to backends: made by the broker, carried for the courier, counted, and cut.

The courier gets one end of a socketpair; what it writes there goes to the one address that was dialled, and
what comes back goes to it. TLS runs through it untouched, so nothing is read here. A connection ends
with the request it was made for, and at its limits of bytes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from urllib.parse import unquote, urlsplit

from llmos.config import BackendSettings

MAX_DOWN_BYTES = 32 << 20
_CHUNK = 1 << 16


class Carrier:
    """One connection. `up` and `down` are the bytes carried so far."""

    def __init__(self, max_up_bytes: int) -> None:
        self.up = self.down = 0
        self._max_up = max_up_bytes
        self._task: asyncio.Task[None] | None = None

    async def open(self, backend: BackendSettings) -> socket.socket:
        """Connect; the courier's end. Raises OSError (TimeoutError is one)."""
        async with asyncio.timeout(backend.connect_timeout_s):
            remote = await _dial(backend)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        local = await asyncio.open_connection(sock=ours)
        self._task = asyncio.create_task(self._carry(local, remote))
        return theirs

    def cut(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _carry(self, local: _Ends, remote: _Ends) -> None:
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._up(local[0], remote[1]))
                both.create_task(self._down(remote[0], local[1]))
        except* OSError:
            pass  # either side went away; the other one learns it by the end of its stream
        finally:
            for _, writer in (local, remote):
                writer.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            self.up += len(chunk)
            if self.up > self._max_up:
                raise ConnectionAbortedError("more than was allowed to leave")
            writer.write(chunk)
            await writer.drain()
        raise ConnectionAbortedError("done")  # the courier reads its answer to the end before it closes

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            self.down += len(chunk)
            if self.down > MAX_DOWN_BYTES:
                break
            writer.write(chunk)
            await writer.drain()
        raise ConnectionAbortedError("done")


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _dial(backend: BackendSettings) -> _Ends:
    if not backend.proxy:
        return await asyncio.open_connection(backend.host, backend.port)
    proxy = urlsplit(backend.proxy)
    reader, writer = await asyncio.open_connection(proxy.hostname, proxy.port or 3128)
    try:
        writer.write(_connect_head(backend, proxy.username, proxy.password))
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.close()
        raise ConnectionRefusedError("the proxy does not answer as one") from error
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        writer.close()
        code = status[0].decode("ascii", "replace")[:3] if status else "?"
        raise ConnectionRefusedError(f"the proxy refused it ({code})")
    return reader, writer


def _connect_head(backend: BackendSettings, user: str | None, password: str | None) -> bytes:
    """RFC 9110, 9.3.6."""
    host = f"[{backend.host}]" if ":" in backend.host else backend.host
    lines = [f"CONNECT {host}:{backend.port} HTTP/1.1", f"Host: {host}:{backend.port}"]
    if user:
        pair = f"{unquote(user)}:{unquote(password or '')}".encode()
        lines.append("Proxy-Authorization: Basic " + base64.b64encode(pair).decode())
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def hand_over(channel: socket.socket, message: bytes, sock: socket.socket | None) -> None:
    """Send an answer to a dial, with the descriptor if there is one."""
    with contextlib.suppress(OSError):  # the courier is gone; its link notices
        socket.send_fds(channel, [message], [sock.fileno()] if sock is not None else [])
    if sock is not None:
        sock.close()
