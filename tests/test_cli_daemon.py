"""The command line with the real daemon behind it: catalog, policy, sandbox, audit, all of it but the model.

The planner is the scripted one that ships (llmos.planner.scripted); the rest is what runs at a person's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos import messages
from tests.console.tmux import Terminal
from tests.daemon import support

Llmos = Callable[..., "subprocess.CompletedProcess[str]"]
SCRIPT: dict[str, Any] = {
    "list the files": {"calls": [{"tool": "shell.run", "args": {"command": "ls"}}]},
    "remove the old log": {"calls": [{"tool": "shell.run", "args": {"command": "rm old.log"}}]},
    "wipe the disk": {"calls": [{"tool": "shell.run", "args": {"command": "dd if=/dev/zero of=/dev/sda"}}]},
    "what is the capital of France": {"calls": [{"tool": "answer", "args": {"text": "Paris."}}]},
    "think for ever": {"calls": [], "delay_s": 600},
    "*": {"calls": []},
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "old.log").write_text("old\n")
    (folder / "new.log").write_text("new\nnew\n")
    return folder


@pytest.fixture
def daemon(short_dir: Path, isolated_home: Path) -> Iterator[support.Daemon]:
    started = support.start(short_dir, SCRIPT)
    yield started
    started.stop()


@pytest.fixture
def llmos(daemon: support.Daemon, work: Path, tmp_path: Path) -> Llmos:
    env = client_env(daemon, tmp_path)

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        argv = [sys.executable, "-m", "llmos", *words]
        return subprocess.run(argv, cwd=work, env=env, capture_output=True, text=True, timeout=60, **options)

    return run


def client_env(daemon: support.Daemon, folder: Path) -> dict[str, str]:
    """The scripted planner needs no weights; a store that is not empty keeps the client from offering any."""
    weights = folder / "models"
    weights.mkdir(exist_ok=True)
    (weights / "stand-in.gguf").touch()
    return {**os.environ, "LLMOS_SOCKET": str(daemon.path), "LLMOS_MODELS_DIR": str(weights)}


def found(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one object on stdout, which is the contract's."""
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    return messages.Result.model_validate_json(done.stdout).model_dump(mode="json")


@pytest.mark.sandbox
def test_a_request_is_done_and_its_output_stands_alone_on_stdout(llmos: Llmos) -> None:
    done = llmos("list the files")
    assert (done.returncode, done.stdout) == (0, "new.log\nold.log\n"), done.stderr
    assert "local · " in done.stderr


@pytest.mark.sandbox
def test_call_and_ask_print_the_same_object(llmos: Llmos) -> None:
    asked = found(llmos("--json", "list the files"))
    called = found(llmos("call", "shell.run", "--args", '{"command": "ls"}', "--json"))
    for result in (asked, called):
        assert result["status"] == "done" and result["calls"][0]["stdout"] == "new.log\nold.log\n"
        assert result["calls"][0]["verdict"] == "allow" and result["calls"][0]["exit_code"] == 0


@pytest.mark.sandbox
def test_several_calls_are_one_plan_and_one_undo(llmos: Llmos, work: Path) -> None:
    args = ["call", "file.mkdir", "--args", '{"path": "kept"}', "--then", "file.copy"]
    args.append('{"path": "old.log", "to": "kept/old.log"}')
    assert len(found(llmos(*args, "--plan", "--json"))["calls"]) == 2 and not (work / "kept").exists()
    result = found(llmos(*args, "--yes", "--json"))
    assert result["status"] == "done" and (work / "kept/old.log").exists(), result
    assert llmos("undo", result["id"], "--yes").returncode == 0
    assert not (work / "kept").exists()
    assert "--then file.copy is not JSON" in llmos(*args[:-1], "old.log").stderr


def test_an_answer(llmos: Llmos) -> None:
    assert llmos("what is the capital of France").stdout == "Paris.\n"


@pytest.mark.sandbox
def test_what_is_asked_about_waits_for_yes(llmos: Llmos, work: Path) -> None:
    unattended = llmos("--json", "remove the old log")
    assert unattended.returncode == 4 and found(unattended)["status"] == "needs_approval"
    assert (work / "old.log").exists()
    assert "--yes" in llmos("remove the old log").stderr
    assert llmos("--yes", "remove the old log").returncode == 0
    assert not (work / "old.log").exists()


@pytest.mark.parametrize("flags", [[], ["--yes"]])
def test_a_denial_is_exit_3_whatever_flags(llmos: Llmos, flags: list[str]) -> None:
    done = llmos("wipe the disk", "--json", *flags)
    result = found(done)
    assert done.returncode == 3 and result["status"] == "denied"
    assert result["calls"][0]["verdict"] == "deny" and result["calls"][0]["reason"]


def test_a_plan_runs_nothing(llmos: Llmos, work: Path) -> None:
    done = llmos("plan", "remove the old log")
    assert done.returncode == 4 and "1. shell.run" in done.stdout and "1 deleted" in done.stdout
    assert (work / "old.log").exists()


def test_not_understood_is_exit_6(llmos: Llmos) -> None:
    assert llmos("mumble mumble").returncode == 6


@pytest.mark.parametrize(
    ("words", "code", "verdict"),
    [(["ls -la"], 0, "allow"), (["rm", "old.log"], 4, "ask"), (["dd if=/dev/zero of=/dev/sda"], 3, "deny")],
)
def test_policy_check(llmos: Llmos, words: list[str], code: int, verdict: str) -> None:
    done = llmos("policy", "check", "--json", "--", *words)
    assert done.returncode == code
    result = json.loads(done.stdout)
    assert set(result) == {"verdict", "rule", "reason", "effects"} and result["verdict"] == verdict


@pytest.mark.parametrize(
    ("args", "said"), [("{}", "command"), ('{"command": 7}', "command"), ('{"x": "y"}', "x")]
)
def test_a_call_that_is_none_is_a_usage_error(llmos: Llmos, args: str, said: str) -> None:
    done = llmos("call", "shell.run", "--args", args)
    assert done.returncode == 2 and said in done.stderr


def test_an_unknown_tool_is_a_usage_error(llmos: Llmos) -> None:
    done = llmos("call", "file.lits", "--json")
    assert done.returncode == 2 and "file.lits" in found(done)["answer"]


@pytest.mark.parametrize("text", ["\x07ring", "a\u202eb", "x" * 20_000])
def test_bad_text_is_refused_and_the_daemon_goes_on(llmos: Llmos, text: str) -> None:
    assert llmos("ask", text + " please").returncode == 2
    assert llmos("status", "--json").returncode == 0


def test_status_tools_history_and_undo(llmos: Llmos, daemon: support.Daemon) -> None:
    assert json.loads(llmos("status", "--json").stdout)["pid"] == daemon.process.pid
    assert "shell.run" in llmos("tools").stdout
    assert json.loads(llmos("tools", "shell.run", "--json").stdout)["raw"] == "command"
    llmos("plan", "list the files")
    assert llmos("history").returncode == 0
    assert isinstance(json.loads(llmos("history", "--json").stdout), dict)
    assert "undone" in llmos("undo").stderr


@pytest.mark.sandbox
def test_history_tells_what_was_done(llmos: Llmos) -> None:
    llmos("list the files")
    llmos("remove the old log")
    shown = llmos("history").stdout
    assert "list the files" in shown or "ls" in shown
    assert "old.log" in shown or "old log" in shown


@pytest.mark.sandbox
def test_always_is_remembered_until_it_is_forgotten(llmos: Llmos, daemon: support.Daemon, work: Path) -> None:
    with daemon.connect() as client:
        params = {"id": "r1", "tool": "shell.run", "args": {"command": "rm old.log"}, "cwd": str(work)}
        number = client.send("call", **params, consent="interactive")
        client.until("approval")
        client.send("approve", id="r1", decision="always")
        assert client.reply(number)["result"]["status"] == "done"
    rules = json.loads(llmos("policy", "remembered", "--json").stdout)["remembered"]
    assert [rule["command"] for rule in rules] == ["rm old.log"]
    assert llmos("policy", "check", "--", "rm old.log").returncode == 0
    assert (
        llmos("policy", "check", "--", "rm new.log").returncode == 4
    )  # deletions are remembered to the letter
    assert llmos("policy", "forget", rules[0]["id"]).returncode == 0
    assert llmos("policy", "check", "--", "rm old.log").returncode == 4
    assert "nothing is remembered" in llmos("policy", "remembered").stdout
    assert llmos("policy", "forget", rules[0]["id"]).returncode == 2


@pytest.mark.sandbox
def test_never_is_remembered_as_a_denial(llmos: Llmos, daemon: support.Daemon, work: Path) -> None:
    with daemon.connect() as client:
        params = {"id": "r1", "tool": "shell.run", "args": {"command": "rm old.log"}, "cwd": str(work)}
        number = client.send("call", **params, consent="interactive")
        client.until("approval")
        client.send("approve", id="r1", decision="never")
        assert client.reply(number)["result"]["status"] == "denied"
    assert (work / "old.log").exists()
    assert llmos("policy", "check", "--", "rm old.log").returncode == 3
    assert llmos("call", "shell.run", "--args", '{"command": "rm old.log"}', "--yes").returncode == 3
    shown = llmos("policy", "remembered").stdout
    assert "never" in shown and "rm old.log" in shown
    assert llmos("policy", "forget", shown.split()[0]).returncode == 0
    assert llmos("policy", "check", "--", "rm old.log").returncode == 4


@pytest.mark.sandbox
def test_the_journal_is_shown_and_a_changed_line_is_found(llmos: Llmos, isolated_home: Path) -> None:
    llmos("list the files")
    newest = [json.loads(line) for line in llmos("audit", "tail", "-n", "2", "--json").stdout.splitlines()]
    assert [line["kind"] for line in newest] == ["decided", "finished"]
    whole = llmos("audit", "verify")
    assert whole.returncode == 0 and whole.stdout.startswith("3 lines")
    journal = isolated_home / ".local/state/llmos/audit.jsonl"
    journal.write_text(journal.read_text().replace('"command":"ls"', '"command":"rm"'))
    changed = llmos("audit", "verify", "--json")
    assert changed.returncode == 5 and json.loads(changed.stdout)["ok"] is False


def test_daemon_stop(llmos: Llmos, daemon: support.Daemon) -> None:
    assert f"pid {daemon.process.pid}" in llmos("daemon", "stop").stderr
    assert daemon.process.wait(10) == 0
    assert "no daemon is running" in llmos("daemon", "stop").stderr
    assert llmos("status").returncode == 7


def own(*words: str) -> subprocess.CompletedProcess[str]:
    """With the daemon that the first request starts."""
    argv = [sys.executable, "-m", "llmos", *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_a_daemon_is_started_by_the_first_request_and_said_once(isolated_home: Path) -> None:
    try:
        first = own("call", "shell.run", "--args", '{"command": "ls"}', "--plan")
        second = own("call", "shell.run", "--args", '{"command": "ls"}', "--plan")
        assert first.returncode == second.returncode == 0, first.stderr
        assert "started the llmos daemon (pid " in first.stderr
        assert "started" not in second.stderr
    finally:
        assert own("daemon", "stop").returncode == 0


def test_daemon_reload(isolated_home: Path) -> None:
    def status() -> dict[str, Any]:
        return json.loads(own("status", "--json").stdout)  # type: ignore[no-any-return]

    try:
        own("call", "shell.run", "--args", '{"command": "ls"}', "--plan")
        before = status()
        (isolated_home / ".config/llmos/config.toml").write_text('policy = "readonly"\n')
        assert f"pid {before['pid']}" in own("daemon", "reload").stderr
        deadline = time.monotonic() + 20
        while (after := status())["policy"] != "readonly":
            assert time.monotonic() < deadline
        assert before["policy"] == "default" and after["pid"] == before["pid"]
    finally:
        own("daemon", "stop")


@pytest.mark.sandbox
def test_yes_at_the_terminal(daemon: support.Daemon, work: Path, tmp_path: Path, short_dir: Path) -> None:
    kept = ("HOME", "PATH", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")
    env = {name: client_env(daemon, tmp_path)[name] for name in (*kept, "LLMOS_SOCKET", "LLMOS_MODELS_DIR")}
    with Terminal(short_dir, [sys.executable, "-m", "llmos"], env | {"LC_ALL": "C.UTF-8"}, work) as terminal:
        terminal.wait("policy default")
        terminal.type("!ls -1")
        terminal.wait("old.log")
        terminal.type("remove the old log")
        assert "rm old.log" in terminal.wait("[y]es  [n]o")
        assert (work / "old.log").exists()
        terminal.keys("y")
        terminal.wait("[?] y")  # a key that comes together with others was pasted, and answers nothing
        terminal.type("think for ever")
        terminal.wait("thinking 0.")
        terminal.keys("C-c")
        terminal.type("!echo still here")
        terminal.wait("\nstill here")
        terminal.type("/quit")  # Ctrl-D would be lost between the answer and the prompt
        terminal.wait("exit:0")
    assert not (work / "old.log").exists()


def test_metrics_are_what_prometheus_reads(llmos: Llmos) -> None:
    assert llmos("tools").returncode == 0  # waits until all is loaded
    done = llmos("metrics")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    assert done.returncode == 0 and values['llmos_state{state="ready"}'] == 1, done.stderr
    assert values["llmos_resident_bytes"] > 1 << 20 and values["llmos_requests_max"] > 0
    before = values.get('llmos_requests_total{status="done"}', 0)
    assert llmos("call", "system.memory", "--args", "{}").returncode == 0
    text = llmos("metrics").stdout
    assert f'llmos_requests_total{{status="done"}} {before + 1:g}\n' in text.replace(".0\n", "\n"), text
    assert (
        'llmos_calls_judged_total{verdict="allow"}' in text
        and "# TYPE llmos_request_seconds histogram" in text
    )
    assert 'llmos_request_seconds_bucket{le="+Inf"}' in text
