"""The fork that stands by for the next call: nobody's before its call, one call's in it, and gone with us."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from llmos.messages import Run, Shell
from tests.guard.boxes import Bench, permit
from tests.guard.test_cgroups import eventually, launcher_of

pytestmark = pytest.mark.sandbox

WHO = (
    "readlink /proc/self/ns/pid /proc/self/ns/mnt /proc/self/ns/ipc /proc/self/ns/net; ls -A $TMPDIR /dev/shm"
)


def spare_of(launcher: psutil.Process) -> psutil.Process:
    """The launcher's only child beside the nursery, once the call's own process is gone."""
    assert eventually(lambda: len(launcher.children()) == 2)
    return max(launcher.children(), key=psutil.Process.create_time)


def held_by(process: psutil.Process) -> set[str]:
    return {os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}


def test_it_holds_nothing_of_the_call_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "canary")
    held = bench.make("held")
    folder = os.open(bench.folder, os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        bench.run(Run(argv=("/bin/cat",), stdin_data=True, timeout_s=20), data=b"canary", write=(held,))
        spare = spare_of(launcher_of(os.getpid()))
        # Its own end of one socketpair, and what the nursery has: no stream and no status of a call.
        assert eventually(lambda: sum(name.startswith("socket:") for name in held_by(spare)) == 1)
        found = held_by(spare)
        environ = Path(f"/proc/{spare.pid}/environ").read_bytes()
    finally:
        os.close(folder)
    assert not [name for name in found if "memfd" in name or str(bench.folder) in name]
    assert b"CANARY" not in environ


def test_it_serves_one_call_and_the_next_call_has_another(bench: Bench) -> None:
    first, second = (bench.shell(f"{WHO}; touch $TMPDIR/canary /dev/shm/canary").stdout for _ in range(2))
    assert "canary" not in first + second
    assert not set(first.split()[:4]) & set(second.split()[:4])

    async def both() -> list[str]:
        step = Shell(text=f"{WHO}; touch $TMPDIR/canary; sleep 0.3", timeout_s=20)
        one = permit(step, cwd=bench.folder, caller=bench.caller)
        return [each.stdout for each in await asyncio.gather(*(bench.spawner.run(one) for _ in range(4)))]

    worlds = [word for said in asyncio.run(both()) for word in said.split()[:4]]
    assert len(set(worlds)) == 16


def test_it_is_gone_with_the_launcher_and_with_the_broker(own_bench: Bench) -> None:
    own_bench.shell("true")
    launcher = launcher_of(os.getpid())
    spare = spare_of(launcher)
    launcher.kill()
    assert eventually(lambda: not spare.is_running())
    own_bench.shell("true")
    spare = spare_of(launcher_of(os.getpid()))
    own_bench.spawner.close()
    assert eventually(lambda: not spare.is_running())


def test_what_has_changed_since_it_was_made_counts(bench: Bench) -> None:
    """Secrets, bounds and grants come with the call."""
    bench.shell("true")
    spare_of(launcher_of(os.getpid()))
    bench.make(".env", "canary")
    assert bench.shell("cat .env").stdout == ""
    assert bench.shell("echo x > new", write=()).exit_code != 0
    bench.limit(max_file_bytes=1 << 20)
    assert bench.shell("head -c 2M /dev/zero > big").exit_code != 0
    assert (bench.folder / "big").stat().st_size <= 1 << 20


def test_without_the_nursery_there_is_another_launcher(own_bench: Bench) -> None:
    own_bench.shell("true")
    launcher = launcher_of(os.getpid())
    spare_of(launcher)
    nursery = min(launcher.children(), key=psutil.Process.create_time)
    nursery.kill()
    assert eventually(lambda: not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE)
    assert own_bench.shell("echo again").stdout == "again\n"
