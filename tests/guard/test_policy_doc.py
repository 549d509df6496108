"""docs/policy.md: every rule in it loads with its examples, every fact is one, every command runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llmos import paths
from llmos.guard import rulefile
from llmos.guard.facts import SCHEMA
from llmos.guard.policy import Policy
from llmos.guard.rulefile import Tier
from tests.daemon import support

TEXT = (paths.PACKAGE_DIR.parent / "docs/policy.md").read_text(encoding="utf-8")
TOML = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.split("#")[0].strip()[2:] for line in TEXT.splitlines() if line.startswith("    $ llmos")]
# Exit codes where it is not 0: denied, nothing of that id, and a planner that understands nothing.
CODES = {"policy check --call": 4, "policy explain": 3, "policy forget": 2, "--policy": 6}


def test_the_rules_load_and_their_examples_hold() -> None:
    sheet = rulefile.shipped("default", paths.builtin_policy_dir())
    for number, block in enumerate(TOML):
        sheet += rulefile.of_text(block, f"block {number}", Tier.SYSTEM)
    policy = Policy.of(sheet)
    assert len([rule for rule in policy.rules if rule.tier is Tier.SYSTEM]) >= 6
    assert policy.sheet.hide and policy.sheet.write and policy.sheet.network


def test_the_tables_name_every_fact_and_no_other() -> None:
    known = set(re.findall(r"(\w+): (?:Bool|String|Long|Set)", SCHEMA))
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == known


def test_the_commands_run_as_they_stand_there(
    isolated_home: Path, short_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stricter.toml").write_text(next(block for block in TOML if "few-deletions" in block))
    (tmp_path / "build").mkdir()
    daemon = support.start(short_dir)
    monkeypatch.setenv("LLMOS_SOCKET", str(daemon.path))
    try:
        assert len(COMMANDS) >= 10
        for command in COMMANDS:
            argv = [sys.executable, "-m", "llmos", *shlex.split(command)[1:]]
            done = subprocess.run(
                argv, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=120,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            expected = next((code for start, code in CODES.items() if f"llmos {start}" in command), 0)
            assert done.returncode == expected, (command, done.stdout, done.stderr)
    finally:
        daemon.stop()
