"""How soon the client is there: its prompt before its line editor, nothing that is typed lost."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.bench import client
from tests.console.server import JsonObject, Peer, methods, result, serving
from tests.console.tmux import Terminal

# With nothing else at work it is 4 for any of them; the rest is for machines that are busy. There the client
# goes on from its prompt to its editor before whoever looks for the prompt has a turn, which counts as well.
MOST_TIMES_BARE = {"llmos --version": 8.0, "llmos call, answered at once": 8.0, "llmos, to the prompt": 14.0}


def test_the_client_starts_within_a_few_bare_starts_of_python(short_dir: Path) -> None:
    """In processor time, the least of several runs: what else the machine does is not ours."""
    least: dict[str, float] = {}
    for number in range(3):
        folder = short_dir / str(number)
        folder.mkdir()
        runs = client.measure(folder, runs=5)
        took = {name: min(each.cpu_ms for each in found) for name, found in runs.items()}
        bare = took.pop("python -c pass")
        least = {name: min(ms / bare, least.get(name, ms / bare)) for name, ms in took.items()}
        if all(least[name] <= most for name, most in MOST_TIMES_BARE.items()):
            return
    raise AssertionError(f"times a bare start: {least}")


def test_the_prompt_stands_there_before_the_editor_is_imported() -> None:
    code = (
        "import sys, llmos.cli, llmos.cli_shell; print(*(sys.modules.keys() & {'prompt_toolkit', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("", 0)


def test_what_is_typed_at_once_is_kept_while_the_daemon_loads(short_dir: Path) -> None:
    def slowly(peer: Peer, frame: JsonObject) -> None:
        time.sleep(15)
        peer.reply(frame, {"tools": []})

    def echo(peer: Peer, frame: JsonObject) -> None:
        peer.reply(frame, result(frame, calls=[], answer=f"<{frame['params']['args']['command']}>"))

    status = {"policy": "default", "planner": {"model": "tiny"}}
    answers = methods(tools=slowly, call=echo, status=lambda peer, frame: peer.reply(frame, status))
    env = {"HOME": str(short_dir), "LC_ALL": "C.UTF-8", "LLMOS_SOCKET": str(short_dir / "s")}
    argv = (sys.executable, "-m", "llmos")
    with serving(short_dir / "s", answers), Terminal(short_dir, argv, env, Path.cwd()) as terminal:
        terminal.wait("»")
        terminal.type("!echo typed early")
        shown = terminal.wait("<echo typed early>", timeout_s=12)
        assert shown.count("!echo typed early") == 1
        terminal.wait("model tiny")
        terminal.keys("C-d")
        terminal.wait("exit:0")
