"""The control group of a call: its bounds hold in sum, and nothing of it stays behind, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llmos import cgroupfs
from llmos.errors import SandboxUnavailable
from llmos.guard import cgroups
from llmos.guard.cgroups import Hierarchy
from llmos.guard.sandbox import ControlGroup
from llmos.messages import Shell
from tests.guard.boxes import PYTHON, Bench

ROOT = Path(__file__).resolve().parents[2]
HERE = cgroups.find(prepare=False)
grouped = pytest.mark.skipif(
    not HERE, reason=f"no control groups for calls: {HERE.missing}. Run: llmos doctor"
)


def left(launcher: int) -> list[str]:
    """The groups of one launcher that are there."""
    names = {name for folder in set(HERE.folders.values()) for name in os.listdir(folder)}
    return [name for name in names if name.startswith(f"llmos-{launcher}.")]


def launcher_of(broker: int) -> psutil.Process:
    children = psutil.Process(broker).children()
    living = (child for child in children if child.status() != psutil.STATUS_ZOMBIE)
    return next(child for child in living if "guard.zygote" in " ".join(child.cmdline()))


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held


HOG = f"{PYTHON} -I -c 'import time; x = bytearray(60 << 20); time.sleep(1)'"


@grouped
@pytest.mark.sandbox
@pytest.mark.root
def test_memory_is_bounded_in_sum_and_the_reason_is_told(bench: Bench) -> None:
    bench.limit(max_memory_bytes=128 << 20)
    alone = bench.shell(HOG)
    assert alone.exit_code == 0
    assert "memory" not in alone.stderr
    together = bench.shell(" & ".join([HOG] * 4) + " & wait")
    assert "max_memory_bytes" in together.stderr


@grouped
@pytest.mark.sandbox
@pytest.mark.root
def test_files_in_memory_count_as_memory(own_bench: Bench) -> None:
    own_bench.limit(max_memory_bytes=128 << 20)
    outcome = own_bench.shell("head -c 300M /dev/zero > /dev/shm/x; head -c 300M /dev/zero > /run/tmp/x")
    assert outcome.exit_code != 0
    assert "max_memory_bytes" in outcome.stderr


@grouped
@pytest.mark.sandbox
@pytest.mark.root
def test_the_group_holds_every_process_of_the_call_and_bounds_their_number(own_bench: Bench) -> None:
    own_bench.limit(max_processes=30, max_cpus=0.5)
    seen: dict[str, str] = {}

    def look(stream: str, text: str) -> None:
        groups = [Path(HERE.folders["pids"], name) for name in left(launcher_of(os.getpid()).pid)]
        # One more may be there already, with the fork that stands by for the next call.
        folder = max(groups, key=lambda group: int((group / "pids.current").read_text()))
        seen.update({name: (folder / name).read_text() for name in ("pids.max", "pids.current")})
        if HERE.version == 1:
            seen["quota"] = Path(HERE.folders["cpu"], folder.name, "cpu.cfs_quota_us").read_text()

    own_bench.run(Shell(text="(setsid sleep 1 &); sleep 1 & echo up; wait"), on_output=look)
    assert seen["pids.max"] == "30\n"
    assert int(seen["pids.current"]) == 4  # init, shell, and two that sleep
    assert seen.get("quota", "50000\n") == "50000\n"


@grouped
@pytest.mark.sandbox
@pytest.mark.root
def test_inside_the_groups_are_neither_named_nor_writable(bench: Bench) -> None:
    outcome = bench.shell("cut -d: -f3 /proc/self/cgroup | sort -u; find /sys/fs/cgroup -writable -type f")
    assert outcome.stdout == "/\n"


@grouped
@pytest.mark.sandbox
@pytest.mark.root
def test_no_group_is_left_after_calls_nor_after_the_launcher_was_killed(own_bench: Bench) -> None:
    for text in ("true", "exit 3", "sleep 5 & exit"):
        own_bench.shell(text)
    launcher = launcher_of(os.getpid())
    # One is the next call's: the fork that stands by is in it already. The other child makes the forks.
    assert eventually(lambda: len(left(launcher.pid)) == 1 and len(launcher.children()) == 2)

    def kill(stream: str, text: str) -> None:
        launcher.kill()

    outcome = own_bench.run(Shell(text="echo up; sleep 20"), on_output=kill)
    assert outcome.exit_code == 137
    launcher.wait()
    assert left(launcher.pid)
    own_bench.shell("true")
    assert eventually(lambda: not left(launcher.pid))


BROKER = """
import os
from pathlib import Path
from llmos.messages import Caller, Shell
from tests.guard.boxes import Bench
bench = Bench(Path({folder!r}), Caller(uid=0, gid=0))
bench.run(Shell(text="echo up; sleep 30"), on_output=lambda stream, text: print(text, flush=True))
"""


@grouped
@pytest.mark.sandbox
@pytest.mark.root
def test_a_killed_broker_takes_its_calls_along_and_leaves_no_group(own_bench: Bench) -> None:
    code = BROKER.format(folder=str(own_bench.folder))
    broker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert broker.stdout is not None
    assert broker.stdout.readline() == "up\n"
    launcher = launcher_of(broker.pid)
    assert left(launcher.pid)
    broker.send_signal(signal.SIGKILL)
    broker.wait()
    assert eventually(lambda: not left(launcher.pid))
    assert eventually(lambda: not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE)


@grouped
@pytest.mark.root
def test_groups_of_launchers_that_are_gone_are_swept_and_others_stay() -> None:
    gone, here = "llmos-999999999.1.1", cgroups.name(os.getpid(), 1)
    reused = f"llmos-{os.getpid()}.1.1"  # our pid, but of an earlier process
    try:
        for name in (gone, here, reused):
            HERE.make(name)
        assert HERE.sweep() == set()
        assert left(os.getpid()) == [here]
        assert not left(999999999)
    finally:
        HERE.remove(here)


def test_version_2_sets_the_same_bounds_in_its_own_files(tmp_path: Path) -> None:
    """The files of a version 2 group, as plain files: what is written where."""
    group = tmp_path / "name"
    written = cgroups.settings(2, ControlGroup(memory_bytes=1 << 27, processes=10, cpus=1.5, needed=False))
    assert written == [
        ("memory", "memory.max", "134217728"),
        ("pids", "pids.max", "10"),
        ("cpu", "cpu.max", "150000 100000"),
    ]
    assert Hierarchy(2, dict.fromkeys(cgroups.CONTROLLERS, str(tmp_path))).places("name") == [str(group)]


def test_the_kernels_tables_are_read() -> None:
    own = "4:memory:/user/7\n1:cpu,cpuacct:/\n0::/user.slice/x.service\n"
    assert dict(cgroupfs.own_groups(own)) == {
        "memory": "/user/7",
        "cpu": "/",
        "cpuacct": "/",
        "": "/user.slice/x.service",
    }
    table = "41 31 0:38 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    table += "9 1 0:3 /sub /x rw - cgroup c rw,pids\n"
    assert cgroupfs.mounted(table) == [("/sys/fs/cgroup", "cgroup2", ["rw", "nsdelegate"])]


@pytest.mark.sandbox
@pytest.mark.root
def test_where_a_group_is_required_and_cannot_be_had_nothing_runs(own_bench: Bench) -> None:
    """A broker that may make none: everything below its groups is read-only in its mount namespace."""
    code = (
        "from pathlib import Path\nfrom llmos.errors import SandboxUnavailable\n"
        "from llmos.messages import Caller\nfrom tests.guard.boxes import Bench\n"
        f"bench = Bench(Path({str(own_bench.folder)!r}), Caller(uid=0, gid=0))\n"
        "print(bench.shell('echo ran').stdout, end='')\n"
        "bench.limit(require_cgroup=True)\n"
        "try: bench.shell('touch canary')\n"
        "except SandboxUnavailable as error: print(error.exit_code, error.next_step)\n"
    )
    hide = 'umount -R -l /sys/fs/cgroup && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", hide, "sh", sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("ran\n8 Run the daemon as root's service"), done.stdout + done.stderr
    assert not (own_bench.folder / "canary").exists()
    assert SandboxUnavailable.exit_code == 8


@pytest.mark.root
def test_a_version_2_group_is_entered_and_cleared_of_whoever_is_left(tmp_path: Path) -> None:
    """On the kernel's own version 2 file system, which is there beside version 1 too, without controllers."""
    subprocess.run(["mount", "-t", "cgroup2", "none", str(tmp_path)], check=True)
    parent, name = tmp_path / "llmos-test", "llmos-999999999.1.1"
    try:
        parent.mkdir()
        here = Hierarchy(2, {"any": str(parent)})
        here.make(name)
        code = (
            f"for file in {here.entrances(name)!r}: open(file, 'w').write('0')\n"
            "print('in', flush=True)\nimport time; time.sleep(30)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        assert (parent / name / "cgroup.procs").read_text().split() == [str(process.pid)]
        assert here.sweep() == {name}  # its launcher is gone: what is left is killed
        assert process.wait(10) == -signal.SIGKILL
        assert eventually(lambda: here.remove(name))
        assert [place.name for place in parent.iterdir() if place.is_dir()] == []
    finally:
        parent.rmdir()
        subprocess.run(["umount", str(tmp_path)], check=True)
