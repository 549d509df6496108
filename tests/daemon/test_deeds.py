"""Changes that are no files, through a real daemon: taken back by steps of their own, and done again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from .support import Client, Daemon

pytestmark = pytest.mark.sandbox
Start = Callable[..., Daemon]


@pytest.fixture
def client(start_daemon: Start) -> Client:
    return start_daemon().connect()


def call(client: Client, folder: Path, tool: str, **args: Any) -> dict[str, Any]:
    return client.result("call", tool=tool, args=args, cwd=str(folder), consent="yes")


def started(client: Client, folder: Path) -> tuple[psutil.Process, str]:
    result = call(client, folder, "process.start", command="sleep 300", name="nap")
    (one,) = result["calls"]
    found = re.search(r"process (\d+)", one["stdout"])
    assert found, result
    return psutil.Process(int(found[1])), one["undo_id"]


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_started_process_is_ended_by_undo_and_started_again_by_undoing_that(
    client: Client, tmp_path: Path
) -> None:
    process, undo_id = started(client, tmp_path)
    assert undo_id and not gone(process)
    back = client.result("undo", undo_id=undo_id, consent="yes")
    assert back["status"] == "done" and gone(process), back
    (entry,) = [e for e in client.result("history", limit=10)["entries"] if e.get("undo_id") == undo_id]
    assert entry["undo"] == "undone"
    again = client.result("undo", undo_id=undo_id, consent="yes")
    fresh = re.search(r"process (\d+)", again["calls"][0]["stdout"])
    assert again["status"] == "done" and fresh and psutil.pid_exists(int(fresh[1])), again
    last = client.result("undo", undo_id=undo_id, consent="yes")
    assert last["status"] == "done" and not psutil.pid_exists(int(fresh[1])), last


def test_undo_asks_with_the_step_it_will_take_and_no_leaves_the_process_alone(
    client: Client, tmp_path: Path
) -> None:
    process, undo_id = started(client, tmp_path)
    number = client.send("undo", id="back", undo_id=undo_id, consent="interactive")
    asked = client.until("approval")["data"]
    assert asked["command"] == f"kill -TERM {process.pid} # takes back: sleep 300 &"
    assert asked["effects"]["signals"] == [process.pid] and asked["no_preview"]
    client.send("approve", id="back", decision="no")
    assert client.reply(number)["result"]["status"] == "needs_approval" and not gone(process)
    assert client.result("undo", undo_id=undo_id, consent="none")["status"] == ("needs_approval")
    client.result("undo", undo_id=undo_id, consent="yes")


def test_undo_refuses_politely_when_the_process_has_ended_by_itself(client: Client, tmp_path: Path) -> None:
    process, undo_id = started(client, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while not gone(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    result = client.result("undo", undo_id=undo_id, consent="yes")
    assert result["status"] == "failed" and f"process {process.pid}, which has ended" in result["answer"]


def test_what_root_started_through_llmos_root_may_stop(client: Client, tmp_path: Path) -> None:
    process, _ = started(client, tmp_path)
    stopped = call(client, tmp_path, "process.stop", pid=process.pid)
    assert stopped["status"] == "done" and gone(process), stopped
    (one,) = stopped["calls"]
    assert one["undo_id"] is None  # nothing brings an ended process back


def test_undo_without_an_id_takes_the_newest_change_of_either_kind(client: Client, tmp_path: Path) -> None:
    call(client, tmp_path, "shell.run", command="echo x > made")
    process, _ = started(client, tmp_path)
    assert client.result("undo", consent="yes")["status"] == "done" and gone(process)
    assert client.result("undo", consent="yes")["status"] == "done"
    assert not (tmp_path / "made").exists()


def test_somebody_elses_process_is_never_signalled_by_a_kept_step(client: Client, tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], user=65534 if os.geteuid() == 0 else None)
    try:
        result = call(client, tmp_path, "process.stop", pid=other.pid)
        expected = "denied" if os.geteuid() == 0 else "done"
        assert result["status"] == expected and (other.poll() is None) == (expected == "denied")
    finally:
        other.kill()
        other.wait()
