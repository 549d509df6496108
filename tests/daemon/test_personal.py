"""What a person approved changes what is proposed for the same words, for them alone, until forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos import paths
from llmos.daemon.personal import Personal
from llmos.errors import UsageError
from llmos.messages import ToolCall

from .support import Client, Daemon

Start = Callable[..., Daemon]
ASKS_BACK = {"calls": [{"tool": "ask", "args": {"question": "Which backup?"}}]}
BACKUP = {"path": "docs", "to": "docs-copy"}
SCRIPT: dict[str, Any] = {
    "*": ASKS_BACK,
    "copy it": {"calls": [{"tool": "file.copy", "args": {"path": "docs", "to": "elsewhere"}}]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work/docs").mkdir(parents=True)
    (tmp_path / "work/docs/a.txt").write_text("a")
    return tmp_path / "work"


def ask(client: Client, text: str, folder: Path, **more: Any) -> dict[str, Any]:
    return client.result("ask", text=text, cwd=str(folder), **more)


def approve(client: Client, text: str, folder: Path, **answer: Any) -> dict[str, Any]:
    number = client.send("ask", text=text, cwd=str(folder), consent="interactive")
    request_id = client.until("approval")["id"]
    client.reply(client.send("approve", id=request_id, **answer))
    if answer["decision"] == "edit":
        client.until("approval")
        client.reply(client.send("approve", id=request_id, decision="yes"))
    return client.reply(number)["result"]


@pytest.mark.sandbox
def test_an_edited_call_is_proposed_next_time_and_forgetting_restores(
    start_daemon: Start, folder: Path
) -> None:
    client = start_daemon(SCRIPT).connect()
    client.result("personal.switch", on=True)
    edited = {"tool": "file.copy", "args": BACKUP}
    assert approve(client, "copy it", folder, decision="edit", call=edited)["status"] == "done"
    (pair,) = client.result("personal.list")["pairs"]
    assert (pair["say"], pair["how"], pair["calls"]) == ("copy it", "edited", [edited])

    assert ask(client, "Copy it please", folder, mode="plan")["calls"][0]["args"] == BACKUP
    assert ask(client, "how warm is it in Oslo", folder)["status"] == "needs_input"  # not like it
    client.result("personal.switch", on=False)
    assert ask(client, "Copy it please", folder)["status"] == "needs_input"
    client.result("personal.switch", on=True)
    assert client.result("personal.forget", id=pair["id"]) == {"forgotten": 1}
    assert ask(client, "Copy it please", folder)["status"] == "needs_input"


@pytest.mark.sandbox
def test_what_is_undone_or_refused_is_no_example(start_daemon: Start, folder: Path) -> None:
    client = start_daemon(SCRIPT).connect()
    assert ask(client, "copy it", folder, consent="yes")["status"] == "done"
    assert client.result("personal.list") == {"on": False, "pairs": []}  # it is off until it is switched on
    client.result("undo", consent="yes")
    client.result("personal.switch", on=True)
    assert approve(client, "copy it", folder, decision="yes")["status"] == "done"
    assert ask(client, "Copy it!", folder, mode="plan")["calls"][0]["tool"] == "file.copy"
    client.result("undo", consent="yes")
    assert client.result("personal.list")["pairs"][0]["undone"] is True
    assert ask(client, "Copy it!", folder)["status"] == "needs_input"
    approve(client, "copy it", folder, decision="no")
    assert client.result("personal.list")["pairs"] == []


def test_a_taught_phrase_is_checked_private_and_survives_a_restart(start_daemon: Start, folder: Path) -> None:
    daemon = start_daemon(SCRIPT)
    client = daemon.connect()
    taught = {"text": "the usual backup", "tool": "file.copy", "args": BACKUP}
    assert "off" in client.error("personal.add", **taught)["message"]
    client.result("personal.switch", on=True)
    assert "file.copy" in client.error("personal.add", **{**taught, "args": {"nonsense": 1}})["message"]
    client.result("personal.add", **taught)
    secret = {
        "text": "log in",
        "tool": "shell.run",
        "args": {"command": "curl -u bob:hunter2secret https://x.org"},
    }
    assert "secret" in client.error("personal.add", **secret)["message"]
    (file,) = (paths.state_dir() / "personal").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    daemon.stop()
    client = start_daemon(SCRIPT).connect()
    result = ask(client, "do the usual backup", folder, mode="plan")
    assert result["calls"][0]["args"] == BACKUP and result["status"] == "needs_approval"  # judged as ever


def test_everybody_has_their_own(isolated_home: Path) -> None:
    personal, call = Personal(), ToolCall(tool="file.list", args={})
    personal.switch(1000, on=True)
    personal.switch(1001, on=True)
    personal.add(1000, "the usual look", [call], "taught")
    assert personal.near(1000, "the usual look") and not personal.near(1001, "the usual look")
    assert Personal().near(1000, "The usual look.")[0].calls == (call,)
    with pytest.raises(UsageError, match="nothing with the id"):
        personal.forget(1001, personal.of(1000).pairs[0].id)
    assert personal.forget(1000) == 1 and not personal.near(1000, "the usual look")
