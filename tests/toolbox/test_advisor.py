"""The advisor beside real trouble: conditions are made, measured together, and must be found by numbers.

Growth and forecasts are also asked of made-up series, with hypothesis.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.toolbox import groups
from llmos.toolbox.advisor import facts, kernel, measure
from llmos.toolbox.advisor.finding import Finding
from llmos.toolbox.advisor.findings import findings
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context
from llmos.toolbox.limits import Limits

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root mounts, and sees others' control groups")
grouped = pytest.mark.skipif(not ROOT or "memory" not in groups.trees(), reason="no control groups")

# Python below a shell: our own children count as parts of llmos.
PROGRAMS = {
    "zombie": "import os, time\nif os.fork() == 0: os._exit(0)\nprint('ready', flush=True)\ntime.sleep(60)",
    "leak": "import time\nheld = []\nprint('ready', flush=True)\n"
            "while len(held) < 120: held.append(bytearray(b'x' * (6 << 20))); time.sleep(0.1)\n"
            "time.sleep(60)",
    "log": "import sys, time\nfile = open(sys.argv[1], 'w')\nprint('ready', flush=True)\n"
           "for _ in range(600): file.write('the same again\\n' * 2000); file.flush(); time.sleep(0.1)",
    "hog": "import mmap, sys, time\nsys.stdin.readline()\nheld = mmap.mmap(-1, 123 << 20)\n"
           "for _ in range(123): held.write(b'x' * (1 << 20))\nprint('ready', flush=True)\ntime.sleep(60)",
    "hung": "import sys\nopen(sys.argv[1], 'w').write('x')",
    "eater": "import sys\nsys.stdin.readline()\nheld = bytearray(b'x' * (200 << 20))",
    "busy": "import time\nprint('ready', flush=True)\nend = time.time() + 30\nwhile time.time() < end: pass",
}  # fmt: skip


class Trouble:
    """Programs that misbehave, a full file system, and what the advisor says of them."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self.pids: dict[str, int] = {}
        self.log = folder / "service.log"
        self.full = folder / "full"
        self.found: list[Finding] = []

    def start(self, name: str, *args: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", PROGRAMS[name], *args]
        process = subprocess.Popen(
            ["sh", "-c", 'exec 3<&0; "$@" <&3 & echo $!; wait', "sh", *argv],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._stack.callback(self._end, process)
        assert process.stdout
        self.pids[name] = int(process.stdout.readline())
        return process

    def ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"

    def _end(self, process: subprocess.Popen[str]) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, 9)
        process.communicate()

    def fill(self) -> None:
        self.full.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self.full)], check=True)
        self._stack.callback(subprocess.run, ["umount", str(self.full)], check=True)
        (self.full / "all of it").write_bytes(b"x" * (1 << 20))

    def limited_hog(self) -> None:
        hog = self.start("hog")
        pid = self.pids["hog"]
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        groups.limit(Limits(memory=128 << 20), groups.Members(0, pid, started, lambda: [pid]))
        assert hog.stdin
        hog.stdin.write("go\n")
        hog.stdin.flush()
        self.ready(hog)

    def limited_eater(self) -> None:
        """It takes more than it may, and the kernel ends it."""
        eater = self.start("eater")
        pid = self.pids["eater"]
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        groups.limit(Limits(memory=40 << 20), groups.Members(0, pid, started, lambda: [pid]))
        eater.communicate("go\n", timeout=30)

    def hang(self) -> None:
        """Somebody writes to a file system that is frozen: not even a signal reaches them."""
        image, place = self._folder / "image", self._folder / "frozen"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(20 << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
        self._stack.callback(subprocess.run, ["umount", str(place)], check=True)
        subprocess.run(["fsfreeze", "-f", str(place)], check=True)
        self.start("hung", str(place / "file"))
        self._stack.callback(subprocess.run, ["fsfreeze", "-u", str(place)], check=True)

    def of(self, kind: str) -> list[Finding]:
        return [one for one in self.found if one.kind == kind]

    def about(self, kind: str, name: str) -> Finding:
        """The finding of that kind about a program that was started here."""
        keys = ("pid", "parent")
        found = [one for one in self.of(kind) if self.pids[name] in [one.numbers.get(key) for key in keys]]
        assert found, [one.what for one in self.found]
        return found[0]


def can_hang() -> bool:
    return ROOT and Path("/dev/loop-control").exists() and bool(shutil.which("mkfs.ext4"))


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    with ExitStack() as stack:
        made = Trouble(stack, tmp_path_factory.mktemp("trouble"))
        started = [made.start("zombie"), made.start("leak"), made.start("log", str(made.log))]
        for process in started:
            made.ready(process)
        for _ in range((os.cpu_count() or 1) + 2):
            made.ready(made.start("busy"))
        if ROOT:
            made.fill()
        if can_hang():
            made.hang()
        if ROOT and "memory" in groups.trees():
            made.limited_hog()
            made.limited_eater()
        time.sleep(0.3)
        made.found = findings(measure.measure(os.geteuid()))
        yield made


def calls(one: Finding) -> list[str]:
    return [call.tool for call in one.suggestions]


def test_a_zombie_is_told_by_its_parent(trouble: Trouble) -> None:
    found = trouble.about("zombie", "zombie")
    assert found.numbers["count"] == 1
    assert ("process.stop", {"pid": trouble.pids["zombie"]}) in [(c.tool, c.args) for c in found.suggestions]


def test_a_leaking_process_is_told_with_a_forecast(trouble: Trouble) -> None:
    found = trouble.about("memory-leak", "leak")
    assert 5 << 20 < found.numbers["bytes_per_s"] < 56 << 20
    assert 0 < found.numbers["full_in_s"] <= facts.FAR_S
    assert calls(found)[0] == "resource.limit"
    # Seconds of growth may be a program that loads: it is said, and is not urgent yet.
    assert found.severity == "medium" and "loading" in found.evidence[-1]


def test_a_runaway_log_is_told_with_its_writer(trouble: Trouble) -> None:
    found = trouble.about("runaway-log", "log")
    assert found.numbers["path"] == str(trouble.log)
    assert 100_000 < found.numbers["bytes_per_s"] < 1_000_000
    assert calls(found) == ["text.tail", "process.suspend"]


def test_cpu_contention_names_one_of_the_busy(trouble: Trouble) -> None:
    (found,) = trouble.of("cpu-contention")
    assert found.numbers["busy_percent"] > 90
    assert calls(found)[0] == "resource.priority"


@needs_root
def test_a_full_file_system_is_told(trouble: Trouble) -> None:
    (found,) = (one for one in trouble.of("disk-full") if one.numbers["place"] == str(trouble.full))
    assert (found.severity, found.numbers["percent"], found.numbers["free_bytes"]) == ("high", 100.0, 0)
    assert found.suggestions[0].args == {"path": str(trouble.full)}


@grouped
def test_a_control_group_at_its_limit_names_the_hog(trouble: Trouble) -> None:
    found = trouble.about("memory-limit", "hog")
    assert found.numbers["limit_bytes"] == 128 << 20
    assert found.numbers["used_bytes"] > 120 << 20
    assert found.suggestions[0].args == {"target": str(trouble.pids["hog"]), "memory": "192M"}


@grouped
@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel's log is closed here")
def test_who_was_ended_for_memory_is_told_from_the_kernels_log(trouble: Trouble) -> None:
    found = next(one for one in trouble.of("oom-kill") if one.numbers["pid"] == trouble.pids["eater"])
    assert found.severity == "high" and "a limit that llmos had set" in found.what
    # Far from the 200 MiB that it wanted. A little more than the limit it may hold: the pages of files that
    # others had read before it are resident for it and charged to them.
    assert 20 << 20 < found.numbers["resident_bytes"] < 80 << 20
    assert abs(found.numbers["at"] - time.time()) < 60


@pytest.mark.skipif(not can_hang(), reason="no file system can be frozen here")
def test_who_hangs_in_the_kernel_is_told_and_who_is_frozen_is_not(trouble: Trouble) -> None:
    found = trouble.about("stuck", "hung")
    assert calls(found) == ["process.details"] and "in the kernel's" in found.evidence[0]


def test_every_suggestion_is_a_call_that_can_be_planned(
    trouble: Trouble, tools: Catalog, here: Context
) -> None:
    from llmos.messages import ToolCall

    for one in trouble.found:
        for call in one.suggestions:
            plan = tools.plan(ToolCall(tool=call.tool, args=call.args), here)
            assert plan.steps, call


def test_what_was_noted_before_is_the_longer_series() -> None:
    for _ in range(2):
        measure.note()
        time.sleep(0.05)
    found = measure.measure(os.geteuid())
    here = next(one for one in found.processes if one.pid == os.getpid())
    assert [len(series) for series in here.resident[1:]] == [6]
    assert len(here.resident[0]) >= 3
    assert here.resident[0][-1] == here.resident[1][-1]
    assert any(len(disk.used[0]) >= 3 for disk in found.disks)


# --- forecasts -----------------------------------------------------------------------------------------


@given(st.floats(1, 1e6), st.floats(0.1, 60), st.integers(4, 20), st.floats(1, 1e9))
def test_a_straight_line_is_thought_on_as_far_as_it_was_seen(
    per_s: float, step_s: float, count: int, room: float
) -> None:
    series = tuple((number * step_s, number * step_s * per_s) for number in range(count))
    found = facts.growth((series,), room)
    assert found is not None
    assert found.per_s == pytest.approx(per_s)
    far = min(facts.FAR_S, facts.REACH * found.over_s)
    assert (found.full_in_s is None) == (room / found.per_s > far)


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=20))
def test_what_shrinks_once_is_no_leak(amounts: list[float]) -> None:
    series = tuple(enumerate([*amounts, max(amounts) + 1, max(amounts)]))
    assert facts.growth((series,), 1e9) is None


def healthy() -> facts.Facts:
    memory = facts.Memory(8 << 30, 4 << 30, 0, 0)
    return facts.Facts(
        2.0, 2, 10.0, {name: facts.Pressure(0, 0, 0) for name in ("cpu", "memory", "io")}, memory
    )


def test_a_healthy_machine_has_no_findings() -> None:
    assert findings(healthy()) == []


def test_short_memory_names_the_largest_process_and_bounds_it() -> None:
    one = facts.Process(7, 1.0, "java", "java -jar x", "anna", 1, "running", 0, 5.0,
                        (((0.0, float(6 << 30)),),), protected=False)  # fmt: skip
    short = replace(healthy(), memory=facts.Memory(8 << 30, 200 << 20, 0, 0), processes=(one,))
    (found,) = findings(short)
    assert (found.kind, found.severity, found.numbers["pid"]) == ("memory-pressure", "high", 7)
    assert found.suggestions[0].args == {"target": "7", "memory": "7680M"}
    assert findings(short, "disk") == []


def test_failed_units_and_unbounded_containers_are_told() -> None:
    group = facts.Group("/docker/x", "ab" * 32, ours=False, used=300 << 20, limit=None, hits=0, pids=(9,))
    unit = facts.Unit("nginx.service", "system", "a web server", "failed (failed)")
    failed, container = findings(replace(healthy(), units=(unit,), groups=(group,)))
    assert [call.args["name"] for call in failed.suggestions] == ["nginx.service", "nginx.service"]
    assert container.suggestions[0].args == {"target": "container:" + "ab" * 6, "memory": "600M"}


def test_who_moves_the_most_is_asked_to_yield_where_the_disks_are_the_bottleneck() -> None:
    one = facts.Process(7, 1.0, "rsync", "rsync a b", "anna", 1, "", 0, 5.0, (), protected=False,
                        io_bytes_s=40 << 20)  # fmt: skip
    waits = {"io": facts.Pressure(70.0, 30.0, 60.0)}
    (found,) = findings(replace(healthy(), pressure=waits, processes=(one,)))
    assert (found.kind, found.numbers["pid"]) == ("io-pressure", 7)
    assert [call.args for call in found.suggestions][:2] == [
        {"target": "7", "io": "idle"}, {"target": "7", "io": "20M"},
    ]  # fmt: skip


def test_errors_count_when_there_are_more_than_always() -> None:
    def said(errors: int, before: int) -> facts.Complaints:
        return facts.Complaints("web.service", "system", errors, 600.0, "no database", before)

    counts = ((19, 0), (30, 12), (30, 9), (400, 390))
    told = [findings(replace(healthy(), complaints=(said(*one),))) for one in counts]
    assert [len(one) for one in told] == [0, 0, 1, 1]
    assert [call.tool for call in told[2][0].suggestions] == ["service.logs", "service.restart"]


def test_unused_space_counts_by_what_is_free() -> None:
    space = facts.EngineSpace("/var/lib/docker", 3, 200 << 20, 2, 300 << 20)
    roomy = facts.Disk("/", "ext4", 100 << 30, 50 << 30, 50.0, 1.0, ())
    assert findings(replace(healthy(), space=space, disks=(roomy,))) == []
    tight = replace(roomy, free=1 << 30)
    found = findings(replace(healthy(), space=space, disks=(tight,)))
    assert [one.kind for one in found] == ["unused-images", "unused-volumes"]
    assert found[1].suggestions[0].args == {"all": True, "preview": True}


OOM = (
    "6,1,1000000,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    "task_memcg=/user.slice,task=a,pid=1,uid=0,pid=77,uid=1000",
    "3,2,1000001,-;Out of memory: Killed process 77 (a,pid=1,uid=0) total-vm:9kB, anon-rss:2048kB, x",
    "6,3,1000002,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/d/x,"
    f"task_memcg=/docker/{'ab' * 32},task=py\\x0athon,pid=78,uid=0",
    "6,4,junk",
    "6,5,9,-;Killed process 4 (x) total-vm:1kB, anon-rss:1kB",
)


def test_the_kernels_words_are_read_whatever_the_program_calls_itself() -> None:
    first, second = kernel.parsed(OOM, time.time() - 60)
    assert (first.name, first.pid, first.group, first.resident) == ("a,pid=1,uid=0", 77, "", 2 << 20)
    assert (second.pid, second.group, second.container) == (78, "/d/x", "ab" * 32)
    assert kernel.parsed(OOM, time.time() - 100_000) == []
