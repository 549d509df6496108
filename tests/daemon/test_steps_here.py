"""Several steps, and the way up to larger models, on this machine: through the real daemon, whose planners
answer from a script. What real weights make of it stands in `tests/planner/test_steps_real.py`."""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import support


def shell(command: str, **more: Any) -> dict[str, Any]:
    return {"calls": [{"tool": "shell.run", "args": {"command": command}}], **more}


NAME = "echo big.log > name.txt"
THREE = "note the name, then copy it, then count it"
SCRIPT: dict[str, Any] = {
    "note the name, then copy it": shell(NAME, after={NAME: shell("cp name.txt copy.txt")}),
    THREE: shell(
        NAME, after={NAME: shell("cp name.txt copy.txt"), "cp name.txt copy.txt": shell("wc -l copy.txt")}
    ),
    "note the name, then nothing new": shell(NAME),
    "note the name, then think": shell(NAME, after={NAME: {"calls": []}}),
    "note the name, then say so": shell(
        NAME, after={NAME: {"calls": [{"tool": "answer", "args": {"text": "It is noted."}}]}}
    ),
    "print much, then say so": shell(
        "printf %05000d 1",
        after={"printf %05000d 1": {"calls": [{"tool": "answer", "args": {"text": "A number."}}]}},
    ),
    "note the name, then wait": shell(NAME, after={NAME: {**shell("cp name.txt copy.txt"), "delay_s": 1.5}}),
    "find the log, then copy it": {
        "calls": [*shell("ls")["calls"], *shell("cp it guessed.txt")["calls"]],
        "after": {"ls": shell("touch known.txt")},
    },
    "both, then nothing": shell(f"{NAME} && cp name.txt copy.txt"),
    "for ever; and; so; on; and; on": shell("ls", after={"ls": shell("ls -a"), "ls -a": shell("ls -l")}),
}


@pytest.fixture
def work(short_dir: Path) -> Path:
    folder = short_dir / "work"
    folder.mkdir()
    return folder


def asked(client: support.Client, work: Path, text: str, **params: Any) -> dict[str, Any]:
    reply = client.call("ask", text=text, cwd=str(work), **{"consent": "yes", **params})
    found: dict[str, Any] = reply.get("result") or reply["error"]
    return found


def commands(result: dict[str, Any]) -> list[str]:
    return [call["args"]["command"] for call in result["calls"]]


@pytest.mark.sandbox
def test_the_next_call_is_made_knowing_what_came_of_the_one_before(
    start_daemon: Callable[..., support.Daemon], work: Path
) -> None:
    client = start_daemon(SCRIPT).connect()
    result = asked(client, work, THREE)
    assert (result["status"], result["route"]) == ("done", "local"), result
    assert commands(result) == [NAME, "cp name.txt copy.txt", "wc -l copy.txt"]
    assert (work / "copy.txt").read_text() == "big.log\n" and result["calls"][2]["stdout"].startswith("1 ")
    assert client.result("resume.list")["waiting"] == []


@pytest.mark.sandbox
def test_what_follows_an_outcome_is_asked_about(
    start_daemon: Callable[..., support.Daemon], work: Path
) -> None:
    client = start_daemon({"look, then count": shell("ls", after={"ls": shell("ls -a")})}).connect()
    unattended = asked(client, work, "look, then count", consent="none")
    assert unattended["status"] == "needs_approval"
    assert [call["rule"] for call in unattended["calls"]][1] == "heard"
    number = client.send("ask", text="look, then count", cwd=str(work), consent="interactive", id="q")
    assert client.until("approval")["data"]["command"] == "ls -a"
    client.result("approve", id="q", decision="yes")
    assert client.reply(number)["result"]["status"] == "done"


@pytest.mark.sandbox
def test_it_ends_where_a_model_has_nothing_more_to_do(
    start_daemon: Callable[..., support.Daemon], work: Path
) -> None:
    client = start_daemon(SCRIPT).connect()
    for text in ("note the name, then nothing new", "both, then nothing"):
        result = asked(client, work, text)
        assert result["status"] == "done" and len(result["calls"]) == 1, result
    assert asked(client, work, "note the name, then say so")["answer"] == "It is noted."
    assert (
        "did not read 1,000 characters of step 1" in asked(client, work, "print much, then say so")["answer"]
    )
    lost = asked(client, work, "note the name, then think")
    assert lost["status"] == "failed" and "What was done stands" in lost["answer"]


@pytest.mark.sandbox
def test_what_would_be_guessed_waits_until_it_is_known(
    start_daemon: Callable[..., support.Daemon], work: Path
) -> None:
    client = start_daemon(SCRIPT).connect()
    planned = asked(client, work, "find the log, then copy it", mode="plan")
    assert commands(planned) == ["ls"]
    result = asked(client, work, "find the log, then copy it")
    assert result["status"] == "done" and commands(result) == ["ls", "touch known.txt"], result


@pytest.mark.sandbox
def test_it_is_bounded_in_steps_and_in_time(start_daemon: Callable[..., support.Daemon], work: Path) -> None:
    client = start_daemon(SCRIPT, offload={"max_steps": 2}).connect()
    bounded = asked(client, work, "for ever; and; so; on; and; on")
    assert bounded["status"] == "failed" and "2 steps" in bounded["answer"] and len(bounded["calls"]) == 2


@pytest.mark.sandbox
def test_it_goes_on_after_the_daemon_was_killed_over_it(
    start_daemon: Callable[..., support.Daemon], work: Path
) -> None:
    daemon = start_daemon(SCRIPT)
    client = daemon.connect()
    client.send("ask", text="note the name, then wait", cwd=str(work), id="two", consent="yes")
    while not (work / "name.txt").exists():
        time.sleep(0.02)
    while "detail" in client.until("thinking")["data"]:
        pass
    daemon.stop(signal.SIGKILL)
    (work / "name.txt").write_text("changed meanwhile\n")
    client = start_daemon(SCRIPT).connect()
    (left,) = client.result("resume.list")["waiting"]
    assert left["id"] == "two" and len(left["steps"]) == 1
    result = client.result("resume", consent="yes")
    assert (result["status"], result["route"]) == ("done", "local") and len(result["calls"]) == 1, result
    assert (work / "copy.txt").read_text() == "changed meanwhile\n"  # the first step was not done again


# --- the way up ---------------------------------------------------------------------------------


@pytest.mark.weights
def test_an_unsure_model_is_followed_by_the_next_larger_one(
    start_daemon: Callable[..., support.Daemon], work: Path, tiny_model: Path
) -> None:
    """The larger ones' weights are looked up for real; what they say is scripted."""
    other = work.parent / "other.gguf"
    other.symlink_to(tiny_model)
    names = ["large-that-is-absent", str(tiny_model), str(other)]
    script = {
        "easy": shell("echo small"),
        "hard": shell("echo small", confidence=0.2, **{"as": {names[1]: shell("echo larger")}}),
        "harder": shell(
            "echo small",
            confidence=0.2,
            **{"as": {names[1]: shell("echo unsure", confidence=0.3), names[2]: shell("echo largest")}},
        ),
        "too hard": shell("echo small", confidence=0.2, **{"as": {name: {"calls": []} for name in names}}),
    }
    client = start_daemon(script, offload={"larger": names}).connect()
    said = {text: commands(asked(client, work, text, mode="plan")) for text in script}
    assert said == {
        "easy": ["echo small"],
        "hard": ["echo larger"],
        "harder": ["echo largest"],
        "too hard": ["echo small"],
    }
    told = client.result("route", text="harder", cwd=str(work))
    assert [(one["where"], one["model"]) for one in told["facts"]["local"]] == [
        ("local", ""), ("larger", names[1]), ("larger", names[2]),
    ]  # fmt: skip
    why = " | ".join(told["why"])
    assert "the local model is unsure: 0.20 < 0.5" in why and "there is no model" in why
    assert f"the larger model {names[2]} is sure: 1.00" in why
    status = client.result("status")["larger"]
    assert [one["pid"] is not None for one in status] == [False, True, True]


@pytest.mark.weights
def test_a_step_that_the_model_here_is_unsure_of_goes_up_as_well(
    start_daemon: Callable[..., support.Daemon], work: Path, tiny_model: Path
) -> None:
    unsure = shell("false", confidence=0.1, **{"as": {str(tiny_model): shell("cp name.txt copy.txt")}})
    script = {"note, then copy": shell(NAME, after={NAME: unsure})}
    client = start_daemon(script, offload={"larger": str(tiny_model)}).connect()
    result = asked(client, work, "note, then copy", data_b64=base64.b64encode(b"x").decode())
    assert result["status"] == "done" and commands(result) == [NAME, "cp name.txt copy.txt"]
