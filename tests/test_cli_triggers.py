"""Triggers and the inbox: what happens with nobody there, what waits, and what survives a restart."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.automation import calendar, systemctl
from llmos.daemon.inbox import Inbox
from llmos.daemon.triggers import Trigger, Triggers
from llmos.errors import CallFailed
from llmos.messages import CallResult, Pinned, Result
from tests.console.tmux import Terminal
from tests.daemon import support

SCRIPT: dict[str, Any] = {
    "copy it": {"calls": [{"tool": "shell.run", "args": {"command": "cp a.txt copy.txt"}}]},
    "*": {"calls": []},
}


class World:
    """A home, a folder, and a daemon that can be stopped and started again."""

    def __init__(self, env: dict[str, str], work: Path) -> None:
        runtime = Path(env["XDG_RUNTIME_DIR"])
        self.env = env | {
            "LLMOS_SOCKET": str(runtime / "s.sock"),
            "LLMOS_MODELS_DIR": str(runtime / "models"),
        }
        (runtime / "models").mkdir()
        (runtime / "models/stand-in.gguf").touch()
        self.work = work
        (work / "in").mkdir()
        (work / "a.txt").write_text("one\n")
        self.start()

    def start(self) -> None:
        self.daemon = support.start(Path(self.env["XDG_RUNTIME_DIR"]), SCRIPT, env=self.env)

    def llmos(self, *words: str, code: int = 0) -> str:
        argv = [sys.executable, "-m", "llmos", *words]
        done = subprocess.run(
            argv,
            cwd=self.work,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def watch(self, *words: str) -> dict[str, Any]:
        found = json.loads(self.llmos("watch", "--json", "--quiet", "0.2", *words))
        assert isinstance(found, dict)
        return found

    def trigger(self, trigger_id: str) -> dict[str, Any]:
        found = json.loads(self.llmos("watch", "--json"))["triggers"]
        return next(trigger for trigger in found if trigger["id"] == trigger_id)

    def inbox(self) -> list[dict[str, Any]]:
        found = json.loads(self.llmos("inbox", "--json"))["waiting"]
        assert isinstance(found, list)
        return found

    def until(self, holds: Callable[[], Any], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, self.llmos("watch")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def world(
    make_home: Callable[[], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    made = World(make_home(), tmp_path_factory.mktemp("work"))
    yield made
    made.daemon.stop()


@pytest.mark.sandbox
def test_what_is_allowed_runs_once_for_a_burst_of_changes(world: World) -> None:
    trigger = world.watch("in", "!wc -l a.txt")
    for number in range(30):
        (world.work / "in" / f"f{number}").write_text("x")
    world.until(lambda: world.trigger(trigger["id"])["runs"])
    time.sleep(1.0)
    found = world.trigger(trigger["id"])
    assert (found["runs"], found["last_status"]) == (1, "done")
    world.llmos("watch", "pause", trigger["id"])
    (world.work / "in/more").write_text("x")
    time.sleep(1.0)
    assert world.trigger(trigger["id"])["runs"] == 1
    world.llmos("watch", "remove", trigger["id"])
    assert trigger["id"] not in world.llmos("watch", "list")
    world.llmos("watch", "pause", trigger["id"], code=2)


@pytest.mark.sandbox
def test_what_is_asked_about_waits_over_a_restart_and_is_approved_elsewhere(world: World) -> None:
    trigger = world.watch("in", "copy it")
    (world.work / "in/new").write_text("x")
    world.until(world.inbox)
    world.daemon.stop()
    world.start()
    (item,) = world.inbox()
    assert item["origin"] == f"watch {trigger['id']}" and not (world.work / "copy.txt").exists()
    (world.work / "in/new2").write_text("x")  # the same question again, after the restart
    world.until(lambda: world.trigger(trigger["id"])["runs"] == 2)
    assert [other["id"] for other in world.inbox()] == [item["id"]]
    assert "cp a.txt copy.txt" in world.llmos("inbox", "show", item["id"])
    world.llmos("inbox", "approve", item["id"], code=4)  # nobody is there and no --yes
    assert world.llmos("inbox", "approve", "--yes", "all") and not world.inbox()
    assert (world.work / "copy.txt").read_text() == "one\n"
    world.llmos("watch", "remove", trigger["id"])


@pytest.mark.sandbox
@pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux. Run: apt install tmux")
def test_a_person_at_a_terminal_sees_it_anew(world: World, short_dir: Path) -> None:
    (world.work / "copy.txt").unlink(missing_ok=True)
    trigger = world.watch("in", "!cp a.txt copy.txt")
    (world.work / "in/again").write_text("x")
    world.until(world.inbox)
    argv = (sys.executable, "-m", "llmos", "inbox", "approve", world.inbox()[0]["id"])
    with Terminal(short_dir, argv, world.env | {"LC_ALL": "C.UTF-8"}, world.work) as terminal:
        terminal.wait("[y]es")
        terminal.keys("y")
        terminal.wait("exit:0")
    assert (world.work / "copy.txt").exists() and not world.inbox()
    world.llmos("watch", "remove", trigger["id"])


@pytest.mark.sandbox
def test_a_trigger_that_keeps_failing_is_paused(world: World) -> None:
    trigger = world.watch("in", "!cat missing")
    for number in range(5):
        (world.work / "in" / f"g{number}").write_text("x")
        world.until(lambda number=number: world.trigger(trigger["id"])["runs"] > number)
        time.sleep(0.3)
    assert "failed 5 times" in world.trigger(trigger["id"])["paused"]
    world.llmos("watch", "remove", trigger["id"])


def test_a_runs_own_changes_do_not_fire_it_again(tmp_path: Path, isolated_home: Path) -> None:
    watched, ran = tmp_path / "in", []
    watched.mkdir()

    async def perform(trigger: Trigger) -> tuple[Result, tuple[Pinned, ...]]:
        ran.append(len(ran))
        (watched / "own").write_text(str(len(ran)))
        if len(ran) == 2:
            (watched / "foreign").write_text("by somebody else, meanwhile")
        items = [{"change": "modified", "path": str(watched / "own")}]
        call = CallResult(
            tool="t", args={}, verdict="allow", rule="r", reason="x", effects={"changes": {"items": items}}
        )
        return Result(id="r", status="done", calls=(call,)), ()

    async def play() -> list[int]:
        triggers, counts = Triggers(perform, Inbox()), []
        await triggers.start()
        await triggers.add(
            Trigger(
                id="w1",
                uid=os.getuid(),
                gid=os.getgid(),
                kind="watch",
                said="x",
                cwd="/",
                path=str(watched),
                quiet_s=0.2,
            )
        )
        for name in ("a", "b"):
            (watched / name).write_text("x")
            await asyncio.sleep(2.0)
            counts.append(len(ran))
        await triggers.stop()
        return counts

    assert asyncio.run(play()) == [1, 3]  # once for a; for b, and once more for the foreign change


def test_mistakes(world: World) -> None:
    assert 'llmos "watch the log"' in world.llmos("watch", "the", "log", code=2)
    world.llmos("watch", "in", code=2)
    world.llmos("inbox", "approve", "nothing", code=2)
    assert "schedule list" in world.llmos("schedule", "pause", "s123", code=2)


SAID = [
    ("every weekday at 2 am", "Mon..Fri *-*-* 02:00:00"),
    ("daily at 14:30", "*-*-* 14:30:00"),
    ("every monday, wednesday and friday at 6 pm", "Mon,Wed,Fri *-*-* 18:00:00"),
    ("every 15 minutes", "*-*-* *:00/15:00"),
    ("every night", "*-*-* 02:00:00"),
    ("the first monday of every month at 9am", "Mon *-*-01..07 09:00:00"),
    ("the last day of every month at 23:00", "*-*~01 23:00:00"),
    ("每个工作日早上8点半", "Mon..Fri *-*-* 08:30:00"),
    ("每周一三五晚上八点", "Mon,Wed,Fri *-*-* 20:00:00"),
    ("每15分钟", "*-*-* *:00/15:00"),
    ("every 7 minutes", None),
    ("when the moon is full", None),
    ("every day at 25:00", None),
    ("Mon *-*-* 04:00", None),  # systemd's own already
]


@pytest.mark.parametrize(("said", "expression"), SAID)
def test_times_in_words(said: str, expression: str | None) -> None:
    assert calendar.expression(said) == expression


def test_the_units_are_such_that_systemd_takes_them(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze. Run: apt install systemd")
    for expression in sorted({expression for _, expression in SAID if expression}):
        systemctl.checked_calendar("x", expression)
    for name, text in systemctl.units("s1", "Mon..Fri *-*-* 02:00:00", 'say "100 %" of $x').items():
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / f"llmos-schedule-s1.{kind}") for kind in ("service", "timer")]
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, timeout=60)
    assert "llmos-schedule-s1" not in done.stderr, done.stderr


def test_without_systemd_it_is_said() -> None:
    if Path("/run/systemd/system").is_dir():
        assert systemctl.manager().folder.name in ("system", "user")
    else:
        with pytest.raises(CallFailed, match="systemd does not run"):
            systemctl.manager()
