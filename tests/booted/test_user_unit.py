"""llmos as a service of one person's own manager: without root, for nobody else."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from . import machine as machines
from .machine import Machine

WAIT_S = 30.0


@dataclass
class Person:
    """A plain user whose manager runs without a login (lingering)."""

    machine: Machine
    name: str

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {"XDG_RUNTIME_DIR": f"/run/user/{self.machine.uid(self.name)}"}
        return self.machine.run("env", "-C", f"/home/{self.name}", *words, user=self.name, env=env)

    def llmos(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(machines.python(), "-m", "llmos", *words)

    def shell(self, command: str) -> dict[str, Any]:
        done = self.llmos("call", "shell.run", "--json", "--yes", "--args", json.dumps({"command": command}))
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def show(self, name: str, unit: str = "llmosd.service") -> str:
        return self.run("systemctl", "--user", "show", "-P", name, unit).stdout.strip()


@pytest.fixture(scope="module")
def frank(machine: Machine) -> Iterator[Person]:
    machine.add_user("frank")
    # The machine's files are an overlay already, and a plain user can have none above or below another one.
    home = f"mode=700,uid={machine.uid('frank')},gid={machine.uid('frank')}"
    machine.ok("mount", "-t", "tmpfs", "-o", home, "home", "/home/frank")
    person = Person(machine, "frank")
    assert person.llmos("service", "install", "--user", "--yes").returncode == 0
    yield person
    person.llmos("service", "uninstall", "--user", "--yes")


def await_that(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_the_persons_first_client_starts_it_and_their_command_runs_as_them(frank: Person) -> None:
    again = frank.llmos("service", "install", "--user")
    assert again.returncode == 0 and "installed already" in again.stderr
    assert (frank.show("ActiveState"), frank.show("ActiveState", "llmosd.socket")) == ("inactive", "active")
    done = frank.shell("id -un; touch made")
    assert done["calls"][0]["stdout"] == "frank\n" and frank.machine.path("/home/frank/made").exists()
    assert frank.show("ActiveState") == "active" and frank.show("StatusText").startswith("ready")
    told = json.loads(frank.llmos("service", "status", "--user", "--json").stdout)
    assert (told["installed"], told["answers"], told["pid"]) == ("yes", "yes", int(frank.show("MainPID")))
    assert frank.llmos("undo", "--yes").returncode == 0
    assert not frank.machine.path("/home/frank/made").exists()


def test_its_socket_is_the_persons_alone(frank: Person) -> None:
    found = frank.machine.path(f"/run/user/{frank.machine.uid('frank')}/llmos.sock").stat()
    assert (found.st_uid, found.st_mode & 0o777) == (frank.machine.uid("frank"), 0o600)


def test_a_reload_reads_the_persons_own_settings(frank: Person) -> None:
    def verdict() -> str:
        return str(json.loads(frank.llmos("policy", "check", "--json", "--", "touch x").stdout)["verdict"])

    assert verdict() == "ask"
    pid = frank.show("MainPID")
    frank.run("mkdir", "-p", "/home/frank/.config/llmos")
    frank.machine.path("/home/frank/.config/llmos/config.toml").write_text('policy = "readonly"\n')
    assert frank.run("systemctl", "--user", "reload", "llmosd").returncode == 0
    await_that(lambda: verdict() == "deny", "the reload")
    frank.machine.path("/home/frank/.config/llmos/config.toml").unlink()
    assert frank.run("systemctl", "--user", "reload", "llmosd").returncode == 0
    await_that(lambda: verdict() == "ask", "the settings of before")
    assert frank.show("MainPID") == pid


def test_one_that_dies_is_replaced(frank: Person) -> None:
    frank.shell("true")
    pid = frank.show("MainPID")
    assert int(pid) > 1  # 0 would be our own process group
    frank.run("kill", "-KILL", pid)
    await_that(lambda: frank.show("MainPID") not in ("0", pid), "another process")
    assert frank.shell("echo again")["calls"][0]["stdout"] == "again\n"


def test_uninstalling_leaves_the_records_and_nothing_else(frank: Person) -> None:
    assert frank.llmos("service", "uninstall", "--user", "--yes").returncode == 0
    left = frank.machine.path("/home/frank/.config/systemd").rglob("*llmos*")
    assert list(left) == [] and frank.show("LoadState") == "not-found"
    assert not frank.machine.path(f"/run/user/{frank.machine.uid('frank')}/llmos.sock").exists()
    assert frank.machine.path("/home/frank/.local/state/llmos/audit.jsonl").exists()
    assert "not installed" in frank.llmos("service", "uninstall", "--user", "--yes").stderr


def test_a_schedule_fires_by_its_timer_and_what_is_asked_about_waits(frank: Person) -> None:
    (frank.machine.path("/home/frank") / "lines.txt").write_text("one\ntwo\n")
    for said in ("!wc -l lines.txt", "!cp lines.txt copy.txt"):
        done = frank.llmos("schedule", "*:*:0/2", said)
        assert done.returncode == 0, done.stderr
    timers = list((frank.machine.path("/home/frank/.config/systemd/user")).glob("llmos-schedule-*.timer"))
    assert len(timers) == 2
    for timer in timers:  # by itself a timer may be a minute late
        sharp = timer.with_name(f"{timer.name}.d")
        sharp.mkdir()
        (sharp / "sharp.conf").write_text("[Timer]\nAccuracySec=100ms\n")
    frank.run("systemctl", "--user", "daemon-reload")
    frank.run("systemctl", "--user", "restart", *(timer.name for timer in timers))

    def ran() -> bool:
        told = json.loads(frank.llmos("schedule", "list", "--json").stdout)
        return all(one["runs"] for one in told["triggers"])

    await_that(ran, frank.llmos("schedule", "list").stdout)
    (waiting,) = json.loads(frank.llmos("inbox", "--json").stdout)["waiting"]
    assert waiting["said"] == "!cp lines.txt copy.txt", waiting
    assert not frank.machine.path("/home/frank/copy.txt").exists()
    assert frank.llmos("inbox", "approve", "--yes", "all").returncode == 0
    assert frank.machine.path("/home/frank/copy.txt").read_text() == "one\ntwo\n"
    for timer in timers:
        name = timer.stem.removeprefix("llmos-schedule-")
        assert frank.llmos("schedule", "remove", name).returncode == 0
    assert not any(timer.exists() for timer in timers)
