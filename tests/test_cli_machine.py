"""Verbs about the machine as a whole, through the real client and daemon, and at a real terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmos.console import dashboard
from tests.bench import goals as bench
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

    def goals(self) -> list[dict[str, Any]]:
        found = self.json("goals")["goals"]
        assert isinstance(found, list)
        return found

    def journal(self) -> list[dict[str, Any]]:
        (file,) = Path(self.env["HOME"]).rglob("audit.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    def until(self, holds: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := holds()):
            assert time.monotonic() < deadline, self.llmos("goals").stdout
            time.sleep(0.2)
        return found

    def terminal(self, *words: str) -> Terminal:
        env = self.env | {"TERM": "screen"}
        return Terminal(self.runtime, [sys.executable, "-m", "llmos", *words], env, self.runtime)


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


# --- goals -----------------------------------------------------------------------------------------------


def test_a_goal_is_judged_kept_over_a_restart_acted_on_and_written_down(world: World) -> None:
    with (
        bench.started(bench.FORK + bench.HOGS["cpu"], "4") as (hog, _),
        bench.started(bench.VICTIM, "40", "0") as (victim, _),
    ):
        args = json.dumps({"protect": str(victim), "against": str(hog)})
        assert world.llmos("call", "goal.add", "--args", args).returncode == 4
        done = world.json("call", "goal.add", "--yes", "--args", args)
        assert done["calls"][0]["verdict"] == "ask"
        world.daemon.stop()
        world.start()
        (goal,) = world.until(lambda: [one for one in world.goals() if one["standing"]["behind"]])
        assert goal["standing"]["yielding"] == [hog]
        assert [one for one in world.journal() if one.get("action") == "limit" and one["pid"] == hog]
        assert world.llmos("goals", "remove", goal["id"]).returncode == 4
        assert world.llmos("goals", "remove", goal["id"], "--yes").returncode == 0
        world.until(lambda: [one for one in world.journal() if one.get("action") == "release"])
    assert world.goals() == []
    assert "there is no goal" in world.llmos("goals").stdout


def test_a_goal_over_what_is_not_ones_own_is_refused(world: World) -> None:
    args = json.dumps({"protect": "api", "against": "1"})
    assert world.llmos("call", "goal.add", "--yes", "--args", args).returncode in (0, 3)
    assert not [one for one in world.journal() if one.get("pid") == 1]
    for goal in world.goals():
        world.llmos("goals", "remove", goal["id"], "--yes")


# --- top -------------------------------------------------------------------------------------------------


def test_top_as_json_is_one_sample(world: World) -> None:
    found = world.json("top")
    assert 0 < found["memory_used"] < found["memory_total"] == psutil.virtual_memory().total
    assert 0 <= found["cpu_percent"] <= 100
    assert len(found["busiest"]) == 8
    assert all(0 <= value <= 100 for value in found["pressure_percent"].values())


def test_top_without_a_terminal_prints_once(world: World) -> None:
    done = world.llmos("top", "--every", "0.2")
    assert done.returncode == 0
    assert [word for word in ("CPU", "Memory", "Disk read", "PID", "Goals") if word not in done.stdout] == []
    assert "\x1b" not in done.stdout


def test_top_cuts_a_long_name_and_nothing_else() -> None:
    busy = dashboard.Busy(1234567, "nobody", "a" * 300, 100.0, 123 << 20)
    sample = dashboard.Sample(0.0, 1.0, 1.0, 1, 2, {}, 0.0, 0.0, busiest=(busy,))
    out = io.StringIO()
    Console(width=60, file=out).print(dashboard.draw([sample], 60))
    table = out.getvalue().partition("PID")[2].splitlines()
    assert table[0].split() == ["USER", "CPU%", "MEMORY", "NAME"]
    assert table[1].split()[:3] == ["1234567", "nobody", "100"] and table[1].rstrip().endswith("…")
    assert table[2].strip() == "", "one line for each"


def test_top_on_a_terminal_follows_its_size_shows_what_runs_and_goes_at_q(world: World) -> None:
    args = json.dumps({"protect": "a-daemon", "against": "a-build"})
    world.llmos("call", "goal.add", "--yes", "--args", args)
    with world.terminal("top", "--every", "0.2") as terminal:
        terminal.wait("keep a-build from slowing a-daemon down")
        terminal.resize(52, 40)
        terminal.wait_gone("a-daemon down: waits")
        waiting = subprocess.Popen(
            [sys.executable, "-m", "llmos", "call", "process.wait", "--args",
             json.dumps({"until": "started", "name": "never-there", "timeout": "30s"})],
            env=world.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            screen = terminal.wait("process.wait")
        finally:
            waiting.terminate()
            waiting.wait()
        assert max(len(line) for line in screen.splitlines()) <= 52
        terminal.keys("q")
        terminal.wait("exit:0")
    for goal in world.goals():
        world.llmos("goals", "remove", goal["id"], "--yes")


@given(st.lists(st.floats(0, 1e12), max_size=50), st.integers(0, 60), st.floats(0, 1e12))
def test_a_sparkline_is_as_wide_as_it_may_be(values: list[float], width: int, most: float) -> None:
    line = dashboard.sparkline(values, width, most)
    assert len(line) == width
    assert set(line) <= set("\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588 ")
