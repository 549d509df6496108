"""Whole requests through a real daemon: real manifests, policy, audit and sandbox, a scripted planner."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .support import Client, Daemon

Start = Callable[..., Daemon]
CONTRACT = {"id", "status", "route", "calls", "answer", "timing"}


def call(tool: str, **args: Any) -> dict[str, Any]:
    return {"tool": tool, "args": args}


def shell(command: str) -> dict[str, Any]:
    return call("shell.run", command=command)


SCRIPT: dict[str, Any] = {
    "capital": {"calls": [call("answer", text="Paris.")], "text": "Paris."},
    "which file": {"calls": [call("ask", question="Which file do you mean?")]},
    "list": {"calls": [shell("ls")]},
    "write": {"calls": [shell("echo new > made.txt")]},
    "read then write": {"calls": [shell("ls"), shell("echo new > made.txt")]},
    "write then forbidden": {"calls": [shell("echo new > made.txt"), shell("echo x > /etc/llmos-canary")]},
    "fail first": {"calls": [shell("ls /nonexistent-here"), shell("ls")]},
    "sleep": {"calls": [shell("ls"), shell("echo begun; sleep 30")]},
    "count": {"calls": [shell("wc -c")]},
    "no such tool": {"calls": [call("rocket.launch", where="moon")]},
    "wrong arguments": {"calls": [call("shell.run", flavour="mint")]},
    "how": {"command": "df -h"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    (place / "here.txt").write_text("hello")
    return place


@pytest.fixture
def client(start_daemon: Start) -> Client:
    return start_daemon(SCRIPT).connect()


def ask(client: Client, text: str, folder: Path, **more: Any) -> dict[str, Any]:
    return client.result("ask", text=text, cwd=str(folder), **more)


# --- what the model says without doing ---------------------------------------------------------


def test_an_answer_is_done_and_runs_nothing(client: Client, folder: Path) -> None:
    events: list[dict[str, Any]] = []
    number = client.send("ask", text="capital", cwd=str(folder), id="mine")
    result = client.reply(number, events)["result"]
    assert result.keys() == CONTRACT
    assert (result["id"], result["status"], result["answer"]) == ("mine", "done", "Paris.")
    assert result["route"] == "local"
    assert result["timing"]["total_ms"] > 0
    kinds = [event["kind"] for event in events]
    assert kinds == ["queued", "thinking", "text", "finished"]
    assert {event["id"] for event in events} == {"mine"}


def test_a_question_back_needs_input(client: Client, folder: Path) -> None:
    result = ask(client, "which file", folder)
    assert (result["status"], result["answer"]) == ("needs_input", "Which file do you mean?")


def test_what_is_not_understood_says_what_would_help(client: Client, folder: Path) -> None:
    result = ask(client, "gibberish", folder)
    assert result["status"] == "not_understood"
    assert result["calls"] == []
    assert "Say what to do" in result["answer"]


@pytest.mark.parametrize("text", ["no such tool", "wrong arguments"])
def test_a_proposal_that_is_no_valid_call_is_not_understood(client: Client, folder: Path, text: str) -> None:
    result = ask(client, text, folder)
    assert result["status"] == "not_understood"
    assert result["answer"]


def test_translate_prints_a_command_and_runs_nothing(client: Client, folder: Path) -> None:
    assert client.result("translate", text="how", cwd=str(folder)) == {
        "command": "df -h",
        "confidence": 1.0,
        "route": "local",
    }
    assert client.error("translate", text="capital", cwd=str(folder))["data"]["kind"] == "NotUnderstood"


# --- judged -----------------------------------------------------------------------------------


def test_a_plan_is_judged_whole_and_nothing_runs(client: Client, folder: Path) -> None:
    result = client.result("plan", text="read then write", cwd=str(folder))
    assert [found["verdict"] for found in result["calls"]] == ["allow", "ask"]
    assert result["calls"][1]["effects"]["writes"] == [str(folder / "made.txt")]
    assert all(found["exit_code"] is None for found in result["calls"])
    assert result["status"] == "needs_approval"
    assert client.result("plan", text="list", cwd=str(folder))["status"] == "done"
    assert not (folder / "made.txt").exists()


def test_one_denied_call_and_nothing_of_the_request_runs(client: Client, folder: Path) -> None:
    result = ask(client, "write then forbidden", folder, consent="yes")
    assert result["status"] == "denied"
    assert result["calls"][1]["verdict"] == "deny"
    assert result["answer"] == result["calls"][1]["reason"]
    assert not (folder / "made.txt").exists()
    assert not Path("/etc/llmos-canary").exists()


def test_what_would_be_asked_does_not_run_unattended(client: Client, folder: Path) -> None:
    result = ask(client, "read then write", folder)
    assert result["status"] == "needs_approval"
    assert not (folder / "made.txt").exists()
    assert result["calls"][0]["exit_code"] is None


# --- run --------------------------------------------------------------------------------------


@pytest.mark.sandbox
def test_an_allowed_call_runs_and_its_output_comes_back(client: Client, folder: Path) -> None:
    events: list[dict[str, Any]] = []
    number = client.send("ask", text="list", cwd=str(folder))
    result = client.reply(number, events)["result"]
    assert result["status"] == "done"
    (done,) = result["calls"]
    assert (done["verdict"], done["exit_code"], done["stdout"]) == ("allow", 0, "here.txt\n")
    assert done.keys() == {
        "tool", "args", "verdict", "rule", "reason", "exit_code", "stdout", "stderr", "effects", "undo_id",
    }  # fmt: skip
    kinds = [event["kind"] for event in events]
    assert kinds == ["queued", "thinking", "call", "running", "output", "finished"]
    assert result["timing"]["sandbox_ms"] > 0
    assert result["timing"]["policy_ms"] > 0


@pytest.mark.sandbox
def test_yes_approves_what_would_be_asked(client: Client, folder: Path) -> None:
    result = ask(client, "write", folder, consent="yes")
    assert result["status"] == "done", result
    assert (folder / "made.txt").read_text() == "new\n"


@pytest.mark.sandbox
def test_a_failed_call_ends_the_request(client: Client, folder: Path) -> None:
    result = ask(client, "fail first", folder)
    assert result["status"] == "failed"
    assert result["calls"][0]["exit_code"] not in (0, None)
    assert "nonexistent-here" in result["calls"][0]["stderr"]
    assert result["calls"][1]["exit_code"] is None


@pytest.mark.sandbox
def test_piped_data_reaches_the_command_as_it_is(client: Client, folder: Path) -> None:
    blob = bytes(range(256)) * 3
    result = ask(client, "count", folder, data_b64=base64.b64encode(blob).decode())
    assert result["calls"][0]["stdout"].split()[0] == "768"


@pytest.mark.sandbox
def test_a_typed_call_needs_no_model(client: Client, folder: Path) -> None:
    result = client.result("call", tool="shell.run", args={"command": "ls"}, cwd=str(folder))
    assert (result["status"], result["calls"][0]["stdout"]) == ("done", "here.txt\n")
    assert client.result("status")["planner"]["state"] == "unloaded"


def test_a_typed_call_that_is_wrong_is_a_usage_error_naming_what(client: Client, folder: Path) -> None:
    error = client.error("call", tool="shell.run", args={"flavour": "mint"}, cwd=str(folder))
    assert error["data"]["kind"] == "UsageError"
    assert "flavour" in error["message"] or "command" in error["message"]
    error = client.error("call", tool="rocket.launch", args={}, cwd=str(folder))
    assert "rocket.launch" in error["message"]


@pytest.mark.sandbox
def test_cancel_kills_a_running_command_and_keeps_what_was_done(client: Client, folder: Path) -> None:
    began = time.monotonic()
    number = client.send("ask", text="sleep", cwd=str(folder), id="long", consent="yes")
    while client.until("output")["data"]["text"] != "begun\n":
        pass
    assert client.reply(client.send("cancel", id="long"))["result"] == {"ok": True}
    result = client.reply(number)["result"]
    assert result["status"] == "failed"
    assert result["calls"][0]["exit_code"] == 0
    assert "ancelled" in result["answer"]
    assert time.monotonic() - began < 15


@pytest.mark.sandbox
def test_cancel_at_the_very_start_of_a_command_is_not_lost(client: Client, folder: Path) -> None:
    began = time.monotonic()
    number = client.send("ask", text="sleep", cwd=str(folder), id="long", consent="yes")
    while client.until("running")["data"]["index"] != 1:
        pass
    client.send("cancel", id="long")  # its sandbox is only just being put together
    assert client.reply(number)["result"]["status"] == "failed"
    assert time.monotonic() - began < 8


def test_a_journal_that_cannot_be_written_means_that_nothing_runs(
    start_daemon: Start, folder: Path, isolated_home: Path
) -> None:
    (isolated_home / ".local/state/llmos/audit.jsonl").mkdir(parents=True)
    with start_daemon(SCRIPT).connect() as client:
        error = client.error("ask", text="write", cwd=str(folder), consent="yes")
        assert "journal" in error["message"] and "nothing is run" in error["message"]
        assert error["data"]["next_step"]
        assert not (folder / "made.txt").exists()
        assert client.result("status")["state"] == "ready"


@pytest.mark.sandbox
def test_the_broker_stays_small_and_never_loads_torch(start_daemon: Start, folder: Path) -> None:
    daemon = start_daemon(SCRIPT)
    with daemon.connect() as client:
        for text in ("capital", "list", "write"):
            ask(client, text, folder, consent="yes")
        client.result("policy.check", command="tar czf a.tgz . && ls | wc -l", cwd=str(folder))
        maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
        assert "cedar" in maps  # it has really done its work, and so it is a fair look
        assert "torch" not in maps and "numpy" not in maps
        # Trying the rules' examples out takes more for a moment, which is given back.
        deadline = time.monotonic() + 20
        while client.result("status")["resident_bytes"] >= 60e6 and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(3)
        client.result("policy.check", command="tar czf b.tgz . && ls | wc -l", cwd=str(folder))
        assert client.result("status")["resident_bytes"] < 60e6


# --- consent ----------------------------------------------------------------------------------


def start_interactive(client: Client, folder: Path, text: str = "write") -> tuple[int, dict[str, Any]]:
    number = client.send("ask", text=text, cwd=str(folder), id="mine", consent="interactive")
    return number, client.until("approval")["data"]


@pytest.mark.sandbox
def test_a_person_sees_the_exact_command_and_says_yes(client: Client, folder: Path) -> None:
    began = time.monotonic()
    number, data = start_interactive(client, folder)
    assert data["index"] == 0
    assert data["call"] == shell("echo new > made.txt")
    assert "made.txt" in data["command"]
    assert data["effects"]["writes"] == [str(folder / "made.txt")]
    assert data["verdict"] == "ask" and data["rule"] and data["reason"]
    assert not (folder / "made.txt").exists()
    time.sleep(1)
    assert client.result("approve", id="mine", decision="yes") == {"ok": True}
    result = client.reply(number)["result"]
    assert result["status"] == "done"
    # What the person took is not counted.
    assert result["timing"]["total_ms"] < 1000 * (time.monotonic() - began - 1)
    assert (folder / "made.txt").exists()


def test_no_means_that_nothing_runs(client: Client, folder: Path) -> None:
    number, _ = start_interactive(client, folder, "read then write")
    client.send("approve", id="mine", decision="no")
    result = client.reply(number)["result"]
    assert result["status"] == "needs_approval"
    assert "You said no" in result["answer"]
    assert result["calls"][0]["exit_code"] is None  # the whole request, not only the rest of it
    assert not (folder / "made.txt").exists()


@pytest.mark.sandbox
def test_an_edited_call_is_judged_anew(client: Client, folder: Path) -> None:
    number, _ = start_interactive(client, folder)
    refused = client.error("approve", id="mine", decision="edit", call=call("rocket.launch"))
    assert "rocket.launch" in refused["message"]
    assert "call" in client.error("approve", id="mine", decision="edit")["message"]
    client.send("approve", id="mine", decision="edit", call=shell("echo other > edited.txt"))
    assert client.until("approval")["data"]["call"] == shell("echo other > edited.txt")
    client.send("approve", id="mine", decision="yes")
    result = client.reply(number)["result"]
    assert result["calls"][0]["args"] == {"command": "echo other > edited.txt"}
    assert (folder / "edited.txt").exists()
    assert not (folder / "made.txt").exists()


def test_an_edit_into_something_forbidden_is_denied(client: Client, folder: Path) -> None:
    number, _ = start_interactive(client, folder)
    client.send("approve", id="mine", decision="edit", call=shell("echo x > /etc/llmos-canary"))
    assert client.reply(number)["result"]["status"] == "denied"
    assert not Path("/etc/llmos-canary").exists()


@pytest.mark.sandbox
def test_always_is_remembered_for_the_same_call(client: Client, folder: Path) -> None:
    number, _ = start_interactive(client, folder)
    client.send("approve", id="mine", decision="always")
    assert client.reply(number)["result"]["status"] == "done"
    (folder / "made.txt").unlink()
    again = ask(client, "write", folder)
    assert (again["status"], again["calls"][0]["verdict"]) == ("done", "allow"), again
    assert (folder / "made.txt").exists()


def test_only_the_connection_that_asked_may_approve(start_daemon: Start, folder: Path) -> None:
    daemon = start_daemon(SCRIPT)
    with daemon.connect() as asking, daemon.connect() as other:
        number, _ = start_interactive(asking, folder)
        assert "another client" in other.error("approve", id="mine", decision="yes")["message"]
        assert not (folder / "made.txt").exists()
        assert other.result("cancel", id="mine") == {"ok": True}  # stopping is no danger
        assert asking.reply(number)["error"]["data"]["kind"] == "Cancelled"


def test_approving_what_nobody_asks_is_an_error(client: Client, folder: Path) -> None:
    assert "no request" in client.error("approve", id="none", decision="yes")["message"]
    start_interactive(client, folder)
    assert "not 5" in client.error("approve", id="mine", decision="yes", index=5)["message"]
    assert client.error("approve", id="mine", decision="maybe")["code"] == -32602


def test_going_away_at_the_question_is_a_no(start_daemon: Start, folder: Path) -> None:
    daemon = start_daemon(SCRIPT)
    with daemon.connect() as asking:
        start_interactive(asking, folder)
    with daemon.connect() as other:
        deadline = time.monotonic() + 5
        while other.result("status")["requests"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert other.result("status")["requests"] == []
    assert not (folder / "made.txt").exists()


# --- around it --------------------------------------------------------------------------------


@pytest.mark.sandbox
def test_a_detached_request_outlives_its_client_and_onlookers_see_it(
    start_daemon: Start, folder: Path
) -> None:
    daemon = start_daemon({"slow": {"calls": [shell("echo new > made.txt")], "delay_s": 0.5}})
    with daemon.connect() as watcher:
        watcher.result("subscribe")
        with daemon.connect() as asking:
            asking.send("ask", text="slow", cwd=str(folder), consent="yes", detach=True, id="alone")
            asking.until("thinking")
        finished = watcher.until("finished")
        assert (finished["id"], finished["data"]["status"]) == ("alone", "done")
    assert (folder / "made.txt").exists()


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"text": ""}, "empty"),
        ({"text": "x" * 20_000}, "at most 16000"),
        ({"text": "a\0b"}, "control character"),
        ({"text": "\u202eevil"}, "bidirectional"),
        ({"text": "ok", "cwd": "/nonexistent"}, "no folder"),
        ({"text": "ok", "cwd": "."}, "not absolute"),
        ({"text": "ok", "data_b64": "!"}, "base64"),
        ({"text": "ok", "id": "../x"}, "`id`"),
        ({"text": "ok", "consent": "root"}, "`consent`"),
        ({"text": "ok", "uid": 0}, "`uid`"),
        ({"text": "ok", "detach": True, "consent": "interactive"}, "detached"),
    ],
)
def test_an_unusable_request_is_refused_with_the_reason(
    client: Client, folder: Path, params: dict[str, Any], says: str
) -> None:
    error = client.error("ask", **{"cwd": str(folder), **params})
    assert says in error["message"]
    assert error["data"]["next_step"]
    assert error["data"]["kind"] == "UsageError"


def test_policy_check_judges_text_and_argv_and_runs_nothing(client: Client, folder: Path) -> None:
    allowed = client.result("policy.check", command="ls -la", cwd=str(folder))
    assert allowed.keys() == {"verdict", "rule", "reason", "effects"}
    assert allowed["verdict"] == "allow"
    argv = client.result("policy.check", command=["rm", "-r", "a file"], cwd=str(folder))
    assert argv["effects"]["deletes"] == [str(folder / "a file")]
    assert argv["verdict"] in ("ask", "deny")
    assert client.result("policy.check", command="dd if=/dev/zero of=/dev/sda", cwd="/")["verdict"] == "deny"


@pytest.mark.sandbox
def test_history_tells_what_was_done(client: Client, folder: Path) -> None:
    ask(client, "list", folder, id="first")
    ask(client, "write", folder, id="second", consent="yes")
    entries = client.result("history", limit=10)["entries"]
    assert [entry["id"] for entry in entries][-2:] == ["first", "second"]
    assert "made.txt" in json.dumps(entries[-1])


def test_undo_says_honestly_that_there_is_nothing(client: Client) -> None:
    for params in ({}, {"undo_id": "never"}):
        error = client.error("undo", **params)
        assert "nothing is" in error["message"]
        assert "history" in error["data"]["next_step"]


def test_tools_lists_the_manifests(client: Client) -> None:
    tools = {tool["name"]: tool for tool in client.result("tools")["tools"]}
    assert {"shell.run", "answer", "ask"} <= tools.keys()
    assert tools["shell.run"]["parameters"]["type"] == "object"


def test_status_is_complete_and_small(client: Client) -> None:
    client.result("tools")  # waits for the parts
    status = client.result("status")
    assert status["state"] == "ready" and status["error"] is None
    assert status["tools"] > 10
    assert status["resident_bytes"] < 60e6
    assert status["planner"]["state"] == "unloaded"
    assert status["policy"] == "default"


# --- reload -----------------------------------------------------------------------------------

MANIFEST = """
name = "greet.someone"
summary = "Say hello to someone."
read_only = true
[args.who]
type = "string"
required = true
help = "whom"
[run]
argv = ["echo", "hello", "{who}"]
""" + "".join(f'[[example]]\nsay = "greet {n}"\nargs = {{ who = "{n}" }}\n' for n in "abcdefgh")


def wait_until(check: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_new_manifest_works_and_a_broken_one_leaves_the_last_good(
    start_daemon: Start, isolated_home: Path
) -> None:
    tools = isolated_home / ".config/llmos/tools"
    tools.mkdir(parents=True)
    with start_daemon().connect() as client:
        names = lambda: {tool["name"] for tool in client.result("tools")["tools"]}  # noqa: E731
        before = names()
        time.sleep(0.3)  # watching begins after the first load
        (tools / "greet.toml").write_text(MANIFEST)
        wait_until(lambda: "greet.someone" in names())
        (tools / "greet.toml").write_text(MANIFEST.replace("summary", "sumary"))
        wait_until(lambda: client.result("status")["error"] is not None)
        error = client.result("status")["error"]
        assert "greet.toml" in error["message"]
        assert "greet.someone" in names()
        (tools / "greet.toml").unlink()
        wait_until(lambda: client.result("status")["error"] is None)
        wait_until(lambda: names() == before)


def test_a_manifest_broken_from_the_start_is_told_and_can_be_mended(
    start_daemon: Start, isolated_home: Path
) -> None:
    tools = isolated_home / ".config/llmos/tools"
    tools.mkdir(parents=True)
    (tools / "bad.toml").write_text("name = ")
    with start_daemon().connect() as client:
        error = client.error("tools")
        assert error["data"]["kind"] == "ConfigError"
        assert "bad.toml" in error["message"]
        assert client.result("status")["state"] == "broken"
        time.sleep(0.5)
        (tools / "bad.toml").unlink()
        wait_until(lambda: client.result("status")["state"] == "ready")


def test_of_two_changes_the_newer_one_comes_into_force(start_daemon: Start, isolated_home: Path) -> None:
    """Reading many rules takes longer than reading one; that must not make the older reading the last."""
    policies = isolated_home / ".config/llmos/policies"
    policies.mkdir(parents=True)
    rule = """
[[rule]]
id = "own.{n}"
decision = "deny"
why = "not now, please"
when = 'action == Action::"read" && context.path == "/{n}"'
match = ["cat /{n}"]
not_match = ["ls", "cat x"]
"""
    with start_daemon().connect() as client:
        client.result("tools")
        time.sleep(0.5)  # watching begins after the first load
        (policies / "x.toml").write_text("".join(rule.replace("{n}", f"o{n}") for n in range(150)))
        time.sleep(0.4)  # it is being read
        (policies / "x.toml").write_text(rule.replace("{n}", "newer"))
        check = lambda path: client.result("policy.check", command=f"cat {path}", cwd="/")["rule"]  # noqa: E731
        wait_until(lambda: check("/newer") == "own.newer", 60)
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            assert check("/newer") == "own.newer" and check("/o7") != "own.o7"
            time.sleep(0.2)


# --- the planner dies under a request ---------------------------------------------------------


def test_killing_the_planner_costs_a_retry_and_nothing_else(start_daemon: Start, folder: Path) -> None:
    daemon = start_daemon({"slow": {**SCRIPT["capital"], "delay_s": 0.5}, **SCRIPT})
    with daemon.connect() as client:
        number = client.send("ask", text="slow", cwd=str(folder))
        client.until("thinking")
        planner = client.result("status")["planner"]["pid"]
        os.kill(planner, 9)
        assert client.reply(number)["result"]["answer"] == "Paris."
        assert client.result("status")["planner"]["pid"] != planner


def test_a_planner_that_keeps_dying_is_a_clear_error_and_the_daemon_serves_on(
    start_daemon: Start, folder: Path
) -> None:
    daemon = start_daemon({"die": {"die": "kill"}, **SCRIPT})
    with daemon.connect() as client:
        error = client.error("ask", text="die", cwd=str(folder))
        assert error["data"]["kind"] == "PlannerDied"
        assert "SIGKILL" in error["message"]
        assert ask(client, "capital", folder)["answer"] == "Paris."


# --- answers that stand on something -----------------------------------------------------------


def test_a_question_about_a_command_is_answered_from_its_documentation(
    start_daemon: Start, folder: Path
) -> None:
    client = start_daemon({"*": {"calls": [call("answer", text="from memory")]}}).connect()
    result = ask(client, "what does ls -a do?", folder)
    assert result["status"] == "done" and "from memory" not in result["answer"]
    assert "entries starting with ." in result["answer"]
    assert "[ls(1)]" in result["answer"] or "[ls --help]" in result["answer"]
    assert result["timing"]["generated_tokens"] == 0  # no model was asked


def test_how_to_do_something_is_answered_with_a_command_and_its_documentation(
    start_daemon: Start, folder: Path
) -> None:
    spoken = [call("answer", text="from memory")]
    client = start_daemon(
        {
            "how do I list hidden files?": {"command": "ls -a", "calls": spoken},
            "how do I list entries swiftly?": {"command": "ls -a", "calls": spoken, "confidence": 0.5},
            "what's the time?": {"calls": [call("answer", text="Late.")]},
            "how do I frobnicate my gizmos?": {"command": "frobnicate --all", "calls": spoken},
        }
    ).connect()
    answer = ask(client, "how do I list hidden files?", folder)["answer"]
    assert answer.startswith("ls -a\nls: ") and "entries starting with ." in answer
    assert "[ls(1)]" in answer or "[ls --help]" in answer
    for unsure in ("how do I list entries swiftly?", "how do I frobnicate my gizmos?"):
        assert not ask(client, unsure, folder)["answer"].startswith(("ls -a", "frobnicate --all"))
    assert not (ask(client, "what's the time?", folder)["answer"] or "").startswith("time: ")


def test_piped_data_answers_with_its_lines_and_words_of_a_model_are_marked(
    start_daemon: Start, folder: Path
) -> None:
    client = start_daemon(
        {
            "*": {
                "calls": [
                    call("answer", text="It was Bob."),
                ],
                "text": "It was Bob.",
            }
        }
    ).connect()
    data = base64.b64encode(b"started\nERROR no space left\nbye\n").decode()
    events: list[dict[str, Any]] = []
    number = client.send("ask", text="why did it fail?", cwd=str(folder), data_b64=data)
    result = client.reply(number, events)["result"]
    assert result["answer"] == "From what was piped in:\nline 2: ERROR no space left"
    assert "text" not in [event["kind"] for event in events]
    result = ask(client, "who did it?", folder, data_b64=base64.b64encode(b"nobody\n").decode())
    assert result["answer"].startswith("It was Bob.\n(No line of what was piped in")
    assert "only the first" not in result["answer"]
    long = base64.b64encode(b"all is well\n" * 2000).decode()
    assert "from line 364: " in ask(client, "summarise this", folder, data_b64=long)["answer"]  # in pieces
    hello = ask(client, "hello", folder, data_b64=long)["answer"]
    assert hello.startswith("It was Bob.\n(The model read only the first")


@pytest.mark.sandbox
def test_a_change_that_the_words_did_not_ask_for_is_said_to_be_one(start_daemon: Start, folder: Path) -> None:
    script = {
        "which files are the largest here?": {"calls": [shell("echo new > made.txt")]},
        "write made.txt": {"calls": [shell("echo new > made.txt")]},
    }
    client = start_daemon(script).connect()
    for text, said in (("which files are the largest here?", True), ("write made.txt", False)):
        events: list[dict[str, Any]] = []
        number = client.send("ask", text=text, cwd=str(folder), consent="interactive")
        request_id = ""
        while not request_id:
            frame = client.receive()
            assert frame is not None
            events.append(frame["params"])
            request_id = events[-1]["id"] if events[-1]["kind"] == "approval" else ""
        client.reply(client.send("approve", id=request_id, decision="no"))
        client.reply(number)
        notices = [event["data"]["text"] for event in events if event["kind"] == "notice"]
        assert any("only to be looked at" in notice for notice in notices) is said
