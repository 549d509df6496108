"""A real HTTP server that answers as an OpenAI-compatible one does, well or badly, and keeps what it got.

`faults` are taken one a request, in order; when there are none left it answers well: with the reply that
`says` gives for the request, streamed in pieces.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Says = Callable[[dict[str, Any]], str]


def calls(*made: tuple[str, dict[str, Any]], more: bool = False) -> str:
    return json.dumps({"calls": [{"tool": tool, "args": args} for tool, args in made], "more": more})


class Backend:
    """`requests` are the bodies, `headers` and `raw` what came with them. Faults: see `_Handler`."""

    def __init__(
        self, says: Says | str = "", faults: list[str] | None = None, tls: tuple[str, str] | None = None
    ) -> None:
        """`tls`: files of a certificate and its key."""
        self.says: Says = says if callable(says) else lambda body: str(says)
        self.faults = list(faults or [])
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.raw = b""
        self.usage = True
        backend = self

        class Handler(_Handler):
            owner = backend

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/v1"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def settings(self, name: str = "lab", **more: Any) -> dict[str, Any]:
        return {"name": name, "url": self.url, "model": "m", **more}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Backend
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        owner = self.owner
        owner.raw += body
        owner.headers.append(dict(self.headers))
        owner.requests.append(json.loads(body))
        fault = owner.faults.pop(0) if owner.faults else ""
        try:
            getattr(self, "_" + fault.partition(":")[0], self._well)(fault.partition(":")[2])
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = True

    # --- faults ---

    def _status(self, words: str) -> None:
        """`status:429:Retry-After: 1`"""
        code, _, header = words.partition(":")
        error = {"error": {"message": self.headers.get("Authorization", "") + " was refused", "type": "x"}}
        body = json.dumps(error).encode()
        self.send_response(int(code))
        if header:
            name, _, value = header.partition(":")
            self.send_header(name, value.strip())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuses(self, field: str) -> None:
        """`refuses:response_format`: 400 as long as the request has that field."""
        if field in self.owner.requests[-1]:
            self.owner.faults.insert(0, f"refuses:{field}")
            self._status("400")
        else:
            self._well("")

    def _reset(self, _: str) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _half(self, _: str) -> None:
        """The first half of an answer, and then nothing."""
        self._head()
        self._piece({"content": '{"calls": [{"tool": "shell.run", "args": {"command": "rm -r /'})

    def _bad(self, _: str) -> None:
        self._head()
        self.wfile.write(b"data: {not json\n\ndata: [DONE]\n\n")

    def _html(self, _: str) -> None:
        body = b"<html>login</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _silent(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def _drip(self, seconds: str) -> None:
        """A piece every so often, for ever."""
        self._head()
        for _ in range(600):
            self._piece({"content": " "})
            time.sleep(float(seconds))

    def _endless(self, _: str) -> None:
        self._head()
        while True:
            self._piece({"content": "x" * 4096})

    def _slow(self, seconds: str) -> None:
        time.sleep(float(seconds))
        self._well("")

    def _says(self, text: str) -> None:
        self._answer(text)

    def _length(self, text: str) -> None:
        self._answer(text, finish="length")

    # --- well ---

    def _well(self, _: str) -> None:
        self._answer(self.owner.says(self.owner.requests[-1]))

    def _answer(self, text: str, finish: str = "stop") -> None:
        self._head()
        for start in range(0, len(text), 20):
            self._piece({"content": text[start : start + 20]})
        self._piece({}, finish=finish)
        if self.owner.usage:
            self._event(
                {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}}
            )
        self.wfile.write(b"data: [DONE]\n\n")

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def _piece(self, delta: dict[str, Any], finish: str | None = None) -> None:
        self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def _event(self, more: dict[str, Any]) -> None:
        event = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", **more}
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()
