"""Verbs about the machine as a whole, through the real client and daemon, and at a real terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.console.tmux import Terminal
from tests.daemon import support

ZOMBIE = "import os, time\nif os.fork() == 0: os._exit(0)\ntime.sleep(60)"


class World:
    def __init__(self, env: dict[str, str]) -> None:
        runtime = Path(env["XDG_RUNTIME_DIR"])
        self.env = env | {"LLMOS_SOCKET": str(runtime / "s.sock")}
        self.runtime = runtime
        self.start()

    def start(self) -> None:
        self.daemon = support.start(self.runtime, {"*": {"calls": []}}, env=self.env)

    def llmos(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llmos", *words], env=self.env, capture_output=True, text=True,
            timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def json(self, *words: str) -> dict[str, Any]:
        done = self.llmos(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def terminal(self, *words: str) -> Terminal:
        return Terminal(self.runtime, [sys.executable, "-m", "llmos", *words], self.env, self.runtime)


@pytest.fixture(scope="module")
def world(make_home: Callable[[], dict[str, str]]) -> Iterator[World]:
    made = World(make_home())
    yield made
    made.daemon.stop()


@pytest.fixture
def careless() -> Iterator[psutil.Process]:
    """A program with a zombie, which is no child of ours."""
    shell = subprocess.Popen(
        ["sh", "-c", '"$@" & echo $!; wait', "sh", sys.executable, "-c", ZOMBIE],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert shell.stdout
    process = psutil.Process(int(shell.stdout.readline()))
    yield process
    os.killpg(shell.pid, 9)
    shell.communicate()


def test_advice_is_one_object(world: World, careless: psutil.Process) -> None:
    found = world.json("advise", "processes")
    mine = [one for one in found["findings"] if one["numbers"].get("parent") == careless.pid]
    assert [one["kind"] for one in mine] == ["zombie"]
    assert {"tool": "process.stop", "args": {"pid": careless.pid}} in [
        {key: call[key] for key in ("tool", "args")} for call in mine[0]["suggestions"]
    ]


def test_advice_without_a_terminal_only_tells(world: World, careless: psutil.Process) -> None:
    done = world.llmos("advise", "processes")
    assert f"pid {careless.pid}" in done.stdout
    assert done.returncode == 0
    assert careless.is_running()


def test_what_is_wrong_reaches_the_tool(world: World) -> None:
    done = world.json("call", "advise", "--args", '{"about": "cpu"}')
    assert (done["status"], done["calls"][0]["verdict"]) == ("done", "allow")


@pytest.mark.sandbox
def test_one_key_leads_to_a_question_and_no_further(world: World, careless: psutil.Process) -> None:
    with world.terminal("advise", "processes") as terminal:
        screen = terminal.wait("Which call?")
        line = next(line for line in screen.splitlines() if f'process.stop {{"pid": {careless.pid}}}' in line)
        terminal.keys(line.strip()[1])
        terminal.wait(f"kill -TERM {careless.pid}")
        assert careless.status() == psutil.STATUS_SLEEPING
        terminal.keys("y")
        terminal.wait("exit:0")
    careless.wait(5)
