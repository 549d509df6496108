"""The real worker as a process, on the tiny model, spoken to over a real socketpair."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save

from llmos.engine import native, prepared, store
from llmos.engine.adapter import CARD_FILE, WEIGHTS_FILE
from llmos.engine.prefix import FILE
from llmos.messages import (
    Adapt,
    Delta,
    Example,
    Failed,
    FromPlanner,
    Ready,
    Stop,
    Teach,
    Think,
    Thought,
    ToolSpec,
)
from llmos.planner.worker import Worker
from llmos.wire import FrameSocket

FRAME: TypeAdapter[Ready | Delta | Thought | Failed] = TypeAdapter(FromPlanner)
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = ToolSpec(
    name="file.read",
    summary="show a file",
    parameters=PATH,
    examples=(Example(say="show a.txt", args={"path": "a.txt"}),),
)
ANSWER = ToolSpec(name="answer", summary="answer in words", parameters=TEXT, raw="text")
UNENFORCEABLE = ToolSpec(
    name="bad.tool",
    summary="has a raw argument with a pattern",
    parameters={"type": "object", "properties": {"x": {"type": "string", "pattern": "^a$"}}},
    raw="x",
)


class Peer:
    """The broker's end of a worker."""

    def __init__(self, model: str, **environment: str) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(240)
        argv = [sys.executable, "-m", "llmos.planner.worker", "--fd", str(theirs.fileno())]
        env = os.environ | {"LLMOS_MODEL": model} | environment
        self.process = subprocess.Popen(
            argv, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        theirs.close()
        self.wire = FrameSocket(ours)

    def send(self, message: Any) -> None:
        self.wire.send(message.model_dump(mode="json"))

    def receive(self) -> Ready | Delta | Thought | Failed:
        return FRAME.validate_python(self.wire.receive())

    def answer(self) -> Thought | Failed:
        while isinstance(frame := self.receive(), Delta | Ready):
            pass
        return frame

    def close(self) -> tuple[int, str]:
        self.wire.sock.close()
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors.decode()


AT_REST = 8e6  # bytes of code; a thought needs some 27 million


def code_resident(pid: int) -> int:
    """Bytes of libraries' code."""
    maps = psutil.Process(pid).memory_maps(grouped=False)
    return sum(one.rss for one in maps if ".so" in one.path and "x" in one.perms)


@pytest.fixture(scope="module")
def worker(tiny_model: Path) -> Iterator[Peer]:
    peer = Peer(str(tiny_model))
    peer.send(Teach(tools=(READ, ANSWER, UNENFORCEABLE)))
    yield peer
    code, errors = peer.close()
    assert code == 0
    assert "bad.tool" in errors  # left out, and said so


@pytest.fixture(scope="module")
def ready(worker: Peer) -> Ready:
    frame = worker.receive()
    assert isinstance(frame, Ready), frame
    return frame


@pytest.mark.weights
def test_it_says_what_it_loaded(ready: Ready) -> None:
    assert "smol" in ready.model.lower()
    assert ready.load_ms > 0
    assert ready.resident_bytes > 50_000_000


@pytest.mark.weights
def test_it_is_confined(worker: Peer, ready: Ready) -> None:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    seccomp = next(line for line in status.splitlines() if line.startswith("Seccomp:"))
    assert seccomp.split()[1] == "2" or any("seccomp" in layer for layer in ready.unconfined)
    assert "NoNewPrivs:\t1" in status


@pytest.mark.weights
def test_a_sentence_becomes_a_typed_call(worker: Peer, ready: Ready) -> None:
    worker.send(Think(id="one", text="show b.txt", entries=("b.txt",)))
    thought = worker.answer()
    assert isinstance(thought, Thought), thought
    assert thought.id == "one"
    assert thought.calls
    assert {call.tool for call in thought.calls} <= {"file.read", "answer"}
    assert 0 < thought.confidence <= 1
    assert thought.timing.prompt_tokens > thought.timing.generated_tokens > 0


@pytest.mark.weights
def test_at_rest_it_gives_back_what_only_thinking_needed(worker: Peer, ready: Ready) -> None:
    worker.send(Think(id="rest", text="show b.txt"))
    assert isinstance(worker.answer(), Thought)
    deadline = time.monotonic() + 60
    while (held := code_resident(worker.process.pid)) > AT_REST:
        assert time.monotonic() < deadline, held
        time.sleep(0.1)
    worker.send(Think(id="rested", text="show b.txt"))
    assert isinstance(worker.answer(), Thought)


def test_a_long_thought_keeps_no_later_request_waiting() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(FrameSocket(ours))
        worker._thinking = {Future()}  # never done
        took: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=lambda: took.put(worker._next()), daemon=True).start()
        time.sleep(1.5)  # longer than what is taken for rest
        given = (Think(id="short", text="show b.txt"), threading.Event())
        worker._inbox.put(given)
        assert took.get(timeout=20) == given


@pytest.mark.weights
def test_the_static_part_is_read_once(worker: Peer, ready: Ready, tiny_model: Path) -> None:
    worker.send(Think(id="two", text="show c.txt"))
    thought = worker.answer()
    assert isinstance(thought, Thought), thought
    assert thought.timing.cached_tokens > 40
    kept = prepared.folder_of(tiny_model).glob(f"packed-*/{FILE}")
    assert list(kept) or native.library() is None, "and kept, though the planner may write nothing any more"


@pytest.mark.weights
def test_stop_reaches_a_running_request_and_the_next_one_is_served(worker: Peer, ready: Ready) -> None:
    worker.send(Think(id="long", text="tell me a very long story " * 20))
    worker.send(Stop(id="long"))
    failed = worker.answer()
    assert isinstance(failed, Failed), failed
    assert failed.error["data"]["kind"] == "Cancelled"
    worker.send(Think(id="next", text="show d.txt"))
    assert worker.answer().id == "next"


@pytest.mark.weights
def test_what_does_not_fit_is_refused_with_its_numbers(worker: Peer, ready: Ready) -> None:
    worker.send(Think(id="big", text="word " * 20_000))
    failed = worker.answer()
    assert isinstance(failed, Failed), failed
    assert failed.error["data"]["kind"] == "TooLong"  # a UsageError, by which another route may be taken
    assert "20000 tokens" in failed.error["message"] or "20001 tokens" in failed.error["message"]
    assert failed.error["data"]["next_step"]


@pytest.mark.weights
def test_an_adapter_comes_and_goes_beside_the_same_weights(
    isolated_home: Path, tmp_path: Path, worker: Peer, ready: Ready
) -> None:
    mine = _adapter(tmp_path / "mine")
    file = isolated_home / ".config/llmos/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'[model]\nadapter = "{mine}"\n')
    peer = Peer("tiny")
    peer.send(Teach(tools=(READ, ANSWER)))
    assert isinstance(peer.receive(), Ready)

    names = map(str, itertools.count())

    def sureness(peer: Peer) -> float:
        peer.send(Think(id=next(names), text="show b.txt", entries=("b.txt",)))
        thought = peer.answer()
        assert isinstance(thought, Thought), thought
        return thought.confidence

    with_mine = sureness(peer)
    peer.send(Adapt(adapter=False))
    without = sureness(peer)
    peer.send(Adapt(adapter=str(mine)))
    assert sureness(peer) == with_mine != without == sureness(worker)
    peer.send(Adapt(adapter="nobody-made-it"))
    assert peer.wire.receive() is None, "it makes room for one that can say what is wrong"
    code, errors = peer.close()
    assert code == 0 and "nobody-made-it" in errors


def _adapter(folder: Path) -> Path:
    """One for the tiny model that turns one matrix round."""
    torch.manual_seed(3)
    name = "blocks.29.feed_forward.down"
    data = save({f"{name}.a": torch.randn(32, 1536) / 8, f"{name}.b": torch.randn(576, 32) / 8})
    folder.mkdir()
    (folder / WEIGHTS_FILE).write_bytes(data)
    card = {
        "base_sha256": store.sha256_of("tiny"), "sha256": hashlib.sha256(data).hexdigest(),
        "alpha": 32, "rank": 32, "form": "examples", "shots": 1, "command_shots": 0,
    }  # fmt: skip
    (folder / CARD_FILE).write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in card.items()))
    return folder


@pytest.mark.weights
def test_a_request_before_any_tool_is_not_understood(tiny_model: Path) -> None:
    peer = Peer(str(tiny_model))
    peer.send(Think(id="early", text="hello"))
    failed = peer.answer()
    assert isinstance(failed, Failed), failed
    assert failed.error["data"]["kind"] == "NotUnderstood"
    peer.close()


def test_missing_weights_are_reported_with_the_next_step(tmp_path: Path) -> None:
    peer = Peer("default", LLMOS_MODELS_DIR=str(tmp_path))
    peer.send(Teach(tools=(READ,)))
    failed = peer.answer()
    assert isinstance(failed, Failed), failed
    assert failed.id == ""
    assert failed.error["data"]["kind"] == "ModelError"
    assert "llmos model pull" in failed.error["data"]["next_step"]
    assert peer.process.wait(20) == 1


def test_a_frame_that_is_none_ends_it_with_a_report(tmp_path: Path) -> None:
    peer = Peer("default", LLMOS_MODELS_DIR=str(tmp_path))
    peer.wire.send({"type": "nonsense"})
    failed = peer.answer()
    assert isinstance(failed, Failed), failed
    assert failed.error["data"]["kind"] == "WireError"
    assert peer.process.wait(20) == 1


def test_it_ends_with_its_broker(tmp_path: Path) -> None:
    peer = Peer("default", LLMOS_MODELS_DIR=str(tmp_path))
    assert peer.close()[0] == 0
