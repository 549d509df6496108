"""A small daemon for tests of the client: a real Unix socket that speaks the documented frames.

What it answers is a script, a function per method that may send events and read on. It has no policy
and runs nothing; the real daemon is used where what it does matters (tests/test_cli_daemon.py).
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmos.wire import PROTOCOL_VERSION, FrameSocket

JsonObject = dict[str, Any]
HELLO = {"protocol": PROTOCOL_VERSION, "version": "0.1.0", "pid": os.getpid()}


class Peer:
    """The server's end of one connection, as a script sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frames = FrameSocket(sock)
        self.received: list[JsonObject] = []

    def receive(self) -> JsonObject | None:
        frame = self.frames.receive()
        if frame is not None:
            self.received.append(frame)
        return frame

    def event(self, request_id: str, kind: str, **data: Any) -> None:
        params = {"id": request_id, "kind": kind, "data": data}
        self.frames.send({"jsonrpc": "2.0", "method": "event", "params": params})

    def reply(self, frame: JsonObject, result: Any) -> None:
        self.frames.send({"jsonrpc": "2.0", "id": frame["id"], "result": result})

    def refuse(self, frame: JsonObject, error: JsonObject) -> None:
        self.frames.send({"jsonrpc": "2.0", "id": frame["id"], "error": error})


Script = Callable[[Peer, JsonObject], None]


def result(request: JsonObject, **changes: Any) -> JsonObject:
    """A finished request with one call that printed `hello`."""
    call = {
        "tool": "file.list",
        "args": {"path": "."},
        "verdict": "allow",
        "rule": "reading",
        "reason": "it reads",
    }
    call |= {
        "exit_code": 0,
        "stdout": "hello\n",
        "stderr": "",
        "effects": {"reads": ["/tmp"]},
        "undo_id": None,
    }
    timing = {"total_ms": 812.0, "generated_tokens": 9}
    made = {"id": request["params"].get("id", "x"), "status": "done", "route": "local", "calls": [call]}
    return {**made, "answer": None, "timing": timing, **changes}


@contextmanager
def serving(path: Path, script: Script, hello: JsonObject | None = HELLO) -> Iterator[list[Peer]]:
    """Serve at `path` until the block ends; gives the list of connections that came."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)
    peers: list[Peer] = []

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            peer = Peer(sock)
            peers.append(peer)
            threading.Thread(target=_converse, args=(peer, script, hello), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield peers
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for peer in peers:
            peer.sock.close()


def _converse(peer: Peer, script: Script, hello: JsonObject | None) -> None:
    try:
        if hello is not None:
            peer.frames.send({"jsonrpc": "2.0", "method": "hello", "params": hello})
        while (frame := peer.receive()) is not None:
            script(peer, frame)
    except OSError:
        pass  # the client left in the middle
    finally:
        peer.sock.close()


def methods(**by_name: Script) -> Script:
    """A script by method name (`.` written as `_`); an unknown method gets JSON-RPC's error for it."""

    def script(peer: Peer, frame: JsonObject) -> None:
        chosen = by_name.get(str(frame["method"]).replace(".", "_"))
        if chosen is None:
            peer.refuse(frame, {"code": -32601, "message": f"no method {json.dumps(frame['method'])}"})
        else:
            chosen(peer, frame)

    return script
