"""The daemon's own life and its manners on the wire, against a real process on a real socket."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmos.daemon import supervisor
from llmos.errors import DaemonUnreachable
from llmos.wire import MAX_FRAME_BYTES

from . import support
from .support import Client, Daemon

SLOW = {"*": {"command": "true", "delay_s": 20}}
Start = Callable[..., Daemon]


def serves(daemon: Daemon) -> bool:
    with daemon.connect() as client:
        return client.result("status")["pid"] == daemon.process.pid


# --- start and stop ---------------------------------------------------------------------------


def test_it_greets_with_its_protocol_and_keeps_its_socket_private(daemon: Daemon) -> None:
    with daemon.connect() as client:
        assert client.hello is not None
        assert client.hello["method"] == "hello"
        assert client.hello["params"]["protocol"] == 1
        assert client.hello["params"]["pid"] == daemon.process.pid
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(daemon.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_takes_the_socket_away(daemon: Daemon, number: int) -> None:
    assert daemon.stop(number) == 0
    assert not daemon.path.exists()


def test_a_second_daemon_does_not_fight_the_first(daemon: Daemon) -> None:
    second = subprocess.run(
        [sys.executable, "-c", support.MAIN, str(daemon.path), "{}", "[]"], capture_output=True, text=True
    )
    assert second.returncode != 0
    assert f"another daemon (pid {daemon.process.pid}) already serves" in second.stderr
    assert serves(daemon)


def test_a_dead_daemons_socket_is_taken_over(daemon: Daemon, start_daemon: Start) -> None:
    daemon.process.kill()
    daemon.process.wait()
    assert daemon.path.exists()
    assert serves(start_daemon())


def test_a_file_in_the_place_of_the_socket_is_never_removed(short_dir: Path) -> None:
    precious = short_dir / "s.sock"
    precious.write_text("mine")
    tried = subprocess.run(
        [sys.executable, "-c", support.MAIN, str(precious), "{}", "[]"], capture_output=True, text=True
    )
    assert tried.returncode != 0
    assert "exists and is not a socket" in tried.stderr
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "says"), [("relative.sock", "not absolute"), ("/tmp/" + "x" * 120, "longer than 107 bytes")]
)
def test_an_impossible_socket_path_is_explained(path: str, says: str) -> None:
    tried = subprocess.run(
        [sys.executable, "-c", support.MAIN, path, "{}", "[]"], capture_output=True, text=True
    )
    assert says in tried.stderr


def test_a_folder_others_can_write_to_is_refused(short_dir: Path) -> None:
    short_dir.chmod(0o777)
    tried = subprocess.run(
        [sys.executable, "-c", support.MAIN, str(short_dir / "s.sock"), "{}", "[]"],
        capture_output=True,
        text=True,
    )
    assert "others may write" in tried.stderr
    assert "chmod go-w" in tried.stderr or "DaemonUnreachable" in tried.stderr


def test_systemd_hands_over_its_socket_and_hears_that_we_are_ready(
    short_dir: Path, isolated_home: Path
) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(short_dir / "activated.sock"))
    listening.listen()
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(short_dir / "notify"))
    notify.settimeout(20)
    code = (
        "import os, sys; os.dup2(int(sys.argv.pop(1)), 3); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n" + support.MAIN
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(listening.fileno()), str(short_dir / "unused.sock"), "{}", "[]"],
        pass_fds=(listening.fileno(),),
        env={**os.environ, "NOTIFY_SOCKET": str(short_dir / "notify")},
    )
    try:
        assert notify.recv(200).startswith(b"READY=1\nSTATUS=")
        with Client(short_dir / "activated.sock") as client:
            assert client.result("status")["pid"] == process.pid
        process.terminate()
        assert notify.recv(200).startswith(b"STOPPING=1\nSTATUS=stopping")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        listening.close()
        notify.close()
    assert (short_dir / "activated.sock").exists()  # systemd's, not ours to remove
    assert not (short_dir / "unused.sock").exists()


# --- auto-start -------------------------------------------------------------------------------


def test_a_client_can_start_a_detached_daemon_and_two_at_once_share_one(
    short_dir: Path, isolated_home: Path
) -> None:
    path = short_dir / "auto.sock"
    argv = [sys.executable, "-c", support.MAIN, str(path), "{}", "[]"]
    code = (
        "import json, sys; from pathlib import Path; from llmos.daemon import supervisor; "
        "print(supervisor.start_daemon(Path(sys.argv[1]), argv=json.loads(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(path), json.dumps(argv)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    pids = {int(starter.communicate(timeout=30)[0]) for starter in starters}
    assert len(pids) == 1
    pid = pids.pop()
    try:
        with Client(path) as client:
            assert client.result("status")["pid"] == pid
        assert os.getsid(pid) == pid  # a terminal that closes does not take it along
    finally:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not path.exists()


def test_a_daemon_that_cannot_start_is_reported_with_its_last_words(
    short_dir: Path, isolated_home: Path
) -> None:
    argv = [sys.executable, "-c", "import sys; sys.exit('no disk, no daemon')"]
    with pytest.raises(DaemonUnreachable, match="no disk, no daemon") as caught:
        supervisor.start_daemon(short_dir / "never.sock", argv=argv, deadline_s=10)
    assert "llmos daemon" in caught.value.next_step


def test_a_daemon_that_never_answers_is_ended(short_dir: Path, isolated_home: Path) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(DaemonUnreachable, match=r"within 0\.5 s"):
        supervisor.start_daemon(short_dir / "never.sock", argv=argv, deadline_s=0.5)


# --- bad frames -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code", "says"),
    [
        (b"{not json}\n", -32700, "not JSON"),
        (b"\x00\x01\xfe\xff\n", -32700, "not JSON"),
        (b'{"jsonrpc":"2.0","method":"status"\n', -32700, "not JSON"),
        (b"[" * 100_000 + b"\n", -32700, "not JSON"),
        (b"42\n", -32600, "not a JSON object"),
        (b'[{"jsonrpc":"2.0","id":1,"method":"status"}]\n', -32600, "batches"),
        (b'{"id":7,"method":"status"}\n', -32600, "jsonrpc"),
        (b'{"jsonrpc":"2.0","id":{},"method":"status"}\n', -32600, "`id`"),
        (b'{"jsonrpc":"2.0","id":7}\n', -32600, "`method`"),
        (b'{"jsonrpc":"2.0","id":7,"method":"status","extra":1}\n', -32600, "extra"),
        (b'{"jsonrpc":"2.0","id":7,"method":"status","params":[1]}\n', -32602, "params"),
        (b'{"jsonrpc":"2.0","id":7,"method":"status","params":{"x":1}}\n', -32602, "x"),
        (b'{"jsonrpc":"2.0","id":7,"method":"ask","params":{"text":"a"}}\n', -32602, "cwd"),
        (b'{"jsonrpc":"2.0","id":7,"method":"fly"}\n', -32601, "fly"),
    ],
)
def test_a_broken_frame_gets_a_clear_error_and_the_connection_goes_on(
    daemon: Daemon, frame: bytes, code: int, says: str
) -> None:
    with daemon.connect() as client:
        client.raw(frame)
        reply = client.receive()
        assert reply is not None
        assert reply["id"] in (7, None)
        assert reply["error"]["code"] == code
        assert says in reply["error"]["message"]
        assert reply["error"]["data"]["next_step"]
        assert client.result("status")["state"] in ("loading", "ready", "broken")


def test_an_oversized_frame_is_refused_before_it_is_held_and_the_connection_closed(daemon: Daemon) -> None:
    with daemon.connect() as client:
        chunk = b"x" * (1 << 20)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(16):
                client.raw(chunk)
        reply = client.receive()
        assert reply is not None
        assert str(MAX_FRAME_BYTES) in reply["error"]["message"]
        assert reply["error"]["data"]["kind"] == "WireError"
        assert client.receive() is None
    assert serves(daemon)


def test_frames_may_come_in_any_pieces(daemon: Daemon) -> None:
    with daemon.connect() as client:
        frame = b'{"jsonrpc":"2.0","id":"\xc3\xa9","method":"status"}\n'
        for byte in frame:
            client.raw(bytes([byte]))
        assert client.reply("é")["result"]["pid"] == daemon.process.pid
        client.raw(frame * 50)
        assert all("result" in client.reply("é") for _ in range(50))


def test_a_notification_is_never_answered(daemon: Daemon) -> None:
    with daemon.connect() as client:
        client.raw(b'{"jsonrpc":"2.0","method":"fly"}\n{"jsonrpc":"2.0","method":"status"}\n')
        assert client.call("status")["id"] == 1


# --- clients that come, go, stay and stall ----------------------------------------------------


def test_a_half_closed_client_still_gets_its_answer(start_daemon: Start) -> None:
    daemon = start_daemon({"*": {"command": "uptime", "delay_s": 0.3}})
    with daemon.connect() as client:
        number = client.send("translate", text="how long", cwd="/")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.reply(number)["result"]["command"] == "uptime"
        assert client.receive() is None


def test_a_client_that_goes_away_loses_its_request_and_no_more(start_daemon: Start) -> None:
    daemon = start_daemon(SLOW)
    with daemon.connect() as watcher:
        client = daemon.connect()
        client.send("translate", text="slow", cwd="/", id="lost")
        client.until("thinking")
        assert [found["id"] for found in watcher.result("status")["requests"]] == ["lost"]
        client.close()
        deadline = time.monotonic() + 5
        while watcher.result("status")["requests"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert watcher.result("status")["requests"] == []


def test_control_is_answered_at_once_while_requests_wait(start_daemon: Start) -> None:
    daemon = start_daemon(SLOW)
    with daemon.connect() as client:
        numbers = [client.send("translate", text="slow", cwd="/", id=f"r{i}") for i in range(4)]
        client.until("thinking")
        began = time.monotonic()
        assert len(client.result("status")["requests"]) == 4
        for i in (3, 2, 1, 0):
            assert client.result("cancel", id=f"r{i}") == {"ok": True}
        assert time.monotonic() - began < 1.0
        kinds = {client.reply(number)["error"]["data"]["kind"] for number in reversed(numbers)}
        assert kinds == {"Cancelled"}


def test_a_full_queue_is_an_error_one_can_retry(start_daemon: Start) -> None:
    daemon = start_daemon(SLOW, server={"max_queued": 2})
    with daemon.connect() as client:
        for i in range(2):
            client.send("translate", text="slow", cwd="/", id=f"r{i}")
        client.until("thinking")
        error = client.error("translate", text="one more", cwd="/")
        assert error["data"]["kind"] == "Overloaded"
        assert error["code"] == -32007
        assert "Try again" in error["data"]["next_step"]
        client.result("cancel", id="r1")
        while len(client.result("status")["requests"]) > 1:
            time.sleep(0.02)
        number = client.send("translate", text="again", cwd="/", id="r2")
        client.until("queued")
        assert number


def test_an_id_in_use_is_refused(start_daemon: Start) -> None:
    daemon = start_daemon(SLOW)
    with daemon.connect() as client:
        client.send("translate", text="slow", cwd="/", id="same")
        client.until("thinking")
        assert "same" in client.error("translate", text="slow", cwd="/", id="same")["message"]


def test_one_connection_may_not_run_everything(start_daemon: Start) -> None:
    daemon = start_daemon(SLOW)
    with daemon.connect() as client:
        for i in range(32):
            client.send("translate", text="slow", cwd="/", id=f"r{i}")
        error = client.error("translate", text="slow", cwd="/")
        assert error["data"]["kind"] == "Overloaded"
        assert client.result("status")["pid"] == daemon.process.pid


def test_too_many_clients_are_told_so(start_daemon: Start) -> None:
    daemon = start_daemon(server={"max_clients": 3})
    held = [daemon.connect() for _ in range(3)]
    with daemon.connect() as fourth:
        assert fourth.hello is not None
        assert fourth.hello["error"]["data"]["kind"] == "Overloaded"
        assert fourth.receive() is None
    for client in held:
        client.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with daemon.connect() as client:
            if client.hello and "params" in client.hello:
                return
    raise AssertionError("the places did not become free")


def test_a_client_that_never_reads_is_cut_off_and_others_are_served(daemon: Daemon) -> None:
    deaf = daemon.connect()
    request = b'{"jsonrpc":"2.0","id":1,"method":"status"}\n' * 1000
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(2000):
            deaf.raw(request)
    deaf.close()
    assert serves(daemon)
    assert "does not read" in daemon.log_text()


def test_sigterm_lets_a_running_request_finish_and_refuses_new_ones(start_daemon: Start) -> None:
    daemon = start_daemon({"*": {"command": "true", "delay_s": 1.0}})
    with daemon.connect() as client:
        number = client.send("translate", text="slow", cwd="/")
        client.until("thinking")
        daemon.process.terminate()
        while client.result("status")["state"] != "stopping":
            time.sleep(0.01)
        assert client.error("translate", text="late", cwd="/")["data"]["kind"] == "Overloaded"
        assert client.reply(number)["result"]["command"] == "true"
        assert client.receive() is None
    assert daemon.process.wait(10) == 0


def test_a_second_signal_stops_at_once(start_daemon: Start) -> None:
    daemon = start_daemon(SLOW)
    with daemon.connect() as client:
        number = client.send("translate", text="slow", cwd="/")
        client.until("thinking")
        planner = client.result("status")["planner"]["pid"]
        began = time.monotonic()
        daemon.process.terminate()
        time.sleep(0.1)
        daemon.process.terminate()
        error = client.reply(number)["error"]
        assert error["data"]["kind"] == "Overloaded" and "nothing was run" in error["message"]
        assert daemon.process.wait(10) == 0
    assert time.monotonic() - began < 6
    with pytest.raises(ProcessLookupError):
        os.kill(planner, 0)


@pytest.mark.root
def test_another_user_is_refused_even_where_the_mode_would_let_them(daemon: Daemon) -> None:
    daemon.path.parent.chmod(0o755)
    daemon.path.chmod(0o666)
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); "
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9999).decode())"
    )
    tried = subprocess.run([sys.executable, "-c", code, str(daemon.path)], capture_output=True, text=True)
    answer = json.loads(tried.stdout)
    assert answer["error"]["data"]["kind"] == "Denied"
    assert "65534" in answer["error"]["message"]


def slices_ns(pid: int) -> list[int]:
    """Of a process's threads, the first one first, what each asked of the scheduler (sched_getattr(2))."""
    libc, found = ctypes.CDLL(None, use_errno=True), []
    for thread in sorted(int(name) for name in os.listdir(f"/proc/{pid}/task")):
        asked = ctypes.create_string_buffer(56)
        number = {"x86_64": 315, "aarch64": 275, "riscv64": 275}[os.uname().machine]
        assert libc.syscall(number, thread, asked, 56, 0) == 0
        found.append(struct.unpack_from("=IIQiIQ", asked.raw)[5])
    return found


def test_who_talks_to_everybody_gets_short_turns_and_nobody_else_does(daemon: Daemon) -> None:
    with daemon.connect() as client:
        assert client.result("status")["pid"] == daemon.process.pid
        first, *others = slices_ns(daemon.process.pid)
        default = slices_ns(os.getpid())[0]
        # Before Linux 6.12 the slice is nobody's to choose.
        assert first == (200_000 if default else 0)
        assert set(others) == {default}
