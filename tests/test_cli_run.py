"""`llmos run` with a real daemon behind it: scripts of requests, their results, exit codes and resuming."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import support

pytestmark = pytest.mark.sandbox
Run = Callable[..., "subprocess.CompletedProcess[str]"]
SCRIPT: dict[str, Any] = {
    "list the files": {"calls": [{"tool": "file.list", "args": {"path": "."}}]},
    "*": {"calls": []},
}


@pytest.fixture(scope="module")
def env(make_home: Callable[[], dict[str, str]]) -> Iterator[dict[str, str]]:
    made = make_home()
    runtime = Path(made["XDG_RUNTIME_DIR"])
    weights = runtime / "models"
    weights.mkdir()
    (weights / "stand-in.gguf").touch()
    daemon = support.start(runtime, SCRIPT, env=made)
    yield made | {"LLMOS_SOCKET": str(daemon.path), "LLMOS_MODELS_DIR": str(weights)}
    daemon.stop()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    return tmp_path


@pytest.fixture
def llmos(env: dict[str, str], work: Path) -> Run:
    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        argv = [sys.executable, "-m", "llmos", *words]
        return subprocess.run(argv, cwd=work, env=env, capture_output=True, text=True, timeout=60, **options)

    return run


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_lines_give_one_result_each_and_stop_at_the_first_failure(llmos: Run, work: Path) -> None:
    (work / "s.txt").write_text("# all\nlist the files\n!wc -l a.txt\n!cat missing\n!echo never\n")
    done = llmos("run", "--json", "s.txt")
    assert done.returncode == 5, done.stderr
    assert [(line["step"], line["status"]) for line in lines(done)] == [
        ("line-2", "done"), ("line-3", "done"), ("line-4", "failed"),
    ]  # fmt: skip
    assert lines(done)[1]["calls"][0]["stdout"] == "2 a.txt\n"
    assert llmos("run", "-k", "s.txt").stdout.endswith("never\n")


def test_asked_denied_and_not_understood_have_their_exit_codes(llmos: Run, work: Path) -> None:
    for text, code in (("!touch new", 4), ("!rm /etc/passwd", 3), ("sing a song", 6)):
        (work / "s.txt").write_text(text)
        assert llmos("run", "s.txt").returncode == code
    (work / "s.txt").write_text("!touch new")
    assert llmos("run", "--yes", "s.txt").returncode == 0 and (work / "new").exists()


def test_conditions_groups_failures_and_data(llmos: Run, work: Path) -> None:
    (work / "s.toml").write_text("""
[inputs]
name = "a.txt"
[[step]]
id = "count"
command = "wc -l ${{ inputs.name }}"
[[step]]
id = "both"
[[step.parallel]]
id = "left"
command = "cat a.txt"
[[step.parallel]]
id = "right"
call = "file.list"
args = { path = "." }
[[step]]
id = "skipped"
when = "steps.count.stdout.startswith('9')"
command = "echo nine"
[[step]]
id = "bad"
command = "cat missing"
on_failure = "ignore"
[[step]]
id = "mend"
when = "not steps.bad.ok and steps.skipped.status == 'skipped'"
command = "sort -r"
data = "${{ steps.left.stdout }}"
""")
    done = llmos("run", "--json", "s.toml")
    found = {line["step"]: line for line in lines(done)}
    assert done.returncode == 0, done.stderr
    assert found["skipped"]["status"] == "skipped" and found["bad"]["exit_code"] == 5
    assert found["right"]["status"] == "done" and found["mend"]["calls"][0]["stdout"] == "two\none\n"


def test_a_dry_run_changes_nothing_and_says_what_it_cannot_know(llmos: Run, work: Path) -> None:
    (work / "s.toml").write_text("""
[[step]]
id = "make"
command = "touch made.txt"
[[step]]
command = "cat ${{ steps.make.stdout }}"
""")
    done = llmos("run", "--dry-run", "--json", "s.toml")
    assert done.returncode == 4 and [line["status"] for line in lines(done)] == ["needs_approval", "unknown"]
    assert not (work / "made.txt").exists()


def test_a_step_that_takes_too_long_is_cancelled_and_its_cleanup_runs(llmos: Run, work: Path) -> None:
    (work / "s.toml").write_text("""
[[step]]
id = "slow"
command = "sleep 30"
timeout_s = 1
[[step.on_failure]]
command = "echo cleaned up"
""")
    begun = time.monotonic()
    done = llmos("run", "s.toml")
    assert done.returncode == 5 and "cleaned up" in done.stdout and time.monotonic() - begun < 20


def test_a_run_that_was_killed_goes_on_where_it_was(llmos: Run, work: Path, env: dict[str, str]) -> None:
    (work / "s.txt").write_text("!cp a.txt b.txt\n!sleep 2\n!cp b.txt c.txt\n")
    argv = [sys.executable, "-m", "llmos", "run", "--yes", "--json", "s.txt"]
    process = subprocess.Popen(
        argv, cwd=work, env=env, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None and '"line-1"' in process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (work / "b.txt").write_text("changed since\n")
    done = llmos("run", "--yes", "--json", "--resume", "s.txt")
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in lines(done)] == ["line-2", "line-3"]
    assert (work / "c.txt").read_text() == "changed since\n"
    assert llmos("run", "--resume", "s.txt").returncode == 2  # it came to its end


def test_usage_errors(llmos: Run, work: Path) -> None:
    assert llmos("run", "missing.txt").returncode == 2
    (work / "s.toml").write_text('[[step]]\nakk = "x"')
    done = llmos("run", "s.toml")
    assert done.returncode == 2 and "Did you mean ask?" in done.stderr
    piped = llmos("run", "-", "--json", input="!echo from stdin\n")
    assert lines(piped)[0]["calls"][0]["stdout"] == "from stdin\n"


# --- pinned plans ----------------------------------------------------------------------------------

PINNED = """
[inputs]
into = "b.txt"
[[step]]
id = "copy"
command = "cp a.txt ${{ inputs.into }}"
unchanged = ["a.txt"]
[[step]]
ask = "list the files"
[[step]]
command = "wc -l ${{ inputs.into }}"
"""


@pytest.fixture
def pinned(llmos: Run, work: Path) -> Path:
    (work / "p.toml").write_text(PINNED)
    done = llmos("compile", "p.toml")
    assert done.returncode == 0, done.stderr
    assert not (work / "b.txt").exists()
    return work / "p.toml.lock"


def test_a_locked_plan_is_replayed_without_a_model(llmos: Run, work: Path, pinned: Path) -> None:
    lock = json.loads(pinned.read_text())
    assert lock["steps"][1]["calls"][0]["tool"] == "file.list" and str(work) not in pinned.read_text()
    assert llmos("run", "--locked", "p.toml").returncode == 4  # a lock is no consent
    done = llmos("run", "--locked", "--yes", "--json", "p.toml")
    assert done.returncode == 0, done.stdout
    assert [line["timing"]["generated_tokens"] for line in lines(done)] == [0, 0, 0]
    assert (work / "b.txt").read_text() == "one\ntwo\n"


def test_drift_stops_it_with_the_reason(llmos: Run, work: Path, pinned: Path, env: dict[str, str]) -> None:
    def said() -> str:
        done = llmos("run", "--locked", "--yes", "--json", "p.toml")
        assert done.returncode == 5 and not (work / "b.txt").exists(), done.stdout
        return done.stdout + done.stderr

    original = (work / "a.txt").read_text()
    (work / "a.txt").write_text("other\n")
    assert "the content of a.txt was changed" in said()
    (work / "a.txt").write_text(original)
    text = pinned.read_text()
    pinned.write_text(re.sub(r'("/usr/bin/cp": ")\w{64}', r"\g<1>" + "0" * 64, text))
    assert "the program /usr/bin/cp was changed" in said()
    pinned.write_text(re.sub(r'("manifest": ")\w{64}', r"\g<1>" + "0" * 64, text))
    assert "manifest was changed" in said()
    pinned.write_text(text.replace("cp a.txt", "cp a.txt c.txt"))
    assert "is not the same" in said()
    pinned.write_text(text)
    (work / "p.toml").write_text(PINNED + "\n# changed\n")
    assert "p.toml was changed" in said()


def test_a_changed_policy_is_drift(llmos: Run, work: Path, pinned: Path, env: dict[str, str]) -> None:
    policies = Path(env["XDG_CONFIG_HOME"]) / "llmos/policies"
    policies.mkdir(parents=True)
    rule = '[[rule]]\nid = "no-copies"\ndecision = "ask"\nwhy = "Looked at"\n'
    rule += "when = 'action == Action::\"write\"'\n"
    (policies / "mine.toml").write_text(rule + 'match = ["touch x"]\nnot_match = ["ls"]\n')
    try:
        deadline = time.monotonic() + 15
        while "the policy was changed" not in llmos("run", "--locked", "--yes", "--json", "p.toml").stdout:
            assert time.monotonic() < deadline
            (work / "b.txt").unlink(missing_ok=True)
    finally:
        (policies / "mine.toml").unlink()


def test_what_cannot_be_pinned_says_why(llmos: Run, work: Path) -> None:
    (work / "p.toml").write_text(
        '[[step]]\nid = "a"\ncommand = "ls"\n[[step]]\nid = "b"\ncommand = "cat ${{ steps.a.stdout }}"\n'
    )
    done = llmos("compile", "p.toml")
    assert done.returncode == 2 and "b cannot be pinned" in done.stderr
    (work / "p.txt").write_text("!rm -rf /etc\n")
    assert llmos("compile", "p.txt").returncode == 3
