"""Which of the two puts up sandboxes: the program in C where it is built and can be trusted, else Python."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llmos.guard import forks
from llmos.guard.probe import probe
from llmos.paths import FORKS_NAME
from llmos.toolbox import processes
from tests.guard.boxes import Bench
from tests.guard.test_cgroups import eventually, launcher_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.sandbox


@pytest.fixture
def built() -> Path:
    """The program, as all tests have it."""
    if why := forks.missing():
        pytest.skip(f"{why}. Run: sudo apt install gcc libc6-dev")
    return forks.place()


def in_force(bench: Bench) -> str:
    """The name by which the nursery of this bench's launcher goes, after a call."""
    assert bench.shell("exit 3").exit_code == 3
    children = launcher_of(os.getpid()).children()
    return min(children, key=psutil.Process.create_time).cmdline()[0]


def names_of(launcher: psutil.Process) -> list[str]:
    """Of its children."""
    names = []
    for child in launcher.children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            names += child.cmdline()[:1]
    return names


def given(place: Path, program: Path) -> None:
    """`place` becomes the folder of a program like this one."""
    place.mkdir(exist_ok=True)
    shutil.copy(program, place / program.name)


def test_the_program_is_in_force_where_it_is_built(own_bench: Bench, built: Path) -> None:
    assert in_force(own_bench) == FORKS_NAME
    told = next(check for check in probe() if check.name == "forks")
    assert told.ok and str(built) in told.detail


def test_a_launcher_takes_it_up_once_it_is_there(
    own_bench: Bench, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_FORKS_DIR", str(tmp_path / "forks"))
    assert in_force(own_bench) != FORKS_NAME
    assert "not built yet" in forks.missing() or "no C compiler" in forks.missing()
    before = launcher_of(os.getpid())
    given(tmp_path / "forks", built)
    assert own_bench.shell("exit 3").exit_code == 3
    assert eventually(lambda: names_of(before) == [FORKS_NAME] * 2)  # and the spare; the other ends
    assert own_bench.shell("echo on").stdout == "on\n"
    assert launcher_of(os.getpid()) == before


@pytest.mark.parametrize("amiss", ["folder", "file", "link", "another", "mute"])
def test_what_others_could_change_or_does_not_answer_is_not_started(
    own_bench: Bench, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amiss: str
) -> None:
    place = tmp_path / "forks"
    monkeypatch.setenv("LLMOS_FORKS_DIR", str(place))
    given(place, built)
    program = place / built.name
    match amiss:
        case "folder":
            place.chmod(0o777)
        case "file":
            program.chmod(0o775)
        case "link":
            program.unlink()
            program.symlink_to(built)
        case "another":
            program.write_text("#!/bin/sh\necho something else\n")
        case _:
            program.write_bytes(b"")
    assert in_force(own_bench) != FORKS_NAME
    assert forks.missing()
    assert not next(check for check in probe() if check.name == "forks").detail.startswith("in C")


def test_it_is_known_as_a_part_of_llmos_that_no_tool_ends(built: Path) -> None:
    assert processes._is_part_of_llmos([FORKS_NAME, "6", "7"])


IN_PYTHON = ("test_init.py", "test_standby.py", "test_spawn.py", "test_sandbox_escapes.py", "test_relay.py")


def test_the_same_tests_pass_in_python(tmp_path: Path) -> None:
    files = [f"tests/guard/{name}" for name in IN_PYTHON]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env={**os.environ, "LLMOS_FORKS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 150
