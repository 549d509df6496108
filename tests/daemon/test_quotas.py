"""Quotas of users who share a daemon: each bounds one user's commands together, and nobody else's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.config import QuotasSettings, Settings, load
from llmos.errors import ConfigError
from llmos.guard import cgroups

from . import shared
from .shared import ANN, MALLORY, Shared
from .support import Client

QUOTA = {
    "users": {
        str(MALLORY): {
            "running": 2, "cpus": 0.2, "memory_bytes": 100 << 20, "processes": 40, "day_tokens": 12,
        }
    }
}  # fmt: skip
SPIN = "timeout 1.5 bash -c 'while :; do :; done' & timeout 1.5 bash -c 'while :; do :; done' & wait; times"
HOLD = "python3 -I -c 'import time; x = bytearray(70 << 20); time.sleep(1)'; echo code $?"

FORK = """python3 -I -c 'import os, time
for number in range(60):
    try:
        if not os.fork():
            time.sleep(1)
            os._exit(0)
    except OSError:
        break
print(number)'"""


@pytest.fixture(scope="module")
def machine(make_home: Callable[[], dict[str, str]]) -> Iterator[Shared]:
    if not cgroups.find(prepare=False):
        pytest.skip("no control groups for calls. Run: llmos doctor")
    with shared.running(make_home(), {"*": {"command": "true"}}, {"quota": QUOTA}) as found:
        with found.client(ANN) as client:
            while client.result("status")["state"] != "ready":
                time.sleep(0.05)
        yield found


def send(machine: Shared, client: Client, uid: int, command: str) -> int:
    cwd = machine.home(uid)
    return client.send("call", tool="shell.run", args={"command": command}, cwd=cwd, consent="yes")


def told(client: Client, number: int) -> dict[str, Any]:
    reply = client.reply(number)
    assert "result" in reply, reply
    (call,) = reply["result"]["calls"]
    return dict(call)


def cpu_s(call: dict[str, Any]) -> float:
    """Processor time of what the shell started: the last line of `times`."""
    minutes, _, rest = call["stdout"].split()[-2].partition("m")
    return int(minutes) * 60 + float(rest.rstrip("s"))


@pytest.mark.root
@pytest.mark.sandbox
def test_processors_are_bounded_for_one_user_and_not_for_another(machine: Shared) -> None:
    with machine.client(MALLORY) as mallory, machine.client(ANN) as ann:
        numbers = [send(machine, mallory, MALLORY, SPIN) for _ in range(2)]
        free = cpu_s(told(ann, send(machine, ann, ANN, SPIN)))
        used = sum(cpu_s(told(mallory, number)) for number in numbers)
    assert used < 0.75, used  # a fifth of a processor for 1.5 s, and a little that the kernel lets pass
    assert free > used, (free, used)


@pytest.mark.root
@pytest.mark.sandbox
def test_memory_and_processes_are_bounded_over_all_calls_of_a_user(machine: Shared) -> None:
    with machine.client(MALLORY) as mallory, machine.client(ANN) as ann:
        numbers = [send(machine, mallory, MALLORY, HOLD) for _ in range(2)]
        others = [send(machine, ann, ANN, HOLD) for _ in range(2)]
        theirs = [told(mallory, number) for number in numbers]
        assert any("code 0" not in call["stdout"] and "[quota]" in call["stderr"] for call in theirs), theirs
        assert all("code 0" in told(ann, number)["stdout"] for number in others)
        assert int(told(mallory, send(machine, mallory, MALLORY, FORK))["stdout"]) < 40
        assert int(told(ann, send(machine, ann, ANN, FORK))["stdout"]) == 59


@pytest.mark.root
@pytest.mark.sandbox
def test_more_commands_than_may_run_wait_for_their_turn_and_can_be_cancelled(machine: Shared) -> None:
    with machine.client(MALLORY) as mallory:
        cwd = machine.home(MALLORY)
        began = time.monotonic()
        numbers = [
            mallory.send("call", tool="shell.run", args={"command": "sleep 0.8"}, cwd=cwd, consent="yes",
                         id=f"q{index}")
            for index in range(4)
        ]  # fmt: skip
        time.sleep(0.4)
        mallory.result("cancel", id="q3")
        assert "ancelled" in json.dumps(mallory.reply(numbers[3]))  # whether it waited or had begun
        assert all(told(mallory, number)["exit_code"] == 0 for number in numbers[:3])
        assert time.monotonic() - began > 1.5  # two, and then the third


@pytest.mark.root
def test_tokens_of_a_day_are_bounded_and_a_restart_forgets_none(machine: Shared) -> None:
    with machine.client(MALLORY) as mallory, machine.client(ANN) as ann:
        for _ in range(5):
            reply = mallory.call("translate", text="anything", cwd="/")
            if "error" in reply:
                break
        assert reply["error"]["code"] == -32009 and reply["error"]["data"]["kind"] == "OverBudget"
        assert "day_tokens" in reply["error"]["data"]["next_step"]
        assert ann.result("translate", text="anything", cwd="/")["command"] == "true"
    state = next(Path(machine.state).rglob("tokens.json"))
    assert json.loads(state.read_text())["used"][str(MALLORY)] >= 12


@pytest.mark.root
@pytest.mark.sandbox
def test_a_users_group_is_gone_when_nothing_lies_in_it(make_home: Callable[[], dict[str, str]]) -> None:
    with (
        shared.running(make_home(), {}, {"quota": {"processes": 200}}) as machine,
        machine.client(ANN) as ann,
    ):
        seen = told(ann, send(machine, ann, ANN, "echo ran"))
        assert seen["stdout"] == "ran\n"
    folders = set(cgroups.find(prepare=False).folders.values())
    assert not [folder for folder in folders if Path(folder, f"llmos-user.{ANN}").exists()]


# --- settings ------------------------------------------------------------------------------------


def test_a_users_own_keys_come_before_everybodys() -> None:
    quotas = QuotasSettings(running=4, users={"carol": {"cpus": 0.5}, "1001": {"running": 1}})
    assert (quotas.of("carol", "1000").running, quotas.of("carol", "1000").cpus) == (4, 0.5)
    assert quotas.of("dave", "1001").running == 1 and quotas.of("erin", "1002").cpus == 0
    assert Settings().quota.of("anybody").day_tokens == 0


@pytest.mark.parametrize(
    ("text", "says"), [("[quota]\ncpu = 1", "quota.cpu"), ("[quota.users.carol]\ncpus = -1", "quota")]
)
def test_a_wrong_quota_is_told_with_its_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load((file,))
    assert str(file) in caught.value.where
