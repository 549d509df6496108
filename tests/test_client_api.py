"""The public Python client, blocking and asyncio, with a real daemon behind it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest

from llmos.client import AsyncClient, Client, Event, Question
from llmos.config import Settings
from llmos.daemon import schema
from llmos.daemon.broker import Broker
from llmos.daemon.methods import Methods
from llmos.errors import DaemonUnreachable, Denied, NeedsApproval, NotUnderstood, UsageError
from tests.daemon import support

SCRIPT = {
    "greet": {"calls": [{"tool": "answer", "args": {"text": "Good day."}}], "text": "Good day."},
    "count": {"command": "ls | wc -l"},
    "think long": {"calls": [], "delay_s": 600},
    "*": {"calls": []},
}


@pytest.fixture(scope="module")
def daemon(make_home: Callable[[], dict[str, str]]) -> Iterator[support.Daemon]:
    env = make_home()
    started = support.start(Path(env["XDG_RUNTIME_DIR"]), SCRIPT, env=env)
    yield started
    started.stop()


@pytest.fixture
def client(daemon: support.Daemon) -> Iterator[Client]:
    with Client(daemon.path, timeout_s=60) as opened:
        yield opened


def test_several_calls_are_one_request_that_one_undo_takes_back(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("kept")
    later = [("file.move", {"path": "a", "to": "old/a"}), ("shell.run", {"command": "false"}),
             ("file.delete", {"path": "old"})]  # fmt: skip
    result = client.call("file.mkdir", {"path": "old"}, cwd=tmp_path, yes=True, then=later)
    assert result.status == "failed" and [call.exit_code for call in result.calls] == [0, 0, 1, None]
    assert (
        "Done: 1 (" in result.text and "Not done: 4 (" in result.text and f"undo {result.id}" in result.text
    )
    assert (tmp_path / "old/a").read_text() == "kept"
    assert client.undo(result.id, yes=True).ok
    assert (tmp_path / "a").read_text() == "kept" and not (tmp_path / "old").exists()


def test_words_questions_and_errors(client: Client, tmp_path: Path) -> None:
    heard: list[Event] = []
    result = client.ask("greet", cwd=tmp_path, on_event=heard.append)
    assert (
        result.ok
        and result.text == "Good day."
        and {"thinking", "finished"} <= {event.kind for event in heard}
    )
    assert client.translate("count", cwd=tmp_path).command == "ls | wc -l"
    assert client.check("rm -rf /etc", cwd=tmp_path)["verdict"] == "deny"
    assert "file.list" in {tool["name"] for tool in client.tools()} and client.status()["state"] == "ready"
    with pytest.raises(NotUnderstood):
        client.ask("sing", cwd=tmp_path).raise_for_status()
    with pytest.raises(UsageError):
        client.call("no.such.tool", cwd=tmp_path)


@pytest.mark.sandbox
def test_calls_consent_and_undo(client: Client, tmp_path: Path) -> None:
    touch = {"command": "touch made.txt"}
    assert client.call("shell.run", {"command": "wc -c"}, cwd=tmp_path, data="four").text == "4\n"
    with pytest.raises(NeedsApproval):
        client.call("shell.run", touch, cwd=tmp_path).raise_for_status()
    with pytest.raises(Denied):
        client.call("shell.run", {"command": "rm -rf /etc"}, cwd=tmp_path, yes=True).raise_for_status()
    asked: list[Question] = []
    assert (
        client.call("shell.run", touch, cwd=tmp_path, approve=lambda it: bool(asked.append(it))).status
        == "needs_approval"
    )
    assert (
        asked[0].command == "touch made.txt"
        and asked[0].changes is not None
        and asked[0].changes["created"] == 1
    )
    done = client.call("shell.run", touch, cwd=tmp_path, approve=lambda question: True)
    assert done.ok and (tmp_path / "made.txt").exists()
    assert client.undo(done.undo_id or "", yes=True).ok and not (tmp_path / "made.txt").exists()


def test_many_at_once_and_cancelling(daemon: support.Daemon, tmp_path: Path) -> None:
    async def play() -> None:
        async with AsyncClient(daemon.path) as llmos:
            verdicts = await asyncio.gather(
                *(llmos.check(f"ls {number}", cwd=tmp_path) for number in range(20))
            )
            assert all(found["verdict"] == "allow" for found in verdicts)
            long = asyncio.create_task(llmos.ask("think long", cwd=tmp_path))
            while not (await llmos.status())["requests"]:
                await asyncio.sleep(0.05)
            long.cancel()
            while (await llmos.status())["requests"]:
                await asyncio.sleep(0.05)
            assert (await llmos.ask("greet", cwd=tmp_path)).text == "Good day."

    asyncio.run(asyncio.wait_for(play(), 60))


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="no llmos daemon"):
        Client(tmp_path / "s.sock")


def test_it_is_light() -> None:
    heavy = ("pydantic", "torch", "prompt_toolkit")
    code = f"import sys, llmos.client; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- the schema ------------------------------------------------------------------------------------


def test_the_schema_knows_every_method(isolated_home: Path) -> None:
    assert set(schema.METHODS) == set(Methods(Broker(Settings())).table().methods)


def test_what_the_daemon_says_is_what_the_schema_says(client: Client, tmp_path: Path) -> None:
    document = schema.document()
    methods = {method["name"]: method for method in document["methods"]}

    def check(name: str, params: dict[str, object]) -> None:
        known = {param["name"] for param in methods[name]["params"]}
        assert set(params) <= known
        whole = {**methods[name]["result"]["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(whole).validate(client.rpc(name, params))

    here = {"cwd": str(tmp_path)}
    check("ask", {"text": "greet", **here})
    check("translate", {"text": "count", **here})
    check("tools", {})
    check("policy.check", {"command": "ls", **here})
    check("pin", {"calls": [{"tool": "shell.run", "args": {"command": "ls"}}], **here})
    check("inbox.ask", {"tool": "shell.run", "args": {"command": "touch x"}, **here})
    check("inbox.list", {})
    check("trigger.list", {})
    check("resume.list", {})
    assert document["components"]["errors"]["Denied"]["code"] == -32003
