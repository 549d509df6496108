"""Whole screens beside the ones that were looked at: wide, narrow, without colours, in Chinese.

python -m tests.console.test_screens      writes screens/*.txt anew, to be looked at before they are kept
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmos import __version__
from tests.console.server import JsonObject, Peer, methods, result, serving
from tests.console.tmux import Terminal

SCREENS = Path(__file__).with_name("screens")
CHANGES = [
    {"path": "/work/日志/昨天.log", "how": "delete", "before_bytes": 2048},
    {"path": "/work/notes.txt", "how": "replace", "diff": "--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new 新\n"},
]
CALL = {"tool": "shell.run", "args": {"command": "rm 日志/昨天.log; sed -i s/old/new/ notes.txt"}}
QUESTION = {
    "index": 0, "tool": "shell.run", "command": CALL["args"]["command"], "call": CALL, "verdict": "ask",
    "rule": "delete", "reason": "It deletes or moves a file (/work/日志/昨天.log).",
    "effects": {"deletes": ["/work/日志/昨天.log"], "writes": ["/work/notes.txt"]},
}  # fmt: skip
TOOLS = [
    {"name": "file.list", "summary": "list what is in a folder", "parameters": {"properties": {}}},
    {"name": "system.memory", "summary": "how much memory there is and how much of it is free"},
]
STATUS = {"pid": 1, "policy": "default", "planner": {"model": "tiny", "state": "ready"}}
# Name to columns and what the environment says.
CASES = {
    "wide": (110, {}),
    "narrow": (44, {}),
    "plain": (110, {"NO_COLOR": "1"}),
    "chinese": (60, {"LC_ALL": "zh_CN.UTF-8"}),
}


def ask(peer: Peer, frame: JsonObject) -> None:
    peer.event(frame["params"]["id"], "approval", **QUESTION)
    answer = peer.receive()
    assert answer is not None
    peer.reply(answer, {"ok": True})
    said = "Kept as it was. 一切照旧，没有改动任何文件，也没有执行任何命令。"
    peer.reply(frame, result(frame, calls=[], answer=said))


@contextmanager
def shell(folder: Path, columns: int, extra: dict[str, str]) -> Iterator[Terminal]:
    (folder / "work").mkdir()
    for name in ("notes.txt", "model.gguf"):
        (folder / "work" / name).touch()
    env = {"HOME": str(folder / "work"), "LC_ALL": "C.UTF-8", "LLMOS_SOCKET": str(folder / "s")}
    env |= {"LLMOS_MODELS_DIR": str(folder / "work"), "PATH": os.environ["PATH"], **extra}
    answers = methods(
        ask=ask,
        tools=lambda peer, frame: peer.reply(frame, {"tools": TOOLS}),
        status=lambda peer, frame: peer.reply(frame, STATUS),
    )
    # As wide from the start: a terminal that is resized shows what was drawn before in its own way.
    argv = (sys.executable, "-m", "llmos")
    with (
        serving(folder / "s", answers),
        Terminal(folder, argv, env, folder / "work", columns=columns) as found,
    ):
        yield found


def walk(terminal: Terminal) -> tuple[str, str]:
    """Through the shell: (text, with styles)."""
    terminal.wait("tiny")
    terminal.type("tidy up 整理一下")
    terminal.wait("[?]")
    terminal.keys("x")
    terminal.wait("shell.run {")
    terminal.wait_still()  # what is pressed before the question stands there again is thrown away
    terminal.keys("n")
    terminal.wait("一切照旧")
    terminal.type("/tools")
    terminal.wait("how much memory")
    terminal.type("/nonsense")
    terminal.wait("/help ")
    terminal.wait_still()
    return terminal.screen(joined=False), terminal.screen(styled=True)


def kept(screen: str) -> str:
    """As it is kept: without blanks at the ends of lines, and for every version of the same length."""
    lines = [line.rstrip() for line in screen.replace(__version__, "V.V.V").splitlines()]
    return "\n".join(lines).strip() + "\n"


@pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux. Run: apt install tmux")
@pytest.mark.parametrize("name", CASES)
def test_the_screen_is_the_one_that_was_looked_at(short_dir: Path, name: str) -> None:
    with shell(short_dir, *CASES[name]) as terminal:
        shown, styled = walk(terminal)
    assert kept(shown) == (SCREENS / f"{name}.txt").read_text(encoding="utf-8")
    coloured = any(f"\x1b[{number}m" in styled for number in range(30, 38))
    assert coloured is (name != "plain")


def main() -> None:
    SCREENS.mkdir(exist_ok=True)
    for name, case in CASES.items():
        with (
            tempfile.TemporaryDirectory(prefix="llmos-", dir="/tmp") as folder,
            shell(Path(folder), *case) as one,
        ):
            (SCREENS / f"{name}.txt").write_text(kept(walk(one)[0]), encoding="utf-8")


if __name__ == "__main__":
    main()
