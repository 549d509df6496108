"""`llmos doctor`: findings, how to mend them, and an exit code that says whether the main job can run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmos import cli_doctor
from llmos.cli_doctor import Finding


def doctor(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "llmos", "doctor", *words]
    return subprocess.run(argv, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_missing_weights_are_a_failure_with_the_command_that_mends_it(
    isolated_home: Path, tmp_path: Path
) -> None:
    done = doctor("--json", LLMOS_MODELS_DIR=str(tmp_path / "empty"))
    model = findings(done)["model"]
    assert model["state"] == "fail" and model["mend"] == "llmos model pull default"
    assert done.returncode in (5, 8) and json.loads(done.stdout)["ok"] is False


def test_everything_is_looked_at_and_nothing_is_started(isolated_home: Path, short_dir: Path) -> None:
    found = findings(doctor("--json"))
    wanted = {"python", "torch", "settings", "disk for models", "landlock", "model", "socket", "daemon"}
    assert wanted | {"docker", "systemd"} <= set(found)
    assert found["daemon"]["detail"].startswith("not running")
    assert not (short_dir / "llmos.sock").exists()
    assert all(check["mend"] for check in found.values() if check["state"] == "fail")


@pytest.mark.sandbox
def test_the_sandbox_is_really_tried(isolated_home: Path) -> None:
    found = findings(doctor("--json"))
    assert {found[name]["state"] for name in cli_doctor.LIVE_CHECKS} == {"ok"}


@pytest.mark.sandbox
@pytest.mark.weights
def test_a_machine_that_has_all_is_told_so(isolated_home: Path) -> None:
    done = doctor(LLMOS_MODEL="tiny")
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout and "ok    model" in done.stdout


def test_a_typo_in_the_settings_is_found(isolated_home: Path) -> None:
    file = isolated_home / ".config/llmos/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[model]\nnmae = 'tiny'\n")
    settings = findings(doctor("--json"))["settings"]
    assert (
        settings["state"] == "fail" and "model.nmae" in settings["detail"] and str(file) in settings["detail"]
    )


def test_a_socket_path_too_long_for_the_kernel(isolated_home: Path) -> None:
    assert findings(doctor("--json", LLMOS_SOCKET="/tmp/" + "x" * 110))["socket"]["state"] == "fail"


def test_exit_codes() -> None:
    ok, warn = Finding("a", "ok", ""), Finding("b", "warn", "")
    model, sandbox = Finding("model", "fail", ""), Finding("sandbox", "fail", "", sandbox=True)
    assert cli_doctor.exit_code([ok, warn]) == 0
    assert cli_doctor.exit_code([ok, model]) == 5
    assert cli_doctor.exit_code([model, sandbox]) == 8
