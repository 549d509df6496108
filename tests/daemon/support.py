"""A real daemon process with a scripted planner, and a raw socket client to treat it badly with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.wire import FrameBuffer

# What `llmos daemon` does, with another planner program and settings than the person's own.
MAIN = """
import json, sys
from pathlib import Path
from llmos.daemon import lean
lean.leave_out()
from llmos.config import Settings
from llmos.daemon import server
settings = Settings.model_validate(json.loads(sys.argv[2]))
raise SystemExit(server.run(Path(sys.argv[1]), settings, worker_argv=json.loads(sys.argv[3])))
"""
SCRIPTED = [sys.executable, "-I", "-m", "llmos.planner.scripted", "--script"]


@dataclass
class Daemon:
    process: subprocess.Popen[bytes]
    path: Path
    log: Path

    def connect(self) -> Client:
        return Client(self.path)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8")


def start(
    folder: Path,
    script: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    worker_argv: list[str] | None = None,
) -> Daemon:
    """Start a daemon on `folder`/s.sock and return when it greets."""
    script_file = folder / "script.json"
    script_file.write_text(json.dumps(script or {}), encoding="utf-8")
    argv = worker_argv or [*SCRIPTED, str(script_file)]
    path, log = folder / "s.sock", folder / "daemon.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, str(path), json.dumps(settings or {}), json.dumps(argv)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env or dict(os.environ),
            cwd="/",
        )
    daemon = Daemon(process, path, log)
    _await_greeting(daemon)
    return daemon


def _await_greeting(daemon: Daemon, deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        assert daemon.process.poll() is None, daemon.log_text()
        try:
            daemon.connect().close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"no greeting: {daemon.log_text()}")


class Client:
    """Sends what it is told, valid or not, and reads frames."""

    def __init__(self, path: Path, timeout_s: float = 20.0) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self._frames = FrameBuffer()
        self._ready: list[dict[str, Any]] = []
        self._replies: dict[Any, dict[str, Any]] = {}  # that came before they were asked for
        self._last_id = 0
        self.hello = self.receive()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send(self, method: str, **params: Any) -> int:
        self._last_id += 1
        frame = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        self.raw(json.dumps(frame).encode() + b"\n")
        return self._last_id

    def receive(self) -> dict[str, Any] | None:
        """The next frame; None at the end of the connection."""
        while not self._ready:
            chunk = self.sock.recv(1 << 16)
            if not chunk:
                return None
            self._ready += [json.loads(frame) for frame in self._frames.feed(chunk)]
        return self._ready.pop(0)

    def reply(self, number: int | None, events: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The reply to request `number`; events on the way are collected."""
        if number in self._replies:
            return self._replies.pop(number)
        while (frame := self.receive()) is not None:
            if frame.get("method") == "event":
                if events is not None:
                    events.append(frame["params"])
            elif frame.get("id") == number:
                return frame
            else:
                self._replies[frame.get("id")] = frame
        raise AssertionError(f"the connection ended without a reply to {number}")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.reply(self.send(method, **params))

    def result(self, method: str, **params: Any) -> dict[str, Any]:
        reply = self.call(method, **params)
        assert "result" in reply, reply
        return reply["result"]

    def error(self, method: str, **params: Any) -> dict[str, Any]:
        reply = self.call(method, **params)
        assert "error" in reply, reply
        return reply["error"]

    def until(self, kind: str) -> dict[str, Any]:
        """Read on to the first event of that kind; its params."""
        while (frame := self.receive()) is not None:
            if frame.get("method") == "event" and frame["params"]["kind"] == kind:
                return frame["params"]
            assert "error" not in frame, frame
        raise AssertionError(f"the connection ended before a {kind} event")
