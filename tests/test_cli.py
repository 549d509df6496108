"""The command line contract, run as a person's shell runs it: words in; stdout, stderr and exit code out.

The daemon behind it is a scripted one on a real socket (tests/console/server.py), so that each result
the contract knows can be had; what the real daemon does is tested with the real daemon.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos import cli_args, cli_input, cli_requests, messages
from llmos.errors import DaemonUnreachable, ModelError, SandboxUnavailable, UsageError
from tests.console.server import JsonObject, Peer, methods, result, serving

Llmos = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def llmos(isolated_home: Path, short_dir: Path, tmp_path: Path) -> Llmos:
    """Run `llmos WORDS …` with nothing on stdin, in a folder and a home of its own."""
    weights = tmp_path / "models"
    weights.mkdir()
    (weights / "stand-in.gguf").touch()  # a non-empty store: nothing is offered to be fetched
    env = {**os.environ, "LLMOS_SOCKET": str(short_dir / "s"), "LLMOS_AUTOSTART": "0"}
    env["LLMOS_MODELS_DIR"] = str(weights)

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        if "input" not in options and "stdin" not in options:
            options["stdin"] = subprocess.DEVNULL
        argv = [sys.executable, "-m", "llmos", *words]
        options = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "timeout": 60} | options
        return subprocess.run(argv, **options)

    return run


@pytest.fixture
def socket_path(short_dir: Path) -> Path:
    return short_dir / "s"


def answers(**changes: Any) -> Any:
    return lambda peer, frame: peer.reply(frame, result(frame, **changes))


# --- which words mean what -----------------------------------------------------------------------


def parsed(*words: str) -> tuple[str, dict[str, Any]]:
    verb, options = cli_args.parse(words)
    return verb, vars(options)


@pytest.mark.parametrize(
    ("words", "verb", "text"),
    [
        (["list the files"], "ask", ["list the files"]),
        (["which", "files", "are", "large"], "ask", ["which", "files", "are", "large"]),
        (["status of nginx"], "ask", ["status of nginx"]),
        (["run redis in a container"], "ask", ["run redis in a container"]),
        (["uptime"], "ask", ["uptime"]),
        (["ask", "status"], "ask", ["status"]),
        (["--", "status"], "ask", ["status"]),
        (["--", "-5 degrees"], "ask", ["-5 degrees"]),
        (["ask", "--yes", "--", "--help", "me"], "ask", ["--help", "me"]),
        (["plan", "tidy", "up"], "plan", ["tidy", "up"]),
        (["help", "me", "find", "it"], "ask", ["help", "me", "find", "it"]),
    ],
)
def test_verbs_and_requests(words: list[str], verb: str, text: list[str]) -> None:
    name, options = parsed(*words)
    assert (name, options["text"]) == (verb, text)


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "--yes", "do it now"],
        ["do it now", "--json", "--yes"],
        ["ask", "do it now", "--yes", "--json"],
        ["--yes", "ask", "--json", "do it now"],
        ["do", "--json", "it", "--yes", "now"],
    ],
)
def test_flags_stand_anywhere(words: list[str]) -> None:
    verb, options = parsed(*words)
    assert verb == "ask" and options["json"] and options["yes"]
    assert " ".join(options["text"]) == "do it now"


def test_flags_with_values_before_the_text() -> None:
    _, options = parsed("--write", "/srv", "--timeout", "5", "--write=/opt", "do it")
    assert options["write"] == ["/srv", "/opt"] and options["timeout"] == 5.0 and options["text"] == ["do it"]


def test_policy_check_takes_the_command_as_it_is() -> None:
    assert parsed("policy", "check", "--json", "--", "rm", "-rf", "--json")[1]["words"] == [
        "rm",
        "-rf",
        "--json",
    ]
    assert parsed("policy", "check", "--", "rm -rf x | sh")[1]["words"] == ["rm -rf x | sh"]


@pytest.mark.parametrize(
    ("words", "step"),
    [
        (["statsu"], "llmos status"),
        (["polcy", "--json"], "llmos policy"),
        (["run", "redis", "now"], 'llmos "run redis now"'),
        (["status", "of", "nginx"], 'llmos "status of nginx"'),
        (["ask", "--jsn", "x"], "--json"),
        (["--pln", "x y"], "--plan"),
        (["ask", "--timeout", "-3", "x"], "--help"),
        (["call"], "--help"),
        (["history", "-n", "0"], "--help"),
    ],
)
def test_mistakes_are_usage_errors_that_say_what_was_meant(words: list[str], step: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(*words)
    assert step in caught.value.next_step


# --- without a daemon ------------------------------------------------------------------------------


def test_help_and_version(llmos: Llmos) -> None:
    top = llmos("--help")
    assert top.returncode == 0 and not top.stderr
    assert all(verb in top.stdout for verb in cli_args.VERBS)
    assert llmos("--version").stdout.startswith("llmos 0.")


@pytest.mark.parametrize("verb", [verb for verb in cli_args.VERBS if verb != "model"])
def test_each_verb_has_help_with_an_example(llmos: Llmos, verb: str) -> None:
    shown = llmos(verb, "--help")
    assert shown.returncode == 0
    assert f"example:\n  {cli_args.VERBS[verb].example}" in shown.stdout
    assert cli_args.VERBS[verb].example.split()[:2] == ["llmos", verb]


@pytest.mark.parametrize(
    "words", [[""], ["  "], ["ask"], ["--json", ""], ["translate", ""], ["policy", "check", "--"], ["statsu"]]
)
def test_nothing_asked_is_a_usage_error(llmos: Llmos, words: list[str]) -> None:
    done = llmos(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [["list the files"], ["call", "file.list"], ["translate", "list the files"], ["plan", "list files"]],
)
def test_no_daemon_is_exit_7_and_with_json_still_one_object(llmos: Llmos, words: list[str]) -> None:
    plain = llmos(*words)
    assert (plain.returncode, plain.stdout) == (7, "")
    assert "no llmos daemon answers" in plain.stderr
    done = llmos(*words, "--json")
    assert done.returncode == 7
    found = json.loads(done.stdout)
    assert found["status"] == "failed" and "no llmos daemon answers" in found["answer"]
    assert set(found) == set(messages.Result.model_fields)
    assert set(found["timing"]) == set(messages.Timing.model_fields)


def test_status_does_not_start_a_daemon(llmos: Llmos) -> None:
    done = llmos("status", env={**os.environ, "LLMOS_SOCKET": "/tmp/llmos-no-such-folder/s"})
    assert done.returncode == 7


@pytest.mark.parametrize("args", ["{", "[1]", '"x"', "{'path': 1}"])
def test_call_refuses_what_is_no_object(llmos: Llmos, args: str) -> None:
    done = llmos("call", "file.list", "--args", args, "--json")
    assert done.returncode == 2
    assert "--args" in json.loads(done.stdout)["answer"]


def test_a_request_that_is_not_utf8(llmos: Llmos) -> None:
    done = llmos("ask", input=b"\xff\xfe list", text=False)
    assert done.returncode == 2
    assert b"UTF-8" in done.stderr


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'rmdir "$PWD"; exec "$0" -m llmos "list the files"'
    argv = ["/bin/sh", "-c", script, sys.executable]
    done = subprocess.run(argv, cwd=gone, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "no longer exists" in done.stderr


def test_the_client_starts_quickly_and_lightly() -> None:
    code = "import sys; from llmos import cli_requests, cli_service, cli_args; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "pydantic", "asyncio", "prompt_toolkit", "rich", "subprocess"}
    assert not heavy & set(loaded)


def test_the_exit_codes_are_the_contracts() -> None:
    assert cli_requests.EXIT_CODES == messages.EXIT_CODES


# --- with a daemon -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), sorted(messages.EXIT_CODES.items()))
def test_each_status_has_its_exit_code(llmos: Llmos, socket_path: Path, status: str, code: int) -> None:
    with serving(socket_path, methods(ask=answers(status=status, answer="so it ended"))):
        plain, machine = llmos("do it please"), llmos("--json", "do it please")
    assert plain.returncode == machine.returncode == code
    found = json.loads(machine.stdout)
    assert found["status"] == status
    assert machine.stderr == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SandboxUnavailable("no seccomp", "Run: apt install libseccomp2"), 8),
        (DaemonUnreachable("full", ""), 7),
    ],
)
def test_an_error_of_the_daemon_keeps_its_code(
    llmos: Llmos, socket_path: Path, error: Any, code: int
) -> None:
    refuse = methods(ask=lambda peer, frame: peer.refuse(frame, error.to_rpc()))
    with serving(socket_path, refuse):
        plain, machine = llmos("do it please"), llmos("--json", "do it please")
    assert plain.returncode == machine.returncode == code
    assert str(error) in plain.stderr and error.next_step in plain.stderr
    assert json.loads(machine.stdout)["answer"].startswith(str(error))


def test_what_a_request_carries(llmos: Llmos, socket_path: Path, tmp_path: Path) -> None:
    with serving(socket_path, methods(ask=answers())) as peers:
        done = llmos("count", "these", "--yes", "--write", "out", input="a\nb\n")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert done.stderr == "local · 0.8 s\n"
    sent = peers[0].received[0]
    params = sent["params"]
    assert sent["method"] == "ask" and params["text"] == "count these" and params["cwd"] == str(tmp_path)
    assert params["consent"] == "yes" and params["write"] == [str(tmp_path / "out")]
    assert params["data_b64"] == "YQpiCg=="
    assert messages.Ask.model_validate(params).text == "count these"


def test_unattended_consent_is_none_and_plan_is_a_plan(llmos: Llmos, socket_path: Path) -> None:
    with serving(socket_path, methods(ask=answers(), plan=answers())) as peers:
        llmos("do it please")
        shown = llmos("do it please", "--plan")
    assert peers[0].received[0]["params"]["consent"] == "none"
    assert peers[1].received[0]["method"] == "plan"
    assert "1. file.list" in shown.stdout and "allow  rule reading" in shown.stdout


@pytest.mark.parametrize("words", [["ask", "-"], ["ask"], []])
def test_text_from_stdin(llmos: Llmos, socket_path: Path, words: list[str]) -> None:
    with serving(socket_path, methods(ask=answers())) as peers:
        assert llmos(*words, input="list the files\n").returncode == 0
    params = peers[0].received[0]["params"]
    assert params["text"] == "list the files\n" and "data_b64" not in params


def test_stdin_may_be_left_alone(llmos: Llmos, socket_path: Path) -> None:
    with serving(socket_path, methods(ask=answers())) as peers:
        llmos("list the files", "--no-stdin", input="not mine")
    assert "data_b64" not in peers[0].received[0]["params"]


def test_too_much_data_is_refused_here(llmos: Llmos, socket_path: Path) -> None:
    with serving(socket_path, methods(ask=answers())) as peers:
        done = llmos("--json", "count lines", input="x" * (cli_input.MAX_DATA_BYTES + 1))
    assert done.returncode == 2 and "8 MiB" in json.loads(done.stdout)["answer"]
    assert not peers


def test_call_sends_tool_and_args(llmos: Llmos, socket_path: Path) -> None:
    with serving(socket_path, methods(call=answers())) as peers:
        done = llmos("call", "file.list", "--args", '{"path": "."}', "--json")
    assert json.loads(done.stdout)["calls"][0]["stdout"] == "hello\n"
    params = peers[0].received[0]["params"]
    assert (params["tool"], params["args"]) == ("file.list", {"path": "."})


def test_translate_prints_the_command_alone(llmos: Llmos, socket_path: Path) -> None:
    found = {"command": "free -h", "confidence": 0.9, "route": "local"}
    with serving(socket_path, methods(translate=lambda peer, frame: peer.reply(frame, found))):
        plain, machine = llmos("translate", "free", "memory"), llmos("translate", "--json", "free memory")
    assert plain.stdout == "free -h\n" and "confidence 0.90" in plain.stderr
    assert json.loads(machine.stdout) == found


@pytest.mark.parametrize(("verdict", "code"), [("allow", 0), ("ask", 4), ("deny", 3)])
def test_policy_check(llmos: Llmos, socket_path: Path, verdict: str, code: int) -> None:
    found = {"verdict": verdict, "rule": "r", "reason": "because", "effects": {"deletes": ["/x"]}}
    check = methods(policy_check=lambda peer, frame: peer.reply(frame, found))
    with serving(socket_path, check) as peers:
        text = llmos("policy", "check", "--", "rm -r x")
        argv = llmos("policy", "check", "--json", "--", "rm", "-r", "x")
    assert text.returncode == argv.returncode == code
    assert text.stdout == f"{verdict}  rule r: because\n  deletes   /x\n"
    assert json.loads(argv.stdout) == found
    assert [peer.received[0]["params"]["command"] for peer in peers] == ["rm -r x", ["rm", "-r", "x"]]


def test_undo_passes_the_daemons_error_on(llmos: Llmos, socket_path: Path) -> None:
    error = UsageError("nothing is recorded that could be undone", "See: llmos history").to_rpc()
    with serving(socket_path, methods(undo=lambda peer, frame: peer.refuse(frame, error))):
        done = llmos("undo")
    assert done.returncode == 2 and "nothing is recorded" in done.stderr


def test_an_approval_nobody_can_give_is_not_awaited(llmos: Llmos, socket_path: Path) -> None:
    """Consent is `none` without a terminal; should a daemon ask nevertheless, the answer is no."""

    def ask(peer: Peer, frame: JsonObject) -> None:
        peer.event(frame["params"]["id"], "approval", index=0, command="rm x")
        answer = peer.receive()
        assert answer is not None
        peer.reply(frame, result(frame, status="needs_approval", answer=answer["params"]["decision"]))

    with serving(socket_path, methods(ask=ask)):
        done = llmos("--json", "delete it please")
    assert done.returncode == 4 and json.loads(done.stdout)["answer"] == "no"


def test_names_that_are_not_utf8_survive(llmos: Llmos, socket_path: Path) -> None:
    call = {**result({"params": {}})["calls"][0], "stdout": "caf\udce9\n"}
    with serving(socket_path, methods(ask=answers(calls=[call]))):
        plain = llmos("list the files", text=False)
        machine = llmos("--json", "list the files", text=False)
    assert plain.stdout == b"caf\xe9\n"
    assert json.loads(machine.stdout)["calls"][0]["stdout"] == "caf\udce9\n"


def test_a_closed_pipe_is_quiet(isolated_home: Path, socket_path: Path) -> None:
    call = {**result({"params": {}})["calls"][0], "stdout": "line\n" + "x" * 9_000_000}
    env = {**os.environ, "LLMOS_SOCKET": str(socket_path)}
    with serving(socket_path, methods(call=answers(calls=[call]))):
        done = subprocess.run(
            [
                "/bin/bash",
                "-c",
                '"$0" -m llmos call x </dev/null | head -n 1; echo ${PIPESTATUS[0]}',
                sys.executable,
            ],
            capture_output=True,
            text=True,
            env=env,
            timeout=60,
        )
    assert done.stdout.splitlines() == ["line", "141"]
    assert done.stderr == ""


def test_the_time_out_of_a_request(llmos: Llmos, socket_path: Path) -> None:
    def ask(peer: Peer, frame: JsonObject) -> None:
        cancel = peer.receive()
        assert cancel is not None and cancel["method"] == "cancel"
        peer.reply(frame, result(frame, status="failed", answer="Cancelled.", calls=[]))

    start = time.monotonic()
    with serving(socket_path, methods(ask=ask)):
        done = llmos("--json", "--timeout", "0.5", "wait for ever")
    assert done.returncode == 5 and json.loads(done.stdout)["answer"] == "Cancelled."
    assert "not done after 0.5 s" in done.stderr
    assert time.monotonic() - start < 20


def test_missing_weights_name_the_command_that_fetches_them(llmos: Llmos, socket_path: Path) -> None:
    error = ModelError("the model 'default' is not here yet", "Run: llmos model pull default").to_rpc()
    with serving(socket_path, methods(ask=lambda peer, frame: peer.refuse(frame, error))):
        done = llmos("--json", "list the files")
    assert done.returncode == 5
    assert "llmos model pull default" in json.loads(done.stdout)["answer"]


def test_an_empty_store_is_noticed_before_anything_is_sent(
    llmos: Llmos, socket_path: Path, tmp_path: Path
) -> None:
    env = {**os.environ, "LLMOS_SOCKET": str(socket_path), "LLMOS_MODELS_DIR": str(tmp_path / "empty")}
    with serving(socket_path, methods(ask=answers())) as peers:
        done = llmos("list the files", env=env)
    assert done.returncode == 5 and "llmos model pull default" in done.stderr
    assert not peers[0].received
