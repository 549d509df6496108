"""What a call may write in sum, and what it must leave of the disk; with real disks and real stages."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from llmos.guard import staging
from llmos.guard.quota import written_bytes
from llmos.messages import Outcome, Shell
from tests.guard.boxes import Bench, permit

WRITES = "for i in $(seq 400); do head -c 1M /dev/urandom > $i; sleep 0.01; done; echo done"


@pytest.mark.sandbox
def test_a_staged_call_that_writes_too_much_is_ended_with_the_reason(
    own_bench: Bench, isolated_home: Path
) -> None:
    own_bench.limit(max_written_bytes=20 << 20)
    stage = staging.create("test", (str(own_bench.folder),))
    try:
        outcome = _staged(own_bench, str(stage.folder), WRITES)
    finally:
        stage.discard()
    assert outcome.exit_code == 137
    assert "wrote more than 20 MiB" in outcome.stderr
    assert "done" not in outcome.stdout
    assert os.listdir(own_bench.folder) == []


def _staged(bench: Bench, stage: str, text: str) -> Outcome:
    steps = Shell(text=text, timeout_s=60)
    granted = permit(steps, cwd=bench.folder, write=(bench.folder,), caller=bench.caller, stage=stage)
    return asyncio.run(bench.spawner.run(granted))


@pytest.mark.sandbox
@pytest.mark.root
def test_a_call_that_fills_the_disk_is_ended_and_a_full_disk_is_no_reason(own_bench: Bench) -> None:
    disk = own_bench.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)], check=True)
    try:
        own_bench.limit(min_free_bytes=40 << 20)
        outcome = own_bench.run(Shell(text=f"cd disk; {WRITES}", timeout_s=60), write=(disk,))
        assert outcome.exit_code == 137
        assert f"free at {disk}" in outcome.stderr
        again = own_bench.run(Shell(text="sleep 1; echo fine > disk/x; cat disk/x"), write=(disk,))
        assert again.stdout == "fine\n"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_is_counted_is_what_the_disk_gives(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(os.urandom(100_000))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "link").symlink_to("/usr")
    assert 100_000 <= written_bytes(str(tmp_path), 1 << 40) < 200_000


def test_empty_files_count_too(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / str(number)).touch()
    assert written_bytes(str(tmp_path), 1 << 40) >= 1000 * 4096


@pytest.mark.sandbox
def test_tmp_is_its_own_for_a_call_that_works_elsewhere(own_bench: Bench) -> None:
    canary = own_bench.folder / "canary"
    canary.write_text("canary\n")
    text = f"cat {canary}; ls -A /tmp /var/tmp; echo x > /tmp/of-a-call && cat /tmp/of-a-call"
    text += "; touch /var/tmp/y && echo y"
    elsewhere = replace(own_bench, folder=Path("/usr/share"))
    elsewhere.spawner = own_bench.spawner
    outcome = elsewhere.shell(text, write=())
    assert outcome.stdout.split() == ["/tmp:", "/var/tmp:", "x", "y"]
    assert not Path("/tmp/of-a-call").exists()
