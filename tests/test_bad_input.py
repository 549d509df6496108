"""Bad input as a person meets it: each has an error with a next step, an exit code of the contract, one
JSON object with --json, and leaves the daemon serving. Real command line, real daemon, scripted planner.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos import messages
from llmos.wire import MAX_FRAME_BYTES
from tests.daemon import support

Llmos = Callable[..., "subprocess.CompletedProcess[bytes]"]
SCRIPT: dict[str, Any] = {
    "zähle 文件 файлы": {"calls": [{"tool": "answer", "args": {"text": "drei 三 три"}}]},
    "*": {"calls": []},
}


@pytest.fixture
def daemon(short_dir: Path, isolated_home: Path) -> Iterator[support.Daemon]:
    started = support.start(short_dir, SCRIPT)
    yield started
    started.stop()


@pytest.fixture
def llmos(daemon: support.Daemon, tmp_path: Path) -> Llmos:
    weights = tmp_path / "models"
    weights.mkdir()
    (weights / "stand-in.gguf").touch()  # a store that is not empty: no weights are offered
    env = {**os.environ, "LLMOS_SOCKET": str(daemon.path), "LLMOS_MODELS_DIR": str(weights)}

    def run(*words: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
        argv = [sys.executable, "-m", "llmos", *words]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, timeout=30, **given)

    return run


def refused(done: subprocess.CompletedProcess[bytes], code: int) -> dict[str, Any]:
    """The one JSON object of a failed request; nothing else is on stdout, and no traceback anywhere."""
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.count(b"\n") == 1, done.stdout
    assert b"Traceback" not in done.stderr
    return messages.Result.model_validate_json(done.stdout).model_dump(mode="json")


def test_unusable_words_are_refused_and_the_daemon_serves_on(llmos: Llmos, daemon: support.Daemon) -> None:
    megabyte, binary = b"x" * (1 << 20), bytes(range(256)) * 8
    for data in (b"", b" \n\t\n", megabyte, binary, b"a\x1b[2Jb", b"ring\x07", "a\u202eb".encode()):
        result = refused(llmos("ask", "--json", "-", data=data), 2)
        assert result["status"] == "failed" and result["answer"], data[:20]
    assert json.loads(llmos("status", "--json").stdout)["pid"] == daemon.process.pid


def test_other_languages_are_words_like_any(llmos: Llmos) -> None:
    done = llmos("zähle 文件 файлы")
    assert (done.returncode, done.stdout.decode()) == (0, "drei 三 три\n")


@pytest.mark.parametrize(
    "args",
    [
        '{"path": 7}',
        '{"path": ["a"]}',
        '{"depth": NaN}',
        '{"limit": 1e999}',
        '{"limit": 99999999999999999999999}',
        "[1]",
        "{",
        "[" * 30_000,
        '{"path": ' + "[" * 3_000 + "]" * 3_000 + "}",
    ],
)
def test_a_call_of_wrong_types_is_a_usage_error(llmos: Llmos, args: str) -> None:
    assert refused(llmos("call", "file.list", "--json", "--args", args), 2)["answer"]


def test_bad_frames_and_half_closed_sockets(daemon: support.Daemon) -> None:
    for frame in (b"{\n", b"\xff\xfe\n", b"[]\n", b"7\n", b'{"jsonrpc":"2.0","id":1,"method":7}\n'):
        with daemon.connect() as client:
            client.raw(frame)
            reply = client.receive()
            assert reply is not None and reply["error"]["message"]
            assert client.result("status")["pid"] == daemon.process.pid
    with daemon.connect() as client:
        client.send("status")
        client.sock.shutdown(socket.SHUT_WR)
        answered = client.receive()
        assert answered is not None and "result" in answered
    with daemon.connect() as client:
        client.raw(b"[" * 50_000 + b"\n")
        nested = client.receive()
        assert nested is not None and "error" in nested


def test_an_oversized_frame_costs_its_sender_alone(daemon: support.Daemon) -> None:
    with daemon.connect() as client:
        try:
            client.raw(b"x" * (MAX_FRAME_BYTES + (1 << 20)))
        except (BrokenPipeError, ConnectionResetError):
            pass
    with daemon.connect() as client:
        assert client.result("status")["pid"] == daemon.process.pid


# --- files a person wrote, or a download that stopped -------------------------------------------


def test_a_truncated_model_is_named_with_what_to_do(short_dir: Path, isolated_home: Path) -> None:
    broken = short_dir / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0" + b"\x01\0\0\0\0\0\0\0" * 2)
    env = {**os.environ, "LLMOS_MODEL": str(broken)}
    worker = [sys.executable, "-m", "llmos.planner.worker"]
    daemon = support.start(short_dir, settings={"model": {"name": str(broken)}}, env=env, worker_argv=worker)
    try:
        argv = [sys.executable, "-m", "llmos", "ask", "--json", "list the files"]
        client_env = {**env, "LLMOS_SOCKET": str(daemon.path)}
        done = subprocess.run(
            argv, env=client_env, cwd=short_dir, capture_output=True, timeout=60, stdin=subprocess.DEVNULL
        )
        assert "broken.gguf" in refused(done, 5)["answer"]
        with daemon.connect() as client:
            assert client.result("status")["pid"] == daemon.process.pid
    finally:
        daemon.stop()


@pytest.mark.parametrize("when", ["at start", "while running"])
@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("tools/mine.toml", 'name = "mine"\nsumary = "x"\n'),
        ("policies/mine.toml", '[[rule]]\nid = "mine"\ndecison = "deny"\n'),
        ("policies/mine.toml", "[[rule\n"),
    ],
)
def test_a_typo_is_named_and_the_rest_serves_on(
    short_dir: Path, isolated_home: Path, when: str, place: str, text: str
) -> None:
    file = isolated_home / ".config/llmos" / place
    file.parent.mkdir(parents=True)
    if when == "at start":
        file.write_text(text)
    try:
        daemon = support.start(short_dir, SCRIPT)
    except AssertionError as error:  # a policy that cannot be read: no daemon rather than a weaker one
        assert when == "at start" and place.startswith("policies") and str(file) in str(error)
        return
    try:
        file.write_text(text)
        with daemon.connect() as client:

            def told() -> bool:
                return "mine.toml" in daemon.log_text() + json.dumps(check())

            def check() -> dict[str, Any]:
                return client.call("policy.check", command="ls", cwd=str(short_dir))

            assert _comes(told), daemon.log_text()
            file.unlink()
            assert _comes(lambda: check().get("result", {}).get("verdict") == "allow")
    finally:
        daemon.stop()


def _comes(true: Callable[[], bool], deadline_s: float = 5.0) -> bool:
    deadline = time.monotonic() + deadline_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


@pytest.mark.root
@pytest.mark.sandbox
def test_a_full_disk_means_that_nothing_runs(short_dir: Path, isolated_home: Path) -> None:
    state = isolated_home / ".local/state"
    state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(state)], check=True)
    try:
        daemon = support.start(short_dir, SCRIPT)
        try:
            with (
                (state / "ballast").open("wb", buffering=0) as ballast,
                pytest.raises(OSError, match="space"),
            ):
                while True:
                    ballast.write(b"x" * 4096)
            call = {"tool": "shell.run", "args": {"command": "ls"}, "cwd": str(short_dir)}
            with daemon.connect() as client:
                reply = client.call("call", **call)
                error = reply.get("error") or reply["result"]
                assert "space" in json.dumps(error), reply
                (state / "ballast").unlink()
                assert client.result("call", **call)["status"] == "done"
        finally:
            daemon.stop()
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)
