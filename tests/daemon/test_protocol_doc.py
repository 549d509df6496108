"""docs/protocol.md is run, not only read: its Python client, its socat line, its conversation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from llmos.messages import CallResult, Event, Result, Timing

from .support import Daemon

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text(encoding="utf-8")
SCRIPT = {
    "make a note": {"calls": [{"tool": "shell.run", "args": {"command": "echo hello > note.txt"}}]},
    "capital of France?": {"calls": [{"tool": "answer", "args": {"text": "Paris."}}]},
}


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"no {language} block in docs/protocol.md"
    return found[1]


@pytest.fixture
def python_client(tmp_path: Path) -> Path:
    program = tmp_path / "client.py"
    program.write_text(block("python"), encoding="utf-8")
    return program


def run(
    program: Path, daemon: Daemon, text: str, cwd: Path, answer: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), text],
        input=answer,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "LLMOS_SOCKET": str(daemon.path)},
        timeout=60,
    )


def test_the_client_is_as_short_as_the_page_says() -> None:
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 30


def test_the_python_client_gets_an_answer(
    start_daemon: Callable[..., Daemon], python_client: Path, tmp_path: Path
) -> None:
    done = run(python_client, start_daemon(SCRIPT), "capital of France?", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "Paris."


@pytest.mark.sandbox
def test_the_python_client_asks_and_takes_yes_or_no(
    start_daemon: Callable[..., Daemon], python_client: Path, tmp_path: Path
) -> None:
    daemon = start_daemon(SCRIPT)
    declined = run(python_client, daemon, "make a note", tmp_path, "n\n")
    assert "note.txt" in declined.stderr
    assert not (tmp_path / "note.txt").exists()
    approved = run(python_client, daemon, "make a note", tmp_path, "y\n")
    assert '"status": "done"' in approved.stdout, approved.stderr
    assert (tmp_path / "note.txt").read_text() == "hello\n"


@pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed. Run: apt install socat")
def test_the_socat_line_gets_an_answer(daemon: Daemon) -> None:
    done = subprocess.run(
        ["sh", "-c", block("sh")],
        capture_output=True,
        text=True,
        env={**os.environ, "LLMOS_SOCKET": str(daemon.path)},
        timeout=60,
    )
    hello, *_, reply = [json.loads(line) for line in done.stdout.splitlines()]
    assert hello["method"] == "hello"
    assert reply["result"]["status"] == "done"


def shape(value: Any) -> Any:
    """What of a frame must be as on the page: its members, and every word but times and pids."""
    if isinstance(value, dict):
        return {key: shape(found) for key, found in value.items() if key != "timing"}
    if isinstance(value, list):
        return [shape(found) for found in value]
    return value if isinstance(value, str) else type(value)


@pytest.mark.sandbox
def test_the_conversation_goes_as_it_stands_there(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    folded = block("text").replace("/home/ann/notes", str(tmp_path)).replace("\n    ", " ")
    with start_daemon(SCRIPT).connect() as client:
        seen = [client.hello]
        for line in folded.splitlines()[1:]:
            if line.startswith("> "):
                client.raw(line[2:].encode() + b"\n")
            else:
                seen.append(client.receive())
    written = [json.loads(line[2:]) for line in folded.splitlines() if line.startswith("< ")]
    assert len(seen) == len(written) > 10
    assert shape(seen) == shape(written)


def test_every_method_event_and_field_is_on_the_page(daemon: Daemon) -> None:
    with daemon.connect() as client:
        known = client.error("which are there?")["data"]["next_step"]
    methods = known.removeprefix("Known methods: ").rstrip(".").split(", ")
    assert len(methods) >= 12
    names = [f"`{method}`" for method in methods]
    names += [f"`{kind}`" for kind in get_args(Event.model_fields["kind"].annotation)]
    for model in (Result, CallResult, Timing):
        names += model.model_fields
    missing = [name for name in names if name not in PAGE]
    assert not missing
