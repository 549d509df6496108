"""Priorities, limits and suspension through a real daemon: judged, asked, done, told, and taken back."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmos.toolbox import groups

from .support import Client, Daemon

Start = Callable[..., Daemon]


@pytest.fixture
def client(start_daemon: Start) -> Client:
    return start_daemon().connect()


@pytest.fixture
def family() -> Iterator[psutil.Process]:
    """A shell with a child, below another shell: what started the daemon counts as a part of llmos."""
    top = subprocess.Popen(
        ["sh", "-c", "sh -c 'sleep 300 & wait' & echo $!; wait"], stdout=subprocess.PIPE, text=True
    )
    assert top.stdout
    head = psutil.Process(int(top.stdout.readline()))
    while not head.children():
        time.sleep(0.01)
    all_of_it = [psutil.Process(top.pid), head, *head.children()]
    yield head
    for process in all_of_it:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    top.communicate()


def call(client: Client, tool: str, consent: str = "yes", **args: Any) -> dict[str, Any]:
    return client.result("call", tool=tool, args=args, cwd="/tmp", consent=consent)


def test_a_priority_is_asked_about_set_on_the_whole_family_and_taken_back(
    client: Client, family: psutil.Process
) -> None:
    child = family.children()[0]
    before = family.nice()
    assert call(client, "resource.priority", "none", target=str(family.pid), nice=12)["status"] == (
        "needs_approval"
    )
    done = call(client, "resource.priority", target=str(family.pid), nice=12)
    assert done["status"] == "done" and (family.nice(), child.nice()) == (12, 12), done
    (one,) = done["calls"]
    assert one["effects"]["resources"] == [f"pid:{family.pid}"]
    if os.geteuid() == 0:  # the kernel lets only root make anything more important again
        back = client.result("undo", undo_id=one["undo_id"], consent="yes")
        assert back["status"] == "done" and (family.nice(), child.nice()) == (before, before), back
        again = client.result("undo", undo_id=one["undo_id"], consent="yes")
        assert again["status"] == "done" and child.nice() == 12, again


def test_init_and_others_processes_are_refused_and_wrong_numbers_explained(client: Client) -> None:
    error = client.error(
        "call", tool="resource.limit", args={"target": "1", "cpu": 20}, cwd="/", consent="yes"
    )
    assert error["code"] == -32002 and "keeps the system" in error["message"]
    error = client.error(
        "call", tool="resource.limit", args={"target": "x", "cpu": 0}, cwd="/", consent="yes"
    )
    assert "not between" in error["message"] and error["data"]["next_step"]


@pytest.mark.root
def test_another_users_process_is_denied_even_to_root(client: Client) -> None:
    other = subprocess.Popen(
        ["sh", "-c", "sleep 300 & echo $!; wait"], stdout=subprocess.PIPE, text=True, user=65534, group=65534,
        extra_groups=[],
    )  # fmt: skip
    assert other.stdout
    process = psutil.Process(int(other.stdout.readline()))
    try:
        for tool, args in (("resource.priority", {"nice": 5}), ("resource.limit", {"cpu": 20})):
            denied = call(client, tool, target=str(process.pid), **args)
            assert denied["status"] == "denied" and denied["calls"][0]["rule"] == "machine.limits", denied
        assert call(client, "process.suspend", pid=process.pid)["status"] == "denied"
        assert process.nice() == os.getpriority(os.PRIO_PROCESS, other.pid)
    finally:
        process.kill()
        other.communicate()


def test_a_family_is_suspended_goes_on_by_undo_and_says_when_it_is_so_already(
    client: Client, family: psutil.Process
) -> None:
    both = (family, family.children()[0])
    done = call(client, "process.suspend", pid=family.pid)
    assert done["status"] == "done" and {one.status() for one in both} == {psutil.STATUS_STOPPED}, done
    error = client.error("call", tool="process.suspend", args={"pid": family.pid}, cwd="/", consent="yes")
    assert "suspended already" in error["message"]
    back = client.result("undo", undo_id=done["calls"][0]["undo_id"], consent="yes")
    assert back["status"] == "done" and psutil.STATUS_STOPPED not in {one.status() for one in both}, back


def test_a_wait_ends_with_the_process_with_its_time_and_with_the_request(
    client: Client, family: psutil.Process
) -> None:
    late = client.error("call", tool="process.wait", args={"pid": family.pid, "timeout": "1s"}, cwd="/")
    assert late["code"] == -32005 and "still runs" in late["message"], late
    number = client.send("call", id="w1", tool="process.wait", args={"pid": family.pid}, cwd="/")
    client.until("running")
    client.result("cancel", id="w1")
    assert client.reply(number)["result"]["status"] == "failed"
    number = client.send("call", tool="process.wait", args={"pid": family.children()[0].pid}, cwd="/")
    client.until("running")
    family.children()[0].kill()
    ended = client.reply(number)["result"]
    assert ended["status"] == "done" and "ended after" in ended["calls"][0]["stdout"], ended


@pytest.mark.root
@pytest.mark.skipif("cpu" not in groups.trees(), reason="no control group for cpu")
def test_a_limit_is_kept_over_a_restart_of_the_daemon_and_undo_takes_the_group_away(
    start_daemon: Start, family: psutil.Process
) -> None:
    daemon = start_daemon()
    with daemon.connect() as client:
        done = call(client, "resource.limit", target=str(family.pid), cpu=30, pids=100)
    assert done["status"] == "done" and "Read back" in done["calls"][0]["stdout"], done
    mine = [folder for folder in groups.ours() if f".{family.pid}." in folder.name]
    daemon.stop()
    assert mine and all(len(groups.pids_in(folder)) == 2 for folder in mine)
    with start_daemon().connect() as client:
        seen = call(client, "resource.status", "none", target=str(family.pid))["calls"][0]["stdout"]
        assert "30 % of a CPU, 100 processes" in seen
        back = client.result("undo", undo_id=done["calls"][0]["undo_id"], consent="yes")
    assert back["status"] == "done" and not any(Path(folder).exists() for folder in mine), back


@pytest.mark.root
@pytest.mark.sandbox
@pytest.mark.skipif("cpu" not in groups.trees(), reason="no control group for cpu")
def test_what_is_started_under_limits_keeps_to_them_and_can_be_limited_and_stopped_as_this_command(
    client: Client, tmp_path: Path
) -> None:
    args = {"command": "sh -c 'while :; do :; done'", "cpu": 20, "memory": "64M", "pids": 16}
    done = call(client, "process.start", **args)
    found = re.search(r"process (\d+)", done["calls"][0]["stdout"])
    assert found, done
    process = psutil.Process(int(found[1]))
    process.cpu_percent()
    time.sleep(1.5)
    assert 8 <= process.cpu_percent() <= 32
    assert re.search(rf"Max data size +{64 << 20} ", Path(f"/proc/{process.pid}/limits").read_text())
    changed = call(client, "resource.priority", target="this command", nice=15)
    assert changed["status"] == "done" and process.nice() == 15, changed
    stopped = call(client, "process.stop", pid=process.pid)
    assert stopped["status"] == "done" and _has_ended(process), stopped
    error = client.error("call", tool="process.start", args={"command": "sleep 1", "cpu": 0}, cwd="/")
    assert "process.start: argument `cpu`" in error["message"]


def _has_ended(process: psutil.Process) -> bool:
    """The first process of its sandbox reaps it, a moment later."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
