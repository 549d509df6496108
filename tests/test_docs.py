"""The documentation does what it says: its commands are commands, its links lead somewhere, and a newcomer's
way through README works, from the first question to undo.

The planner is the scripted one; what sentences mean to the model is measured by tests/bench/understand.py.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmos import cli_args
from tests.daemon import support

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MAX_WAY_S = 60.0  # of the newcomer, on a machine that is busy


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `llmos` of every line in a block of commands."""
    for block in _FENCED.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            found = re.match(r"(?:\$ )?(?:[^'\"#]*\| )?(?:printf '[^']*' \| )?llmos\b(.*)$", line)
            if found:
                words = shlex.split(found[1], comments=True)
                yield words[: next((at for at, word in enumerate(words) if word in ("|", ">", "&&")), None)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    for words in commands(page):
        if words:  # without any it is the shell
            cli_args.parse(words)  # raises UsageError


def test_commands_are_found_at_all() -> None:
    assert len(list(commands(ROOT / "README.md"))) > 12 and ["advise"] in commands(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


# --- a newcomer ------------------------------------------------------------------------------------

SCRIPT = {
    "what are the three largest files in this folder?": {
        "calls": [{"tool": "file.find", "args": {"sort": "size", "limit": 3}}]
    },
    "rename util.py to tools.py": {
        "calls": [{"tool": "file.move", "args": {"path": "util.py", "to": "tools.py"}}]
    },
    "how many lines is this": {"calls": [{"tool": "text.count", "args": {"what": "lines"}}]},
    "count the python files under src": {"command": "find src -name '*.py' | wc -l"},
    "*": {"calls": []},
}


@pytest.fixture(scope="module")
def newcomer(make_home: Callable[[], dict[str, str]]) -> Iterator[dict[str, str]]:
    env = make_home()
    folder = Path(env["XDG_RUNTIME_DIR"])
    (folder / "models").mkdir()
    (folder / "models/stand-in.gguf").touch()
    daemon = support.start(folder, SCRIPT, env=env)
    yield env | {"LLMOS_SOCKET": str(daemon.path), "LLMOS_MODELS_DIR": str(folder / "models")}
    daemon.stop()


@pytest.mark.sandbox
def test_a_newcomer_goes_from_the_first_question_to_undo(newcomer: dict[str, str], tmp_path: Path) -> None:
    """The lines of README's first block, as they stand there; --yes where a terminal would be asked."""
    for name, size in (("util.py", 10), ("big.bin", 5000), ("mid.bin", 500), ("small.bin", 50)):
        (tmp_path / name).write_bytes(b"x" * size)
    begun = time.monotonic()

    def say(*words: str, data: str | None = None, code: int = 0) -> str:
        given = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
        argv = [sys.executable, "-m", "llmos", *words]
        done = subprocess.run(argv, cwd=tmp_path, env=newcomer, capture_output=True, text=True, **given)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    lines = list(commands(ROOT / "README.md"))
    question, rename, undo, count, translate = lines[:5]
    assert "big.bin" in say(*question)
    assert "tools.py" in say("--plan", *rename, code=4) and not (tmp_path / "tools.py").exists()
    assert "llmos undo" in say(*rename, "--yes") and (tmp_path / "tools.py").exists()
    say(*undo, "--yes")
    assert (tmp_path / "util.py").exists() and not (tmp_path / "tools.py").exists()
    assert say(*count, data="one\ntwo\n").strip().startswith("2")
    assert "find src" in say(*translate)
    assert "-- util.py tools.py" in say("history")
    took_s = time.monotonic() - begun
    assert took_s < MAX_WAY_S, f"the way from README to undo took {took_s:.1f} s"
