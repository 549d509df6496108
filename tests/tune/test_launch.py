"""Several processes make the run that one makes, and go on when one is killed: real ones, on loopback."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llmos import cli
from llmos.errors import LlmosError, UsageError
from llmos.tune import launch, launch_ray, on_ray, options
from llmos.tune.world import ALONE
from tests.tune import together

PROGRAM = Path(together.__file__)
TOLERANCE = 2e-5  # of weights after 20 steps; sums of float32 in another order, through AdamW
LOSS_TOLERANCE = 2e-4  # curves are kept in four places


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    root = PROGRAM.parents[2]
    return subprocess.Popen(
        [sys.executable, PROGRAM, folder, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found["losses"] == pytest.approx(wanted["losses"], abs=LOSS_TOLERANCE)
    for ours, theirs in zip(found["judged"], wanted["judged"], strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["held"] == pytest.approx(theirs["held"], abs=LOSS_TOLERANCE)
    for name, tensor in wanted["tensors"].items():
        torch.testing.assert_close(found["tensors"][name], tensor, atol=TOLERANCE, rtol=0)


def test_two_processes_make_the_curve_of_one(tmp_path: Path) -> None:
    """Copies (DDP) and spread weights (FSDP2), with blocks computed twice; by what each process holds."""
    two = start(tmp_path / "two", *together.CASES, "--processes", "2")
    alone = {case: together.run(case, tmp_path / "one" / case, ALONE) for case in together.CASES}
    said, _ = two.communicate(timeout=240)
    assert two.returncode == 0, said
    for case, wanted in alone.items():
        assert wanted["losses"][-1] < wanted["losses"][0]
        for rank in range(2):
            found = torch.load(tmp_path / "two" / f"{case} of {rank}.pt", weights_only=True)
            if rank:
                found |= {"losses": wanted["losses"]}  # the leader's alone is written
            same(found, wanted)
    assert said.count("step 20 loss") == len(together.CASES)  # one of them speaks


def test_a_killed_process_is_started_again_and_the_run_is_as_if_nothing_had_been(tmp_path: Path) -> None:
    run = start(
        tmp_path, "adapter", "--steps", "40", "--pause-s", "0.003",
        "--launch", "torchrun", "--processes", "2", "--max-restarts", "1",
    )  # fmt: skip
    state, who = tmp_path / "adapter" / "state" / "state.pt", tmp_path / "pid-1"
    first = kill_when(run, state, who, before=0)
    second = kill_when(run, state, who, before=first, after_ns=state.stat().st_mtime_ns)
    said, _ = run.communicate(timeout=120)
    assert first != second and "goes on at step" in said
    assert "process 1 was killed by SIGKILL, and 1 restarts were used up" in said, said
    assert run.returncode != 0
    # The same again, now alone, ends it; and nobody sees that there were others.
    ended = together.run("adapter", tmp_path / "adapter", ALONE, steps=40)
    same(ended, together.run("adapter", tmp_path / "never killed", ALONE, steps=40))
    assert not list(state.parent.glob("*.new"))


def kill_when(run: subprocess.Popen[str], state: Path, who: Path, *, before: int, after_ns: int = 0) -> int:
    """Kills the second process, another one than `before`, once state was kept after `after_ns`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.poll() is None:
        number = int(who.read_text() or 0) if who.exists() else 0
        if number not in (0, before) and state.exists() and state.stat().st_mtime_ns > after_ns:
            os.kill(number, signal.SIGKILL)
            return number
        time.sleep(0.02)
    pytest.fail(f"no process to kill: {run.communicate()[0] if run.poll() is not None else 'too late'}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--processes", "0"], "at least one"),
        (["--processes", "3"], "3 processes cannot share 4 batches"),
        (["--processes", "2", "--max-restarts", "2"], "belongs to --launch torchrun"),
        (["--launch", "torchrun", "--max-restarts", "-1"], "from 0 up"),
        (["--launch", "torchrun", "--nodes", "2:1", "--rendezvous", "a:1"], "neither a number"),
        (["--launch", "torchrun", "--nodes", "2"], "a place to meet"),
        (["--fsdp"], "nothing to spread"),
    ],
)
def test_what_cannot_be_launched_is_said_before_anything_starts(words: list[str], said: str) -> None:
    parser = options.parser("train", "")
    options.add_settings(parser, accumulate=4)
    launch.add_options(parser)
    with pytest.raises(UsageError, match=said):
        launch.wanted(parser.parse_args(words))


def test_the_verb_says_what_is_missing_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "train", "--rows", "none", "--valid", "none", "--out", str(tmp_path), "--max-steps", "1"]
    assert cli.main([*words, "--launch", "torchrun", "--processes", "2"]) == 2
    assert capfd.readouterr().err.count("none is not there") == 1


def test_what_came_out_travels_through_a_log_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.pt").write_text("stays there")
    (tmp_path / "adapter.safetensors").write_bytes(os.urandom(40_000))
    result = on_ray.packed(tmp_path)
    assert result is not None
    lines = [line.removeprefix(f"{on_ray.MARK} ") for line in on_ray.lines(result)]
    assert on_ray.joined_lines(lines) == result
    assert on_ray.joined_lines(lines[1:]) is None and on_ray.joined_lines(lines[:-1]) is None
    with tarfile.open(fileobj=io.BytesIO(result)) as archive:
        assert archive.getnames() == ["adapter.safetensors"]


def test_without_ray_or_a_cluster_the_next_step_is_told(tmp_path: Path) -> None:
    parser = options.parser("train", "")
    options.add_settings(parser, accumulate=4)
    launch.add_options(parser)
    given = parser.parse_args(["--launch", "ray", "--processes", "2", "--ray", "http://127.0.0.1:9"])
    assert launch.wanted(given)
    with pytest.raises(LlmosError) as told:
        launch.train([], given)
    installed = importlib.util.find_spec("ray") is not None
    assert ("ray start --head" if installed else "pip install 'llmos[ray]'") in told.value.next_step


def test_a_log_that_is_read_again_shows_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = launch_ray._Log()
    for part in ("step 1\nste", "p 2\nllmos-result abc\nst"):
        log.add(part)
    log.from_the_start()
    for part in ("step 1\nstep 2\nllmos-re", "sult abc\nstep 3\n"):
        log.add(part)
    assert capsys.readouterr().out == "step 1\nstep 2\nstep 3\n" and log.result == ["abc"]
