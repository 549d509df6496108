"""The scripts around the package, and the promises of the test suite itself.

What needs minutes (a real installation, the wheel used elsewhere) is done by .ci/run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.report import report

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("install.sh", "test.sh", ".ci/run")


def script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / name), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_executable_and_parse(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    done = subprocess.run(["bash", "-n", str(ROOT / name)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_install_explains_itself_and_refuses_unknown_options() -> None:
    helped = script("install.sh", "--help")
    assert helped.returncode == 0 and "--no-weights" in helped.stdout
    refused = script("install.sh", "--frobnicate")
    assert refused.returncode == 2 and "usage:" in refused.stderr


def test_install_says_how_to_mend_a_python_without_venv(tmp_path: Path) -> None:
    """As Debian ships it without python3-venv: the module is there, making an environment fails."""
    python = tmp_path / "python without venv"
    python.write_text(f'#!/bin/sh\n[ "$1" = -m ] && exit 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = script("install.sh", LLMOS_PYTHON=str(python), LLMOS_VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "cannot make a virtual environment" in done.stderr and "apt install python3-venv" in done.stderr


def test_install_never_clears_a_folder_that_is_no_environment(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = script("install.sh", LLMOS_VENV=str(tmp_path))
    assert done.returncode == 1 and "holds something else" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


# --- skips are told, and in CI refused ----------------------------------------------------------

SKIPPING = """
import pytest

def test_passes():
    assert True

def test_left_out():
    pytest.skip("no such hardware. Run: buy-some")

@pytest.mark.xfail(reason="known", strict=True)
def test_known():
    assert False
"""


@pytest.mark.parametrize("module_level", [False, True])
@pytest.mark.parametrize("required", [False, True])
def test_a_skip_is_told_and_fails_where_real_parts_are_required(
    tmp_path: Path, required: bool, module_level: bool
) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(SKIPPING)
    if module_level:
        (tmp_path / "test_other.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env=os.environ | {"LLMOS_TEST_REQUIRE_REAL": "1" if required else "0"},
    )
    reason = "no_such_module" if required and module_level else "no such hardware. Run: buy-some"
    assert reason in done.stdout
    if required:
        assert done.returncode in (1, 2), done.stdout
        assert "LLMOS_TEST_REQUIRE_REAL=1" in done.stdout
    else:
        assert done.returncode == 0, done.stdout
        assert "left out on this machine" in done.stdout
        assert "1 × no such hardware" in done.stdout


def test_a_benchmark_prints_a_table_and_one_json_line(capfd: pytest.CaptureFixture[str]) -> None:
    report("demo", [{"what": "load", "ms": 12.3456}, {"what": "decode", "ms": None}], {"best_ms": 12.3456})
    *table, line = capfd.readouterr().out.strip().splitlines()
    assert any("load" in row and "12.35" in row for row in table)
    parsed = json.loads(line)
    assert parsed["bench"] == "demo" and parsed["rows"][0]["ms"] == 12.3456
    assert {"cpu", "cores", "kernel", "python", "torch"} <= parsed["machine"].keys() and "commit" in parsed
