"""Named machines instead of the whole network: what a call may reach, and carrying its connections there.

Names are looked up here, once, before the call begins; inside they stand in /etc/hosts, and there is no name
server. The sandbox has a network of its own in which only the looked-up addresses and ports answer (`reach`);
each connection to one is carried, unread, to the same address and port outside.

A name that leads to this machine or its link (127.0.0.0/8, 169.254.0.0/16 with its cloud metadata, ...) is
refused unless the address itself was granted. What it does not protect against: another service behind a
granted address, and what a granted machine passes on. TCP only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmos.errors import CallFailed
from llmos.guard.hosts import split_port
from llmos.guard.program import Status
from llmos.guard.sandbox import Route

# For a machine granted without a port: web, ssh, rsync and git.
PORTS = (80, 443, 22, 873, 8080, 8443, 9418)
_MAX_ADDRESSES = 8  # of one name
MAX_ROUTES = 200  # as many descriptors as one message carries (unix(7), SCM_MAX_FD)
_MAX_CONNECTIONS = 256
_CONNECT_S = 30.0
_CHUNK_BYTES = 1 << 16
_OnConnection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reach:
    """The machines of one call: where its connections may go, and their names."""

    routes: tuple[Route, ...]
    hosts_file: str


async def look_up(targets: Sequence[str]) -> Reach:
    """Find the addresses of granted machines. Raises CallFailed for one that has none, or not a fit one."""
    routes: dict[Route, None] = {}
    lines = [_own_names()]
    for target in targets:
        host, port = split_port(target)
        for address in await _addresses(host):
            routes.update(dict.fromkeys((address, each) for each in ((port,) if port else PORTS)))
            lines.append(f"{address}\t{host}")
    if len(routes) > MAX_ROUTES:
        raise CallFailed(
            f"{len(targets)} machines are more than one call can be held to",
            "Split the command, or name their ports.",
        )
    return Reach(tuple(routes), "\n".join(lines) + "\n")


def _own_names() -> str:
    """The machine's own /etc/hosts, of which only what is granted will answer."""
    with contextlib.suppress(OSError):
        return Path("/etc/hosts").read_text(errors="replace").rstrip("\n")
    return "127.0.0.1\tlocalhost"


async def _addresses(host: str) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CallFailed(
            f"{host} cannot be found: {error.strerror}", "Check the name and the network."
        ) from error
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    fit = tuple(address for address in addresses if is_fit(host, address))
    if not fit:
        raise CallFailed(
            f"{host} leads to {', '.join(addresses)}, which is this machine or its own link",
            "Name that address itself, if it is what you mean.",
        )
    return fit[:_MAX_ADDRESSES]


def is_fit(host: str, address: str) -> bool:
    """Whether a name may lead there: to this machine and its link only by their own names."""
    if "%" in address:  # of one link alone
        return False
    ip = ipaddress.ip_address(address)
    inner = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped else ip
    if inner.is_unspecified or inner.is_multicast:
        return False
    near = inner.is_loopback or inner.is_link_local
    return not near or host == address or (inner.is_loopback and host == "localhost")


# --- carrying --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def carried(reach: Reach | None, status: Status) -> AsyncIterator[None]:
    """While it lasts, connections of the call are carried; with its end all of them are closed."""
    if reach is None:
        yield
        return
    carrier = _Carrier(frozenset(reach.routes))
    serving = asyncio.ensure_future(carrier.serve(status.listeners))
    try:
        yield
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        await carrier.close()


class _Carrier:
    def __init__(self, routes: frozenset[Route]) -> None:
        self._routes = routes
        self._servers: list[asyncio.Server] = []
        self._carrying: set[asyncio.Task[None]] = set()

    async def serve(self, listeners: asyncio.Future[list[int]]) -> None:
        fds = await asyncio.shield(listeners)
        while fds:
            sock = socket.socket(fileno=fds.pop())
            route: Route = sock.getsockname()[:2]
            if route not in self._routes:  # cannot be: the launcher is ours
                sock.close()
                continue
            self._servers.append(await asyncio.start_server(self._accept(route), sock=sock))

    def _accept(self, route: Route) -> _OnConnection:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            if len(self._carrying) >= _MAX_CONNECTIONS:
                writer.transport.abort()
                return
            self._carrying.add(task)
            try:
                await _carry(reader, writer, route)
            finally:
                self._carrying.discard(task)
                writer.close()

        return carry

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in tuple(self._carrying):
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, route: Route) -> None:
    try:
        there, back = await asyncio.wait_for(asyncio.open_connection(*route), _CONNECT_S)
    except (OSError, TimeoutError):
        writer.transport.abort()  # a reset, as near to the refusal as can be
        return
    try:
        await asyncio.gather(_pump(reader, back), _pump(there, writer))
    finally:
        back.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
