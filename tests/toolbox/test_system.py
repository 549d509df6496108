"""Processes and the machine: real processes, real sockets, real facts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llmos.errors import UsageError
from llmos.messages import Shell, Signal, Start, ToolCall
from llmos.toolbox import processes
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context

from .conftest import Call


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """Two processes of a name that nothing else has."""
    name = f"zz{os.getpid()}s"
    program = tmp_path / name
    shutil.copy("/usr/bin/sleep", program)
    # Started through a shell that stays: a daemon's own children are parts of llmos and never found.
    shell = subprocess.Popen(
        ["sh", "-c", f"{program} 60 & {program} 60 & echo $!; wait"], stdout=subprocess.PIPE
    )
    assert shell.stdout and shell.stdout.readline()
    yield name, sorted(child.pid for child in psutil.Process(shell.pid).children())
    for child in psutil.Process(shell.pid).children():
        child.kill()
    shell.wait(10)
    shell.stdout.close()


def test_several_of_a_name_ask_which_and_all_takes_all(
    tools: Catalog, here: Context, sleepers: tuple[str, list[int]]
) -> None:
    name, pids = sleepers
    with pytest.raises(UsageError, match="2 processes match") as error:
        tools.plan(ToolCall(tool="process.stop", args={"name": name}), here)
    assert all(str(pid) in str(error.value) for pid in pids)
    plan = tools.plan(ToolCall(tool="process.stop", args={"name": name, "all": True}), here)
    assert sorted(plan.effects.signals) == pids
    one = tools.plan(ToolCall(tool="process.stop", args={"pid": pids[0], "force": True}), here)
    (step,) = one.steps
    assert isinstance(step, Signal) and step.signal == "KILL"
    assert step.started == psutil.Process(pids[0]).create_time() and one.command == f"kill -KILL {pids[0]}"


def test_only_the_callers_own_are_meant(tools: Catalog, here: Context) -> None:
    mixed = [
        processes.ProcessInfo(10, "x", "x", 5, 1.0),
        processes.ProcessInfo(11, "x", "x", 6, 1.0),
    ]
    mine = replace(here, uid=5, find_processes=lambda name: mixed)
    plan = tools.plan(ToolCall(tool="process.stop", args={"name": "x"}), mine)
    assert plan.effects.signals == (10,)


@pytest.mark.parametrize(
    "name",
    ["1", "2", str(os.getpid()), str(os.getppid()), "4194303", "no such process"],
    ids=["init", "the kernel", "itself", "its parent", "no such pid", "no such name"],
)
def test_init_and_llmos_itself_are_never_found(tools: Catalog, here: Context, name: str) -> None:
    assert processes.find(name) == []
    with pytest.raises(UsageError, match=r"keeps the system or llmos|there is no process"):
        tools.plan(ToolCall(tool="process.stop", args={"name": name}), here)


def test_a_word_in_a_command_line_is_not_a_name(sleepers: tuple[str, list[int]]) -> None:
    name, pids = sleepers
    assert (
        sorted(info.pid for info in processes.find(name)) == pids
    )  # not the shell with the name in its text
    assert processes.find(name[:-1]) == []


def test_stop_needs_a_name_or_a_pid(tools: Catalog, here: Context) -> None:
    for args in ({}, {"name": "  "}):
        with pytest.raises(UsageError, match="`pid` or `name`"):
            tools.plan(ToolCall(tool="process.stop", args=args), here)


def test_processes_are_listed_and_found(call: Call, sleepers: tuple[str, list[int]]) -> None:
    name, pids = sleepers
    table = call("process.find", name=name).stdout
    assert "COMMAND" in table and all(str(pid) in table for pid in pids)
    assert call("process.find", name="no-such-process-zz").stdout.startswith("No process matches")
    by_memory = call("process.list", sort="memory", limit=3).stdout.splitlines()
    assert len(by_memory) == 5 and "more" in by_memory[-1]


def test_start_and_shell_are_handed_to_the_guard(tools: Catalog, here: Context) -> None:
    start = tools.plan(ToolCall(tool="process.start", args={"command": "sleep '6 0'"}), here)
    assert start.steps == (Start(argv=("sleep", "6 0"), name="sleep"),)
    shell = tools.plan(ToolCall(tool="shell.run", args={"command": "ls | wc -l"}), here)
    assert shell.steps == (Shell(text="ls | wc -l"),) and shell.command == "ls | wc -l"
    answer = tools.plan(ToolCall(tool="answer", args={"text": "Paris."}), here)
    assert answer.reply == "Paris." and not answer.steps


def test_the_machine_tells_its_facts(call: Call) -> None:
    info = call("system.info").stdout
    assert os.uname().release in info and socket.gethostname() in info
    assert "Memory" in call("system.memory").stdout and "Swap" in call("system.memory").stdout
    assert (
        "/" in call("system.disk").stdout.split()
        and len(call("system.disk", path=".").stdout.splitlines()) == 2
    )
    assert "No file system" in call("system.disk", path="missing").stdout
    assert "CPU use" in call("system.load").stdout


def test_a_listening_port_is_shown_with_its_owner(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = call("system.ports", port=port).stdout
        assert str(port) in text and f"({os.getpid()})" in text
        assert str(port) in call("system.ports").stdout
    assert "Nothing listens" in call("system.ports", port=port).stdout
