"""The policy as clients meet it: asked, explained, reloaded, brought along, and answered too late."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos import paths

from . import support

Start = Callable[..., support.Daemon]

RULE = """
[[rule]]
id = "no-{word}"
decision = "deny"
why = "not in this house"
when = 'action == Action::"execute" && context.program like "*/{word}"'
match = ["{word} x"]
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "notes.txt").write_text("a\n")
    return folder


def wait_until(check: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_a_broken_policy_leaves_the_last_good_and_is_told_loudly(
    start_daemon: Start, isolated_home: Path, work: Path
) -> None:
    file = isolated_home / ".config/llmos/policies/mine.toml"
    file.parent.mkdir(parents=True)
    file.write_text(RULE.format(word="cat"))
    daemon = start_daemon()
    with daemon.connect() as client:

        def rule(command: str) -> str:
            return str(client.result("policy.check", command=command, cwd=str(work))["rule"])

        assert rule("cat notes.txt") == "no-cat"
        time.sleep(0.3)  # watching begins after the first load
        file.write_text(RULE.format(word="cat").replace("decision", "decisoin"))
        wait_until(lambda: client.result("status")["error"] is not None)
        told = client.result("policy.check", command="cat notes.txt", cwd=str(work))
        assert told["rule"] == "no-cat" and "mine.toml" in told["notice"]
        assert "mine.toml" in daemon.log_text()
        events: list[dict[str, Any]] = []
        number = client.send("call", tool="shell.run", args={"command": "cat notes.txt"}, cwd=str(work))
        assert client.reply(number, events)["result"]["status"] == "denied"
        (notice,) = [event["data"]["text"] for event in events if event["kind"] == "notice"]
        assert "last good" in notice and "mine.toml" in notice
        file.write_text(RULE.format(word="head"))
        wait_until(lambda: rule("head notes.txt") == "no-head")
        assert rule("cat notes.txt") == "look"
        assert client.result("status")["error"] is None
        assert "notice" not in client.result("policy.check", command="ls", cwd=str(work))


def test_damaged_rules_of_the_installation_end_the_serving(
    short_dir: Path, isolated_home: Path, work: Path
) -> None:
    """The examples of the shipped rules are tried once requests are served, so that a start is quick."""
    for name in ("tools", "policies"):
        shutil.copytree(paths.builtin_policy_dir().parent / name, short_dir / name)
    skip = shutil.ignore_patterns("__pycache__", "tune", "engine", "*.po")
    shutil.copytree(paths.PACKAGE_DIR, short_dir / "llmos", ignore=skip)
    rules = short_dir / "policies/default.toml"
    rules.write_text(rules.read_text().replace('not_match = ["touch x", ', 'not_match = ["ls", '))
    daemon = support.start(short_dir, env={**os.environ, "PYTHONPATH": str(short_dir)})
    try:
        with daemon.connect() as client:
            assert client.result("tools")
            wait_until(lambda: client.result("status")["state"] == "broken")
            told = client.error("policy.check", command="ls", cwd=str(work))["message"]
            assert "'ls' is matched by the rule look" in told and "default.toml" in told
    finally:
        daemon.stop()


def test_a_verdict_is_explained(daemon: support.Daemon, work: Path) -> None:
    with daemon.connect() as client:
        found = client.result("policy.explain", command="cat /etc/shadow", cwd=str(work))
        assert (found["verdict"], found["rule"]) == ("deny", "machine.secrets")
        (read,) = [asked for asked in found["questions"] if asked["action"] == "read"]
        assert read["decides"]
        matched = {rule["rule"]: rule for rule in read["matched"]}
        assert matched["machine.secrets"]["tier"] == "builtin"
        assert matched["machine.secrets"]["facts"] == {"secret": True}
        brief = client.result("policy.check", command=["cat", "/etc/shadow"], cwd=str(work))
        assert brief == {key: found[key] for key in ("verdict", "rule", "reason", "effects")}


def test_a_call_is_checked_like_a_command(daemon: support.Daemon, work: Path) -> None:
    with daemon.connect() as client:
        found = client.result("policy.check", tool="file.list", args={"path": "."}, cwd=str(work))
        assert found["verdict"] == "allow"
        assert "exactly" not in client.error("policy.check", tool="no.such", cwd=str(work))["message"]
        assert "either" in client.error("policy.check", cwd=str(work))["message"]
        assert "either" in client.error("policy.check", tool="x", command="ls", cwd=str(work))["message"]


@pytest.mark.parametrize("command", ["", "\0", "ls\rrm x", "\u202els", "a" * 200_000, "ls \ufffe", "$("])
def test_any_text_has_a_verdict(daemon: support.Daemon, work: Path, command: str) -> None:
    with daemon.connect() as client:
        found = client.result("policy.check", command=command, cwd=str(work))
        assert found["verdict"] in ("ask", "deny")


def test_unattended_and_a_requests_own_rules_count(daemon: support.Daemon, work: Path) -> None:
    with daemon.connect() as client:
        ask = {"command": "touch x", "cwd": str(work)}
        assert client.result("policy.check", **ask)["verdict"] == "ask"
        assert client.result("policy.check", **ask, policy="readonly")["verdict"] == "deny"
        assert client.result("policy.check", **ask, policy=RULE.format(word="touch"))["rule"] == "no-touch"
        wrong = client.error("policy.check", **ask, policy=RULE.format(word="x").replace("deny", "allow"))
        assert "stricter" in wrong["message"]
        call = {"tool": "shell.run", "args": {"command": "touch x"}, "cwd": str(work), "consent": "yes"}
        assert client.result("call", **call, policy="readonly")["status"] == "denied"
        assert not (work / "x").exists()


def test_rules_are_listed(daemon: support.Daemon) -> None:
    with daemon.connect() as client:
        rules = client.result("policy.list")["rules"]
        assert {rule["tier"] for rule in rules} == {"builtin"}
        assert "machine.secrets" in {rule["rule"] for rule in rules}


def test_a_question_that_nobody_answers_ends(start_daemon: Start, work: Path) -> None:
    with start_daemon(server={"approval_timeout_s": 0.3}).connect() as client:
        call = {"tool": "shell.run", "args": {"command": "rm notes.txt"}, "cwd": str(work)}
        found = client.result("call", **call, consent="interactive")
        assert found["status"] == "needs_approval"
        assert "Nobody answered" in found["answer"]
        assert (work / "notes.txt").exists()
