"""Frames: whatever is sent arrives, however the stream is cut, and a peer cannot make us buffer at will."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.errors import WireError
from llmos.wire import FrameBuffer, FrameSocket, decode, encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=6), st.data())
def test_frames_survive_any_cutting(values: list[Any], data: st.DataObject) -> None:
    stream = b"".join(encode(value) for value in values)
    buffer, received = FrameBuffer(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        received += [decode(frame) for frame in buffer.feed(stream[:cut])]
        stream = stream[cut:]
    assert received == json.loads(json.dumps(values))


@given(st.text(st.characters(codec=None)))
def test_names_with_lone_surrogates_can_be_sent(name: str) -> None:
    assert decode(encode({"name": name})) == {"name": name}


def test_blank_lines_are_not_frames() -> None:
    assert list(FrameBuffer().feed(b"\n  \n1\n\r\n")) == [b"1"]


@pytest.mark.parametrize("chunk", [b"x" * 101, b"x" * 101 + b"\n", b"1\n" + b"y" * 200])
def test_a_frame_over_the_limit_is_refused(chunk: bytes) -> None:
    with pytest.raises(WireError, match="exceeds 100 bytes"):
        list(FrameBuffer(max_bytes=100).feed(chunk))


@pytest.mark.parametrize("frame", [b"{", b"\xff\xfe", b"[" * 100_000, b"nope"])
def test_what_is_not_json_is_a_clear_error(frame: bytes) -> None:
    with pytest.raises(WireError, match="not JSON"):
        decode(frame)


def test_a_socket_carries_frames_until_the_peer_closes() -> None:
    left, right = socket.socketpair()
    with left, right:
        sender, receiver = FrameSocket(left), FrameSocket(right)
        sender.send({"a": "ü"})
        sender.send([1, 2])
        left.shutdown(socket.SHUT_WR)
        assert [receiver.receive(), receiver.receive(), receiver.receive()] == [{"a": "ü"}, [1, 2], None]
