"""Limits and priorities of real processes: what they do then, what the kernel says, and the way back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmos.errors import CallFailed, Denied, LlmosError, UsageError
from llmos.messages import Caller, Change, Changed, ToolCall
from llmos.toolbox import groups, resources
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context
from llmos.toolbox.limits import Limits
from llmos.toolbox.scheduling import started_ticks

ME = Caller(uid=os.geteuid(), gid=os.getegid())
NOBODY = Caller(uid=65534, gid=65534)
BUSY = ("sh", "-c", "while :; do :; done")
NAP = ("sleep", "60")
HUNGRY = (
    sys.executable, "-c",
    "import sys\nfor line in sys.stdin: x = bytearray(int(line)); print(len(x), flush=True)",
)  # fmt: skip
PARENT = (
    sys.executable, "-c",
    "import subprocess, sys, time\nnap = ['sleep', '60']\n"
    "subprocess.Popen(nap); sys.stdin.readline(); subprocess.Popen(nap); time.sleep(60)",
)  # fmt: skip
THREADED = (
    sys.executable, "-c",
    "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
)  # fmt: skip
grouped = pytest.mark.skipif(
    not {"cpu", "memory", "pids"} <= groups.trees().keys(),
    reason="no control groups for cpu, memory and pids",
)
Do = Callable[..., Changed]


@contextmanager
def running(*argv: str, uid: int | None = None) -> Iterator[tuple[psutil.Process, Any]]:
    """A program below a shell of its own: what is our own child counts as a part of llmos."""
    shell = subprocess.Popen(
        ["sh", "-c", 'exec 3<&0; "$@" <&3 & echo $!; wait', "sh", *argv],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=uid, group=uid,
        extra_groups=None if uid is None else [],
    )  # fmt: skip
    assert shell.stdout
    process = psutil.Process(int(shell.stdout.readline()))
    family = psutil.Process(shell.pid)
    try:
        while process.cmdline() != list(argv):
            time.sleep(0.01)
        yield process, shell
    finally:
        children = family.children(recursive=True)
        for one in (*children, family):
            one.kill()
        shell.communicate()
        psutil.wait_procs(children, timeout=10)  # until whoever has them now has heard of their end


@pytest.fixture
def do(tools: Catalog, here: Context) -> Do:
    """do(tool, caller=…, **args): plan the call and carry its one change out; or do(change)."""

    def run(what: str | Change, caller: Caller = ME, **args: Any) -> Changed:
        if isinstance(what, str):
            context = Context(here.cwd, here.home, caller.uid)
            (step,) = tools.plan(ToolCall(tool=what, args=args), context).steps
            assert isinstance(step, Change)
            what = step
        return tools.changers[what.changer](what.args, caller)

    return run


def undone(do: Do, changed: Changed, caller: Caller = ME) -> Changed:
    for step in changed.reverse:
        assert isinstance(step, Change)
        changed = do(step, caller)
    return changed


def use(process: psutil.Process, seconds: float = 1.5) -> float:
    process.cpu_percent()
    time.sleep(seconds)
    return float(process.cpu_percent())


def gone(folders: Callable[[], list[Path]]) -> bool:
    deadline = time.monotonic() + 10
    while folders() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not folders()


def left(process: psutil.Process) -> list[Path]:
    return [folder for folder in groups.ours() if f".{process.pid}." in folder.name]


# --- limits ------------------------------------------------------------------------------------------


@grouped
@pytest.mark.root
def test_a_busy_loop_gets_what_it_may_and_no_more_and_then_everything_again(do: Do) -> None:
    with running(*BUSY) as (process, _):
        before = Path(f"/proc/{process.pid}/cgroup").read_text()
        changed = do("resource.limit", target=str(process.pid), cpu=20)
        assert "Read back" in changed.text and "cgroup v" in changed.text
        assert 10 <= use(process) <= 30
        tighter = do("resource.limit", target=str(process.pid), cpu=50, pids=64)
        again = undone(do, tighter)  # the value of before, not none at all
        assert 10 <= use(process) <= 30
        undone(do, again)
        undone(do, changed)
        assert any(use(process, 1) > 24 for _ in range(10))  # more than before, also among busy others
        assert Path(f"/proc/{process.pid}/cgroup").read_text() == before
        assert gone(lambda: left(process))


@grouped
@pytest.mark.root
def test_a_memory_limit_holds_and_nothing_stays_of_it_when_the_process_dies(do: Do) -> None:
    with running(*HUNGRY) as (process, shell):
        do("resource.limit", target=str(process.pid), memory="64M")
        shell.stdin.write("20000000\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "20000000\n"
        shell.stdin.write("200000000\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == ""  # killed by the kernel before it had that
        assert gone(lambda: left(process))


@grouped
@pytest.mark.root
@pytest.mark.skipif("cpuset" not in groups.trees(), reason="no control group for sets of CPUs")
def test_cpus_bandwidth_and_weights_are_read_back_and_given_back(do: Do) -> None:
    with running(*NAP) as (process, _):
        asked = {"cpus": "0", "io": "1M", "io_weight": 50, "cpu_weight": 30, "pids": 20}
        done = do("resource.limit", target=str(process.pid), **asked)
        assert process.cpu_affinity() == [0], done.text
        told = groups.limits_of(sorted(groups.ours_of(process.pid)))
        assert told.model_dump(exclude_none=True) == {**asked, "io": 1 << 20}
        undone(do, done)
        assert not left(process) and process.cpu_affinity() == sorted(os.sched_getaffinity(0))
        with pytest.raises(UsageError, match="no CPU 4000"):
            do("resource.limit", target=str(process.pid), cpus="0,4000")


def _disk_with_weights(folder: Path) -> str:
    """A loop device of the tests' own whose scheduler is bfq; empty where there can be none."""
    with (folder / "disk").open("wb") as file:
        file.truncate(64 << 20)
    argv = ["losetup", "-f", "--show", str(folder / "disk")]
    device = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    scheduler = Path("/sys/block", Path(device).name, "queue/scheduler")
    if device and "bfq" in scheduler.read_text():
        scheduler.write_text("bfq")
        (scheduler.parent / "iosched/low_latency").write_text(
            "0"
        )  # else whoever begins is favoured for a while
        return device
    return ""


@grouped
@pytest.mark.root
@pytest.mark.skipif(not shutil.which("losetup"), reason="no loop devices")
def test_a_disk_is_shared_out_by_weight(do: Do, tmp_path: Path) -> None:
    device = _disk_with_weights(tmp_path)
    if not device:
        pytest.skip("this kernel has no bfq")
    code = (
        "import mmap, os, random, sys\n"
        "fd, page, done = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 65536), 0\n"
        "while True:\n os.preadv(fd, [page], random.randrange(1000) * 65536)"
    )
    reader = (sys.executable, "-c", code, device)
    try:
        with ExitStack() as stack:
            found = [stack.enter_context(running(*reader))[0] for _ in range(4)]
            for process in found[:2]:
                do("resource.limit", target=str(process.pid), io_weight=10)
            for process in found[2:]:
                do("resource.limit", target=str(process.pid), io_weight=100)
            moved: list[list[int]] = []
            while len(moved) < 5 and not (moved and sum(moved[-1][:2]) * 2 < sum(moved[-1][2:])):
                before = [process.io_counters().read_bytes for process in found]
                time.sleep(4)  # the scheduler gives turns of a tenth of a second and more
                after = [process.io_counters().read_bytes for process in found]
                moved.append([new - old for new, old in zip(after, before, strict=True)])
        # Where others have the processors, readers leave the disk idle, and it goes to whoever asks.
        assert sum(moved[-1][:2]) * 2 < sum(moved[-1][2:]), moved
    finally:
        Path("/sys/block", Path(device).name, "queue/scheduler").write_text("none")
        subprocess.run(["losetup", "-d", device], check=True)


@grouped
@pytest.mark.root
def test_children_come_along_also_later_ones_and_a_release_frees_them_all(do: Do) -> None:
    with running(*PARENT) as (process, shell):
        do("resource.limit", target=str(process.pid), cpu=30, memory="500M")
        shell.stdin.write("\n")
        shell.stdin.flush()
        while len(family := [process, *process.children(recursive=True)]) < 3:
            time.sleep(0.02)
        inside = {pid for folder in left(process) for pid in groups.pids_in(folder)}
        assert inside == {one.pid for one in family}
        released = do("resource.release", target=str(process.pid))
        assert not left(process)
        with pytest.raises(CallFailed, match="no limit"):
            do("resource.release", target=str(process.pid))
        undone(do, released)
        assert groups.limits_of(left(process)).model_dump(exclude_none=True) == {
            "cpu": 30,
            "memory": 500 << 20,
        }


@grouped
@pytest.mark.root
def test_who_may_make_no_group_bounds_memory_of_each_process_and_nothing_else(tmp_path: Path) -> None:
    """The daemon of a plain user: a process with that user's ids does the whole of it."""
    told = tmp_path / "told"
    with told.open("w") as out:
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            out.write(" ".join(plain_user()))
            out.flush()
            os._exit(0)
        os.waitpid(child, 0)
    assert told.read_text().split() == ["refused", "bounded", "restored", "kernel-refused"]


def plain_user() -> Iterator[str]:
    """What he can and cannot do to his own process."""
    with running(*NAP) as (process, _):
        common = {"label": "x", "known": [{"pid": process.pid, "started": process.create_time()}]}
        try:
            resources.change_limits({**common, "limits": {"cpu": 20}}, NOBODY)
        except CallFailed as error:
            yield "refused" if "control group" in str(error) and error.next_step else str(error)
        changed = resources.change_limits({**common, "limits": {"memory": 64 << 20}}, NOBODY)
        bounded = process.rlimit(psutil.RLIMIT_DATA)[0] == 64 << 20 and "prlimit" in changed.text
        yield "bounded" if bounded else changed.text
        (step,) = changed.reverse
        assert isinstance(step, Change)
        resources.restore(step.args, NOBODY)
        yield "restored" if process.rlimit(psutil.RLIMIT_DATA)[0] != 64 << 20 else "not restored"
        try:
            resources.change_values({**common, "values": {"nice": "-5"}}, NOBODY)
        except Denied:
            yield "kernel-refused"


# --- priorities ----------------------------------------------------------------------------------------


def test_priorities_are_read_back_and_put_back_to_the_value(do: Do) -> None:
    with running(*BUSY) as (process, _):
        process.nice(3)
        changed = do(
            "resource.priority", target=str(process.pid), nice=10, io="idle", oom=500, scheduler="batch"
        )
        assert process.nice() == 10 and process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "500\n"
        assert os.sched_getscheduler(process.pid) == os.SCHED_BATCH
        if os.geteuid() == 0:  # only root may make anything more important again
            undone(do, changed)
            assert process.nice() == 3 and os.sched_getscheduler(process.pid) == os.SCHED_OTHER
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "0\n"


def test_cpus_and_rlimits_are_read_back_and_put_back(do: Do) -> None:
    with running(*THREADED) as (
        process,
        _,
    ):
        first = min(process.cpu_affinity())
        all_before = process.cpu_affinity()
        bound = do("resource.affinity", target=str(process.pid), cpus=str(first))
        assert {os.sched_getaffinity(thread.id) == {first} for thread in process.threads()} == {True}
        undone(do, bound)
        assert process.cpu_affinity() == all_before
        before = process.rlimit(psutil.RLIMIT_NOFILE)
        limited = do("resource.rlimit", target=str(process.pid), limit="nofile", soft="77")
        assert process.rlimit(psutil.RLIMIT_NOFILE) == (77, before[1])
        undone(do, limited)
        assert process.rlimit(psutil.RLIMIT_NOFILE) == before


@pytest.mark.root
def test_what_somebody_else_changed_since_is_not_overwritten(do: Do) -> None:
    with running(*BUSY) as (process, _):
        changed = do("resource.priority", target=str(process.pid), nice=5)
        process.nice(7)
        with pytest.raises(CallFailed, match="changed since"):
            undone(do, changed)
        assert process.nice() == 7


@pytest.mark.root
def test_roots_daemon_lends_a_plain_caller_no_rights(do: Do) -> None:
    with running(*BUSY, uid=NOBODY.uid) as (process, _):
        process.nice(0)  # however nice the tests themselves are
        for asked in ({"nice": -5}, {"scheduler": "fifo"}, {"oom": -500}, {"io": "realtime"}):
            with pytest.raises(LlmosError) as error:
                do("resource.priority", NOBODY, target=str(process.pid), **asked)
            assert isinstance(error.value, Denied), error.value
        with pytest.raises(Denied, match="hard limit"):
            do(
                "resource.rlimit",
                NOBODY,
                target=str(process.pid),
                limit="nofile",
                soft="900000",
                hard="900000",
            )
        changed = do("resource.priority", NOBODY, target=str(process.pid), nice=9)
        assert process.nice() == 9
        undone(do, changed, NOBODY)  # back to what it was, which the kernel would let only root do
        assert process.nice() == 0


@grouped
@pytest.mark.root
def test_a_plain_caller_of_roots_daemon_can_limit_his_own_but_not_lift_what_root_set(do: Do) -> None:
    with running(*BUSY, uid=NOBODY.uid) as (process, _):
        changed = do("resource.limit", NOBODY, target=str(process.pid), cpu=20)
        assert 10 <= use(process) <= 30
        undone(do, changed, NOBODY)
        do("resource.limit", ME, target=str(process.pid), cpu=20)
        with pytest.raises(Denied, match="limited by uid 0"):
            do("resource.release", NOBODY, target=str(process.pid))
        do("resource.release", ME, target=str(process.pid))


# --- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "args", "words"),
    [
        ("resource.limit", {"cpu": 0}, "not between"),
        ("resource.limit", {"cpu": -5}, "not between"),
        ("resource.limit", {"cpu": 100_000}, "not between"),
        ("resource.limit", {"memory": "900T"}, "not between"),
        ("resource.limit", {"memory": "1K"}, "not between"),
        ("resource.limit", {"io": "1"}, "4096"),
        ("resource.limit", {"pids": 0}, "not between"),
        ("resource.limit", {}, "no limit is given"),
        ("resource.priority", {}, "nothing is asked"),
        ("resource.priority", {"nice": 40}, "at most 19"),
        ("resource.affinity", {"cpus": "9999"}, "no CPU 9999"),
        ("resource.affinity", {"cpus": "0-"}, "list of CPUs"),
        ("resource.affinity", {"cpus": "3-1"}, "no CPU at all"),
        ("resource.affinity", {"cpus": "0-99999999999"}, "list of CPUs"),
        ("resource.rlimit", {"limit": "nofile", "soft": "many"}, "no amount"),
        ("resource.rlimit", {"limit": "nofile", "soft": "10", "hard": "5"}, "above"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_done(
    do: Do, tool: str, args: dict[str, Any], words: str
) -> None:
    with running(*NAP) as (process, _):
        with pytest.raises(UsageError, match=words) as error:
            do(tool, target=str(process.pid), **args)
        assert error.value.next_step
        assert not left(process)


def test_whom_is_meant_is_asked_and_gone_dead_or_foreign_ones_are_explained(do: Do, tmp_path: Path) -> None:
    name = f"zz{os.getpid()}t"
    shutil.copy("/usr/bin/sleep", tmp_path / name)
    shell = subprocess.Popen(
        ["sh", "-c", '"$1" 60 & "$1" 60 & sleep 0.3 & echo $!; exec sleep 60', "sh", tmp_path / name],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert shell.stdout
    zombie = int(shell.stdout.readline())
    try:
        while psutil.Process(zombie).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with pytest.raises(UsageError, match="2 processes match"):
            do("resource.priority", target=name, nice=1)
        assert "2 processes" in do("resource.priority", target=name, nice=1, all=True).text
        with pytest.raises(UsageError, match="only waits for its parent"):
            do("resource.limit", target=str(zombie), cpu=20)
        for target, words in {
            "1": "keeps the system",
            "4194303": "there is no process",
            "no\nsuch": "there is no",
            " ": "empty",
            "user:nobody-of-that-name": "there is no user",
        }.items():
            with pytest.raises(UsageError, match=words):
                do("resource.limit", target=target, cpu=20)
    finally:
        for child in psutil.Process(shell.pid).children():
            child.kill()
        shell.kill()
        shell.communicate()


def test_a_process_that_ended_between_plan_and_change_is_not_mistaken(
    do: Do, tools: Catalog, here: Context
) -> None:
    with running(*NAP) as (process, _):
        call = ToolCall(tool="resource.priority", args={"target": str(process.pid), "nice": 5})
        (step,) = tools.plan(call, here).steps
    assert isinstance(step, Change)
    with pytest.raises(CallFailed, match="has ended"):
        do(step)
    later = step.model_copy(deep=True)
    time.sleep(0.1)  # start times are told apart by more than a few ticks of the clock
    with running(*NAP) as (process, _):
        later.args["known"][0]["pid"] = process.pid  # another process under the number that was judged
        with pytest.raises(CallFailed, match="has ended"):
            do(later)
        assert process.nice() == os.getpriority(os.PRIO_PROCESS, 0)


@grouped
@pytest.mark.root
def test_a_failure_half_way_leaves_no_group_behind(do: Do) -> None:
    """Other processes of the target are in another group: that is found before anything is made."""
    with running(*BUSY) as (process, _), running(*BUSY) as (other, _):
        do("resource.limit", target=str(other.pid), cpu=30)
        known = [{"pid": one.pid, "started": one.create_time()} for one in (process, other)]
        args = {"label": "both", "known": known, "limits": {"pids": 50, "cpu": 20}}
        with pytest.raises(CallFailed, match="several control groups"):
            do(Change(changer="resource.limit", args=args, shows="both"))
        assert not left(process)
        assert groups.limits_of(left(other)).model_dump(exclude_none=True) == {"cpu": 30}


@grouped
@pytest.mark.root
def test_one_that_has_just_ended_is_in_no_group(do: Do) -> None:
    """Until somebody waits for it, version 1 shows it in the root group."""
    with running(*BUSY) as (process, _), subprocess.Popen(["true"]) as ended:
        do("resource.limit", target=str(process.pid), cpu=30)
        dead = psutil.Process(ended.pid)
        deadline = time.monotonic() + 20
        while dead.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        group = left(process)[0]
        ours = groups.Members(
            groups.maker(group), process.pid, started_ticks(process.pid), lambda: [dead.pid, process.pid]
        )
        groups.limit(Limits(cpu=20), ours)
        assert left(process) == [group] and groups.limits_of([group]).model_dump(exclude_none=True) == {
            "cpu": 20
        }
