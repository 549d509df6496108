"""The daemon's life: start up, serve, drain, stop, each with a deadline.

It listens first and loads what is slow afterwards, so clients are greeted within a blink. SIGTERM and SIGINT
stop it: no new requests, DRAIN_S for the running ones, then they are cancelled; a second signal skips the
waiting. SIGHUP reads settings, tools and policies anew. Callers are who the kernel says they are
(SO_PEERCRED): a per-user daemon serves its own user and root, nobody else, whatever the socket's mode says;
root's on systemd's socket serves whoever that socket lets in, each within their share.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llmos
from llmos import config, paths, wire
from llmos.config import Settings
from llmos.daemon import fairness, lean, listening, rpc, shares, systemd
from llmos.daemon.broker import Broker
from llmos.daemon.connection import Connection
from llmos.daemon.methods import Methods
from llmos.daemon.peers import PEERS
from llmos.daemon.shares import Shares
from llmos.errors import Denied, LlmosError, Overloaded
from llmos.messages import Caller

log = logging.getLogger(__name__)

DRAIN_S = 10.0
GOODBYE_S = 1.0  # for clients to take what was sent to them
CANCEL_S = 5.0  # for cancelled requests to stop their commands and write their audit lines
_SPARE_FILES = 512  # open files besides clients
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # malloc.h


class Server:
    """One daemon on one listener. `run` returns when it has stopped."""

    def __init__(self, broker: Broker, *, reread: Callable[[], Settings], shared: bool = False) -> None:
        self._broker, self._reread = broker, reread
        self._shared = shared  # several users are served
        self._shares = Shares()
        methods = Methods(broker)
        self._methods, self._automating = methods.table(), methods.automating
        self._connections: dict[Connection, asyncio.Task[Any]] = {}
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self, sock: socket.socket) -> None:
        server = await self._start_up(sock)
        await self._stop.wait()
        await self._drain(server)
        await self._shut_down()

    def stop(self) -> None:
        """Begin to stop; called again, stop without waiting for requests."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    # --- the four phases ---

    async def _start_up(self, sock: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(fairness.Threads())
        lean.answer_promptly()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: embedded
                loop.add_signal_handler(number, self.stop)
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGHUP, self.reload)
        self._broker.start()
        self._starting = asyncio.create_task(self._automating.start())
        server = await asyncio.start_unix_server(self._accept, sock=sock, backlog=listening.BACKLOG)
        systemd.notify(f"READY=1\nSTATUS={self._broker.sentence()}")
        self._beating = asyncio.create_task(self._beat(systemd.watchdog_interval_s()))
        self._settling = asyncio.create_task(self._tell_loaded())
        log.info("llmos %s serves (pid %d)", llmos.__version__, os.getpid())
        return server

    def reload(self) -> None:
        """Read settings, tools and policies anew; what is broken leaves the last good ones in force."""
        self._reloading = asyncio.ensure_future(self._reload())

    async def _reload(self) -> None:
        systemd.notify_reloading()
        await self._broker.reconfigure(self._reread)
        systemd.notify(f"READY=1\nSTATUS={self._broker.sentence()}")

    async def _tell_loaded(self) -> None:
        await self._broker.loaded()
        systemd.notify(f"STATUS={self._broker.sentence()}")

    async def _beat(self, interval_s: float) -> None:
        """Tell the watchdog that this loop turns: one that hangs is replaced."""
        while interval_s:
            systemd.notify(f"WATCHDOG=1\nSTATUS={self._broker.sentence()}")
            await asyncio.sleep(interval_s)

    async def _drain(self, server: asyncio.Server) -> None:
        server.close()
        hurry = asyncio.ensure_future(self._hurry.wait())
        idle = asyncio.ensure_future(self._broker.drain())
        await asyncio.sleep(0)  # from now on it takes no new requests
        systemd.notify(f"STOPPING=1\nSTATUS={self._broker.sentence()}")
        await asyncio.wait({hurry, idle}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not idle.done():
            self._broker.cancel_all()
            await asyncio.wait({idle}, timeout=CANCEL_S)
        for waiting in (hurry, idle):
            waiting.cancel()

    async def _shut_down(self) -> None:
        self._starting.cancel()
        self._beating.cancel()
        self._settling.cancel()
        await self._automating.stop()
        await self._broker.stop()
        for connection in self._connections:
            connection.close()
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=GOODBYE_S)
        log.info("stopped")

    # --- connections ---

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = _peer(writer.get_extra_info("socket"))
        if refusal := self._refusal(caller):
            writer.write(wire.encode(rpc.refusal(None, refusal)))
            writer.close()
            return
        share = self._shares.of(caller.uid, bounded=self._limits(caller))
        connection = Connection(reader, writer, caller, self._methods, share)
        share.connections.add(connection)
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        greeting = {"protocol": wire.PROTOCOL_VERSION, "version": llmos.__version__, "pid": os.getpid()}
        try:
            with PEERS.held(writer.get_extra_info("socket"), caller.pid):
                await connection.serve(greeting)
        finally:
            del self._connections[connection]
            self._shares.left(caller.uid, connection)

    def _refusal(self, caller: Caller) -> LlmosError | None:
        if not self._shared and caller.uid not in (0, os.getuid()):
            return Denied(
                f"this daemon serves uid {os.getuid()}, and you are uid {caller.uid}",
                "Start your own: unset LLMOS_SOCKET and run llmos.",
            )
        limits, everybody = self._broker.settings.server, len(self._connections)
        if everybody >= limits.max_clients:
            most = f"{limits.max_clients} clients are connected, more are not served"
            return Overloaded(most, "Try again later.")
        own = self._shares.count(caller.uid)
        most_of_one = own >= limits.max_clients_per_user or shares.too_many(
            own, everybody, limits.max_clients
        )
        if self._limits(caller) and most_of_one:
            return Overloaded(f"you have {own} connections open already", "Close some of them.")
        return None

    def _limits(self, caller: Caller) -> bool:
        """Whether this caller has a share, and not all of it."""
        return self._shared and caller.uid != 0


def _peer(sock: socket.socket) -> Caller:
    """Who connected, as the kernel recorded it at connect time (unix(7))."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Caller(uid=uid, gid=gid, pid=pid)


async def serve(
    listener: listening.Listener,
    settings: Settings,
    *,
    worker_argv: Sequence[str] | None = None,
    reread: Callable[[], Settings] | None = None,
) -> None:
    """Serve on `listener` until SIGTERM or SIGINT. `worker_argv` is another planner program."""
    shared = listener.path is None and os.geteuid() == 0
    broker = Broker(settings, worker_argv=worker_argv, shared=shared)
    await Server(broker, reread=reread or (lambda: settings), shared=shared).run(listener.sock)


def run(
    socket_path: Path | None = None,
    settings: Settings | None = None,
    *,
    worker_argv: Sequence[str] | None = None,
) -> int:
    """Run the daemon in the foreground; the exit code. Raises ConfigError, DaemonUnreachable."""
    _log_to_stderr()
    _share_one_heap()
    reread = config.load if settings is None else None
    settings = settings or config.load()
    _allow_open_files(2 * settings.server.max_clients + _SPARE_FILES)
    listener = listening.listen(socket_path or paths.socket_path())
    try:
        asyncio.run(serve(listener, settings, worker_argv=worker_argv, reread=reread))
    finally:
        listener.close()
    return 0


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if formatter := systemd.log_formatter():
        logging.getLogger().handlers[0].setFormatter(formatter)


def _allow_open_files(wanted: int) -> None:
    """Two for each client: the soft limit is 1024 in most places, and the hard one far above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _share_one_heap() -> None:
    """One heap for all threads (mallopt(3)): glibc's heap per thread costs 2 MB and gains nothing here."""
    with contextlib.suppress(AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)


def main(argv: Sequence[str] | None = None) -> int:
    """`llmos daemon [--socket PATH]`."""
    import argparse

    parser = argparse.ArgumentParser(prog="llmos daemon", description="Run the llmos daemon here.")
    parser.add_argument("--socket", type=Path, default=None, help="listen here instead of the usual place")
    options = parser.parse_args(argv)
    try:
        return run(options.socket)
    except LlmosError as error:
        sys.stderr.write(f"llmos daemon: {error}\n{error.next_step}\n")
        return error.exit_code
