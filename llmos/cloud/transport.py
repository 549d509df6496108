"""HTTP over sockets that somebody else connected.

The process that speaks with backends cannot make a socket: it asks for a connection (`Connect`) and gets an
open one, or an error. Every connection serves one request, so that none outlives the leave it was given for.
TLS happens here, on top of what was handed over; whoever carries the bytes cannot read them.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2
import httpx2

from llmos.errors import LlmosError

Connect = Callable[[], socket.socket]  # raises OSError, or an LlmosError that is not to be tried again


class Refused(httpx2.ConnectError):
    """No connection is to be had, for a reason that a further try does not mend."""

    def __init__(self, error: LlmosError) -> None:
        super().__init__(str(error))
        self.error = error


class Transport(httpx2.BaseTransport):
    """One connection a request, through `connect`."""

    def __init__(self, connect: Connect, context: ssl.SSLContext | None) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=context,
            max_keepalive_connections=0,
            network_backend=_Network(connect),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.SyncByteStream)
        url = request.url
        sent = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = self._pool.handle_request(sent)
        except httpcore2.TimeoutException as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise httpx2.ReadError(str(error) or type(error).__name__, request=request) from error
        assert isinstance(answer.stream, Iterable)
        return httpx2.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Any:
        try:
            yield from self._stream
        except httpcore2.TimeoutException as error:
            raise httpx2.ReadTimeout(str(error)) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise httpx2.ReadError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        self._stream.close()


class _Network(httpcore2.NetworkBackend):
    """Whatever host is asked for, there is one place that `connect` leads to."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore2.NetworkStream:
        try:
            return _Stream(self._connect())
        except LlmosError as error:
            raise Refused(error) from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error


class _Stream(httpcore2.NetworkStream):
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._sock.settimeout(timeout)
        try:
            return self._sock.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout("no answer in time") from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._sock.settimeout(timeout)
        try:
            self._sock.sendall(buffer)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout("not taken in time") from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        self._sock.settimeout(timeout)
        try:
            return _Stream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("no TLS in time") from error
        except ssl.SSLCertVerificationError as error:
            raise httpcore2.ConnectError(f"the certificate is not trusted: {error.verify_message}") from error
        except OSError as error:
            raise httpcore2.ConnectError(f"TLS failed: {error}") from error

    def get_extra_info(self, info: str) -> Any:
        return self._sock if info == "socket" else None


def tls_context(ca_file: str = "") -> ssl.SSLContext:
    """Certificates as the system trusts them, or those of `ca_file` alone. Read before confinement."""
    return ssl.create_default_context(cafile=ca_file or None)
