"""Newline-delimited JSON frames, for the socket and for the planner's socketpair.

One frame is one JSON value in UTF-8 and one `\\n`. A frame longer than the limit is refused before
it is buffered whole, so that a peer cannot make us allocate at will. Framing only: what a frame
means is `messages`' business.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from llmos.errors import WireError

# A request's piped data travels in one frame (base64 of 8 MiB, and room for the rest).
MAX_FRAME_BYTES = 12 * 1024 * 1024
PROTOCOL_VERSION = 1


def encode(value: Any) -> bytes:
    """One frame. Non-ASCII stays readable; lone surrogates (from file names) are escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def decode(frame: bytes) -> Any:
    """Parse one frame; raises WireError on anything that is not UTF-8 JSON."""
    try:
        return json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise WireError(
            f"the frame is not JSON: {error}", "Send one JSON object per line, in UTF-8."
        ) from error


class FrameBuffer:
    """Cuts a byte stream into frames; keeps at most one frame's worth of bytes."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._pending = bytearray()
        self._searched = 0  # so much of it holds no end of a frame
        self._max_bytes = max_bytes

    @property
    def pending_bytes(self) -> int:
        """Of the frame that is not complete yet."""
        return len(self._pending)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield each completed frame without its newline; raises WireError when one is too long."""
        self._pending += chunk
        start, searched = 0, self._searched
        while (end := self._pending.find(b"\n", searched)) >= 0:
            self._check(end - start)
            frame = bytes(self._pending[start:end])
            start = searched = end + 1
            if frame.strip():
                yield frame
        del self._pending[:start]
        self._searched = len(self._pending)
        self._check(len(self._pending))

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise WireError(
                f"the frame exceeds {self._max_bytes} bytes",
                "Send less data, or name a file instead of piping it.",
            )


class FrameSocket:
    """Blocking frames over a connected stream socket (planner side, and simple clients)."""

    def __init__(self, sock: socket.socket, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.sock = sock
        self._buffer = FrameBuffer(max_bytes)
        self._ready: list[bytes] = []

    def send(self, value: Any) -> None:
        self.sock.sendall(encode(value))

    def receive(self) -> Any | None:
        """The next frame's value, or None when the peer has closed."""
        while not self._ready:
            chunk = self.sock.recv(1 << 16)
            if not chunk:
                return None
            self._ready.extend(self._buffer.feed(chunk))
        return decode(self._ready.pop(0))
