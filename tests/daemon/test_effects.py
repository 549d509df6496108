"""Changes through a real daemon: seen first, real on yes only, taken back, never over others' work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .support import Client, Daemon

pytestmark = pytest.mark.sandbox
Start = Callable[..., Daemon]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    (place / "notes.txt").write_text("one\ntwo\n")
    (place / "old").mkdir()
    (place / "old" / "x").write_text("x")
    return place


@pytest.fixture
def client(start_daemon: Start) -> Client:
    return start_daemon().connect()


def begin(client: Client, folder: Path, command: str, **more: Any) -> int:
    params = {"consent": "interactive", "id": "mine", **more}
    return client.send("call", tool="shell.run", args={"command": command}, cwd=str(folder), **params)


def shell(client: Client, folder: Path, command: str, **more: Any) -> dict[str, Any]:
    params = {"consent": "yes", **more}
    return client.result("call", tool="shell.run", args={"command": command}, cwd=str(folder), **params)


def stages(isolated_home: Path) -> list[Path]:
    return list((isolated_home / ".local/state/llmos/stages").iterdir())


CHANGE = "echo three >> notes.txt; rm -r old; echo new > made.txt; chmod 600 made.txt; echo said"


def test_the_question_shows_exactly_what_would_change_and_no_leaves_no_trace(
    client: Client, folder: Path, isolated_home: Path
) -> None:
    number = begin(client, folder, CHANGE)
    client.until("rehearsing")
    data = client.until("approval")["data"]
    told = {item["path"].removeprefix(f"{folder}/"): item for item in data["changes"]["items"]}
    assert {name: item["change"] for name, item in told.items()} == {
        "made.txt": "created", "notes.txt": "modified", "old": "deleted",
    }  # fmt: skip
    assert told["notes.txt"]["diff"] == "@@ -1,2 +1,3 @@\n one\n two\n+three"
    assert (told["old"]["kind"], told["old"]["entries"]) == ("folder", 1)
    assert data["rehearsal"] == {"exit_code": 0, "stdout": "said\n", "stderr": ""}
    assert sorted(os.listdir(folder)) == ["notes.txt", "old"]
    client.send("approve", id="mine", decision="no")
    assert client.reply(number)["result"]["status"] == "needs_approval"
    assert (folder / "notes.txt").read_text() == "one\ntwo\n" and (folder / "old/x").exists()
    assert not stages(isolated_home)


def test_yes_makes_real_what_was_shown_without_running_it_again(client: Client, folder: Path) -> None:
    number = begin(client, folder, "date +%N > stamp; cat stamp")
    shown = client.until("approval")["data"]["rehearsal"]["stdout"]
    client.send("approve", id="mine", decision="yes")
    result = client.reply(number)["result"]
    (call,) = result["calls"]
    assert (result["status"], call["stdout"], call["undo_id"]) == ("done", shown, "mine")
    assert (folder / "stamp").read_text() == shown
    assert call["effects"]["changes"]["created"] == 1


def test_a_change_is_taken_back_and_had_again_and_history_tells(client: Client, folder: Path) -> None:
    assert shell(client, folder, CHANGE, id="mine")["status"] == "done"
    assert not (folder / "old").exists()
    refused = client.result("undo")
    assert refused["status"] == "needs_approval" and (folder / "made.txt").exists()
    planned = client.result("undo", mode="plan", consent="yes")
    assert planned["calls"][0]["effects"]["changes"]["created"] == 2 and (folder / "made.txt").exists()
    undone = client.result("undo", consent="yes")
    assert undone["status"] == "done" and "llmos undo mine" in undone["answer"]
    assert (folder / "notes.txt").read_text() == "one\ntwo\n" and (folder / "old/x").read_text() == "x"
    assert not (folder / "made.txt").exists()
    entries = {entry["id"]: entry for entry in client.result("history")["entries"]}
    assert (entries["mine"]["undo_id"], entries["mine"]["undo"]) == ("mine", "undone")
    assert client.error("undo")["data"]["kind"] == "UsageError"  # nothing else is left to take back
    assert client.result("undo", undo_id="mine", consent="yes")["status"] == "done"
    assert (folder / "made.txt").stat().st_mode & 0o777 == 0o600 and not (folder / "old").exists()


def test_undo_asks_and_refuses_what_somebody_has_changed_since(client: Client, folder: Path) -> None:
    shell(client, folder, "echo three >> notes.txt", id="mine")
    number = client.send("undo", id="back", consent="interactive")
    data = client.until("approval")["data"]
    assert data["changes"]["items"][0]["diff"].endswith("-three")
    client.send("approve", id="back", decision="no")
    assert client.reply(number)["result"]["status"] == "needs_approval"
    (folder / "notes.txt").write_text("mine now\n")
    result = client.result("undo", consent="yes")
    assert result["status"] == "failed" and str(folder / "notes.txt") in result["answer"]
    assert (folder / "notes.txt").read_text() == "mine now\n"


def test_a_change_by_somebody_else_meanwhile_is_kept_and_asked_about_anew(
    client: Client, folder: Path
) -> None:
    number = begin(client, folder, "sed -i s/one/eins/ notes.txt")
    client.until("approval")
    (folder / "notes.txt").write_text("one\ntheirs\n")
    client.send("approve", id="mine", decision="yes")
    data = client.until("approval")["data"]
    assert "theirs" in data["changes"]["items"][0]["diff"]
    client.send("approve", id="mine", decision="yes")
    assert client.reply(number)["result"]["status"] == "done"
    assert (folder / "notes.txt").read_text() == "eins\ntheirs\n"


def test_what_a_command_really_changed_is_judged_too(client: Client, folder: Path) -> None:
    """Nothing in the text says .env; what it did says it."""
    hidden = "python3 -c \"open(chr(46)+'env','w').write('x')\""
    result = shell(client, folder, hidden)
    assert (result["status"], result["calls"][0]["verdict"]) == ("denied", "deny"), result
    assert not (folder / ".env").exists()


def test_a_rehearsal_has_no_network_and_its_time_is_bounded(client: Client, folder: Path) -> None:
    probe = "python3 -c 'import socket; socket.socket()' || echo none; echo x > made"
    number = begin(client, folder, probe)
    assert client.until("approval")["data"]["rehearsal"]["stdout"] == "none\n"
    client.send("cancel", id="mine")
    assert client.reply(number)["error"]["data"]["kind"] == "Cancelled"
    number = begin(client, folder, "echo x > made; sleep 60")
    client.until("rehearsing")
    client.send("cancel", id="mine")
    assert "error" in client.reply(number)
    assert not (folder / "made").exists()


def test_what_fails_and_changes_nothing_is_not_asked_about(client: Client, folder: Path) -> None:
    result = client.reply(begin(client, folder, "rm nothing-here"))["result"]
    assert result["status"] == "failed" and "nothing-here" in result["calls"][0]["stderr"]


def test_what_cannot_be_tried_says_so_in_the_question(client: Client, folder: Path) -> None:
    number = begin(client, folder, "curl -o page http://127.0.0.1:9/")
    data = client.until("approval")["data"]
    assert "other machines" in data["no_preview"] and "changes" not in data
    client.send("approve", id="mine", decision="no")
    assert client.reply(number)["result"]["status"] == "needs_approval"


def test_a_plan_shows_the_changes_and_makes_none(client: Client, folder: Path, isolated_home: Path) -> None:
    result = shell(client, folder, CHANGE, consent="none", mode="plan")
    assert (result["status"], result["calls"][0]["exit_code"]) == ("needs_approval", None)
    assert result["calls"][0]["effects"]["changes"]["deleted"] == 2
    assert sorted(os.listdir(folder)) == ["notes.txt", "old"]
    assert not stages(isolated_home)


def test_later_calls_see_what_earlier_ones_changed_and_one_undo_takes_all_back(
    start_daemon: Start, folder: Path
) -> None:
    calls = [
        {"tool": "shell.run", "args": {"command": command}}
        for command in ("echo a > first", "cat first > second", "ls; rm first")
    ]
    with start_daemon({"three": {"calls": calls}}).connect() as client:
        result = client.result("ask", text="three", cwd=str(folder), consent="yes", id="mine")
        assert result["status"] == "done", json.dumps(result)
        assert (folder / "second").read_text() == "a\n" and not (folder / "first").exists()
        undone = client.result("undo", undo_id="mine", consent="yes")
        assert undone["status"] == "done" and len(undone["calls"]) == 3
        assert sorted(os.listdir(folder)) == ["notes.txt", "old"]


def test_what_a_killed_daemon_left_is_finished_at_the_next_start(start_daemon: Start, folder: Path) -> None:
    daemon = start_daemon()
    with daemon.connect() as client:
        begin(client, folder, CHANGE)
        client.until("approval")
        daemon.process.kill()
        daemon.process.wait()
    assert sorted(os.listdir(folder)) == ["notes.txt", "old"]
    with start_daemon().connect() as client:
        client.result("tools")
        (told,) = client.result("history")["entries"]
        assert (told["id"], told["status"]) == ("mine", "interrupted"), told
        assert shell(client, folder, "echo x > again")["status"] == "done"
