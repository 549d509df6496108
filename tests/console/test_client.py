"""The blocking client against a socket that speaks the protocol, well and badly."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmos.console import client, dial
from llmos.console.interrupts import Interrupts
from llmos.errors import (
    CallFailed,
    Cancelled,
    DaemonUnreachable,
    Denied,
    LlmosError,
    Overloaded,
    UsageError,
    WireError,
)
from tests.console.server import HELLO, JsonObject, Peer, methods, result, serving


class Recorder:
    """A listener that notes what it hears and answers questions from a list."""

    def __init__(self, *answers: JsonObject | None) -> None:
        self.kinds: list[str] = []
        self.notices: list[str] = []
        self.refusals: list[LlmosError] = []
        self._answers = list(answers)

    def event(self, event: JsonObject, interrupts: Interrupts) -> JsonObject | None:
        self.kinds.append(event["kind"])
        return self._answers.pop(0) if event["kind"] == "approval" else None

    def refused(self, error: LlmosError, interrupts: Interrupts) -> JsonObject | None:
        self.refusals.append(error)
        return self._answers.pop(0)

    def tick(self) -> None:
        pass

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.fixture
def path(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMOS_SOCKET", str(short_dir / "s"))
    return short_dir / "s"


def connected(path: Path) -> client.Client:
    found = dial.connect(path)
    assert found is not None
    return found


def request(path: Path, listener: Recorder, **options: Any) -> JsonObject:
    params = {"id": "r1", "text": "list", "cwd": "/"}
    with Interrupts() as interrupts, connected(path) as daemon:
        return daemon.request("ask", params, listener, interrupts, **options)


# --- connecting ----------------------------------------------------------------------------------


def test_greeting_is_kept(path: Path) -> None:
    with serving(path, methods()), connected(path) as daemon:
        assert daemon.hello["pid"] == HELLO["pid"]


def test_nobody_there_is_none_and_then_a_clear_error(path: Path) -> None:
    assert dial.connect(path) is None
    with pytest.raises(DaemonUnreachable, match="no llmos daemon answers") as caught:
        dial.open_client(None, print)
    assert "llmos daemon" in caught.value.next_step


def test_a_stale_socket_file_is_nobody(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    assert path.exists()
    assert dial.connect(path) is None


@pytest.mark.parametrize(
    ("hello", "kind"), [({"protocol": 99}, WireError), ({}, WireError), (None, DaemonUnreachable)]
)
def test_another_protocol_is_refused(path: Path, hello: Any, kind: type[LlmosError]) -> None:
    with serving(path, methods(), hello=hello), pytest.raises(kind) as caught:
        dial.connect(path, timeout_s=0.3)
    assert caught.value.exit_code == 7
    assert "llmos daemon stop" in caught.value.next_step


def test_a_refusal_in_place_of_the_greeting_is_its_error(path: Path) -> None:
    busy = Overloaded("256 clients are connected", "Try again later.").to_rpc()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def refuse() -> None:
            sock, _ = listener.accept()
            with sock:
                Peer(sock).frames.send({"jsonrpc": "2.0", "id": None, "error": busy})

        threading.Thread(target=refuse, daemon=True).start()
        with pytest.raises(Overloaded, match="256 clients"):
            dial.connect(path)


def test_two_threads_that_find_no_daemon_start_one(path: Path) -> None:
    said: list[str] = []
    with contextlib.ExitStack() as running:

        def start(where: Path) -> int:
            time.sleep(0.2)
            running.enter_context(serving(where, methods()))
            return 4711

        def connect() -> None:
            dial.open_client(start, said.append).close()

        threads = [threading.Thread(target=connect) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
    assert said == ["started the llmos daemon (pid 4711)"]


def test_a_daemon_is_started_once_and_said_once(path: Path) -> None:
    said: list[str] = []
    running: list[Any] = []

    def start(where: Path) -> int:
        running.append(serving(where, methods()))
        running[0].__enter__()
        return 4711

    try:
        with dial.open_client(start, said.append):
            pass
        with dial.open_client(start, said.append):
            pass
    finally:
        running[0].__exit__(None, None, None)
    assert said == ["started the llmos daemon (pid 4711)"]
    assert len(running) == 1


def test_a_socket_in_an_unreadable_place(path: Path) -> None:
    long = path.parent / ("x" * 120)
    with pytest.raises(DaemonUnreachable, match="cannot connect"):
        dial.connect(long)


# --- short calls ---------------------------------------------------------------------------------


def test_call_returns_the_result_and_passes_events_over(path: Path) -> None:
    def status(peer: Peer, frame: JsonObject) -> None:
        peer.event("other", "running")
        peer.reply(frame, {"pid": 1})

    with serving(path, methods(status=status)), connected(path) as daemon:
        assert daemon.call("status") == {"pid": 1}
        assert daemon.call("status") == {"pid": 1}


def test_an_error_keeps_kind_and_next_step(path: Path) -> None:
    error = Denied("no", "Ask root.").to_rpc()
    with (
        serving(path, methods(undo=lambda peer, frame: peer.refuse(frame, error))),
        connected(path) as daemon,
        pytest.raises(Denied, match="no") as caught,
    ):
        daemon.call("undo")
    assert caught.value.next_step == "Ask root."


def test_an_internal_error_is_a_failure_and_not_wrong_usage(path: Path) -> None:
    error = {"code": -32603, "message": "bug", "data": {"kind": "UsageError", "next_step": "Report it."}}
    with (
        serving(path, methods(status=lambda peer, frame: peer.refuse(frame, error))),
        connected(path) as daemon,
        pytest.raises(CallFailed, match="bug"),
    ):
        daemon.call("status")


def test_silence_ends_in_a_time_out(path: Path) -> None:
    with (
        serving(path, methods(status=lambda peer, frame: None)),
        connected(path) as daemon,
        pytest.raises(DaemonUnreachable, match=r"did not answer status within 0\.2 s"),
    ):
        daemon.call("status", timeout_s=0.2)


@pytest.mark.parametrize("junk", [b"[1]\n", b"{oops\n", b"\xff\xfe\n"])
def test_junk_from_the_daemon_is_a_wire_error(path: Path, junk: bytes) -> None:
    with (
        serving(path, methods(status=lambda peer, frame: peer.sock.sendall(junk))),
        connected(path) as daemon,
        pytest.raises(WireError) as caught,
    ):
        daemon.call("status")
    assert caught.value.exit_code == 7


# --- requests ------------------------------------------------------------------------------------


def test_events_arrive_in_order_and_only_of_this_request(path: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        for kind in ("queued", "thinking", "call", "running", "output", "finished"):
            peer.event("r1", kind, index=0)
            peer.event("somebody-else", "output", text="no")
        peer.reply(frame, result(frame))

    listener = Recorder()
    with serving(path, methods(ask=ask)):
        assert request(path, listener)["status"] == "done"
    assert listener.kinds == ["queued", "thinking", "call", "running", "output", "finished"]


def test_an_approval_is_answered_on_the_same_connection(path: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        peer.event("r1", "approval", index=0, command="rm x")
        answer = peer.receive()
        assert answer is not None
        peer.reply(answer, {})
        peer.reply(frame, result(frame, answer=answer["params"]["decision"]))

    with serving(path, methods(ask=ask)) as peers:
        assert request(path, Recorder({"decision": "always"}))["answer"] == "always"
        assert peers[0].received[1]["params"] == {"id": "r1", "decision": "always"}


def test_a_refused_edit_is_asked_again(path: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        peer.event("r1", "approval", index=0)
        edit = peer.receive()
        assert edit is not None
        peer.refuse(edit, UsageError("`path` is missing", "Name it.").to_rpc())
        second = peer.receive()
        assert second is not None
        peer.reply(frame, result(frame, answer=second["params"]["decision"]))

    listener = Recorder({"decision": "edit", "call": {"tool": "t", "args": {}}}, {"decision": "no"})
    with serving(path, methods(ask=ask)):
        assert request(path, listener)["answer"] == "no"
    assert [str(error) for error in listener.refusals] == ["`path` is missing"]


def test_a_daemon_that_dies_in_the_middle(path: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        peer.event("r1", "thinking")
        peer.sock.shutdown(socket.SHUT_RDWR)

    with serving(path, methods(ask=ask)), pytest.raises(DaemonUnreachable, match="went away"):
        request(path, Recorder())


def waits_for_cancel(peer: Peer, frame: JsonObject) -> None:
    peer.event("r1", "running")
    cancel = peer.receive()
    assert cancel is not None and cancel["method"] == "cancel" and cancel["params"] == {"id": "r1"}
    peer.reply(cancel, {})
    peer.reply(frame, result(frame, status="failed", answer="Cancelled."))


def test_ctrl_c_cancels_and_shows_how_it_ended(path: Path) -> None:
    listener = Recorder()
    with serving(path, methods(ask=waits_for_cancel)):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        ended = request(path, listener)
    assert ended["answer"] == "Cancelled."
    assert "Ctrl-C again" in listener.notices[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_leaves_at_once(path: Path) -> None:
    with serving(path, methods(ask=lambda peer, frame: peer.event("r1", "running"))):
        for delay_s in (0.3, 0.6):
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            request(path, Recorder())
    assert time.monotonic() - start < client.CANCEL_GRACE_S / 2


def test_the_time_out_cancels(path: Path) -> None:
    listener = Recorder()
    with serving(path, methods(ask=waits_for_cancel)):
        assert request(path, listener, timeout_s=0.3)["status"] == "failed"
    assert listener.notices == ["not done after 0.3 s: cancelling …"]


def test_a_large_frame_goes_through_both_ways(path: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        peer.reply(frame, result(frame, answer=frame["params"]["text"]))

    text = "x" * 5_000_000
    with serving(path, methods(ask=ask)), Interrupts() as interrupts, connected(path) as daemon:
        done = daemon.request("ask", {"id": "r1", "text": text}, Recorder(), interrupts)
    assert done["answer"] == text
