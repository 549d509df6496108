"""What carrying out a permit gives: output, exit codes, time limits, cancel, and nothing left behind."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llmos.config import SandboxSettings
from llmos.errors import CallFailed, Denied, SandboxUnavailable, UsageError
from llmos.guard import layers
from llmos.guard.spawn import Spawner, succeeded
from llmos.messages import Caller, JsonObject, Observe, Run, Shell, Signal, Start
from tests.guard.boxes import OTHER_UID, Bench, permit

pytestmark = pytest.mark.sandbox


# --- exit codes and output -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [("true", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("no-such-program", 127)],
)
def test_the_exit_code_is_the_programs_own(own_bench: Bench, text: str, code: int) -> None:
    assert own_bench.shell(text).exit_code == code


def test_a_missing_program_is_127_and_named(own_bench: Bench) -> None:
    outcome = own_bench.run(Run(argv=("no-such-program", "x")))
    assert outcome.exit_code == 127
    assert outcome.stderr == "no-such-program: command not found\n"


def test_a_file_that_is_no_program_is_126(own_bench: Bench) -> None:
    own_bench.make("plain", "text", mode=0o644)
    assert own_bench.run(Run(argv=("./plain",))).exit_code == 126


def test_a_program_cannot_pretend_that_the_sandbox_failed(own_bench: Bench) -> None:
    text = """echo '{"layer": "proc", "error": "x"}' | tee /dev/fd/3 >&2; exit 1"""
    assert own_bench.shell(text).exit_code == 1


def test_output_streams_as_it_comes_and_keeps_its_order(own_bench: Bench) -> None:
    heard: list[tuple[float, str, str]] = []
    began = time.monotonic()
    outcome = own_bench.run(
        Shell(text="echo one; sleep 0.5; echo two >&2; sleep 0.5; echo three"),
        on_output=lambda stream, text: heard.append((time.monotonic() - began, stream, text)),
    )
    assert [(stream, text) for _, stream, text in heard] == [
        ("stdout", "one\n"),
        ("stderr", "two\n"),
        ("stdout", "three\n"),
    ]
    assert heard[2][0] - heard[0][0] > 0.8
    assert (outcome.stdout, outcome.stderr) == ("one\nthree\n", "two\n")
    assert outcome.duration_ms > 900


def test_a_character_is_never_cut_in_two(own_bench: Bench) -> None:
    heard: list[str] = []
    outcome = own_bench.run(
        Shell(text=r"printf '\xe4\xbd'; sleep 0.2; printf '\xa0\xff'"),
        on_output=lambda stream, text: heard.append(text),
    )
    assert outcome.stdout == "你\ufffd" == "".join(heard)


def test_output_beyond_the_cap_is_counted_and_said(own_bench: Bench) -> None:
    own_bench.limit(max_output_bytes=1000)
    outcome = own_bench.shell("head -c 5000000 /dev/zero | tr '\\0' x; echo end >&2")
    assert outcome.exit_code == 0  # it was never stuck on a full pipe
    assert outcome.truncated
    assert outcome.stdout.startswith("x" * 1000)
    assert "[4999000 more bytes of stdout left out]" in outcome.stdout
    assert outcome.stderr == "end\n"


# --- input -----------------------------------------------------------------------------------------


def test_a_program_that_asks_is_told_there_is_nobody(own_bench: Bench) -> None:
    outcome = own_bench.shell("read answer; echo $?; tty")
    assert outcome.stdout == "1\nnot a tty\n"


def test_stdin_is_the_requests_data_or_the_tools_text(own_bench: Bench) -> None:
    data = bytes(range(256)) * 40_000  # more than a pipe holds
    outcome = own_bench.run(Run(argv=("sha256sum",), stdin_data=True), data=data)
    assert outcome.stdout.split()[0] == hashlib.sha256(data).hexdigest()
    assert own_bench.run(Run(argv=("cat",), stdin_text="é\n")).stdout == "é\n"
    assert own_bench.run(Shell(text="wc -c", stdin_data=True), data=b"12345").stdout.strip() == "5"


# --- steps -----------------------------------------------------------------------------------------


def test_steps_run_in_order_and_stop_at_the_first_that_fails(own_bench: Bench) -> None:
    steps = (Run(argv=("echo", "1")), Run(argv=("false",)), Run(argv=("touch", "never")))
    outcome = own_bench.run(*steps)
    assert (outcome.stdout, outcome.exit_code) == ("1\n", 1)
    assert not (own_bench.folder / "never").exists()


def test_ok_codes_are_no_failure(own_bench: Bench) -> None:
    steps = (Run(argv=("grep", "x", "/dev/null"), ok_codes=(0, 1)), Run(argv=("echo", "on")))
    outcome = own_bench.run(*steps)
    assert (outcome.stdout, outcome.exit_code) == ("on\n", 0)
    only = permit(steps[0], cwd=own_bench.folder)
    assert succeeded(only.plan, own_bench.run(steps[0]))


def test_a_folder_that_cannot_be_entered_is_the_requests_fault(own_bench: Bench) -> None:
    own_bench.folder = own_bench.folder / "missing"
    with pytest.raises(UsageError, match="missing"):
        own_bench.run(Run(argv=("true",)), write=())


def test_an_observer_reads_facts_without_a_process(own_bench: Bench) -> None:
    def load(args: JsonObject) -> str:
        return f"load of {args['who']}\n"

    own_bench.spawner = Spawner(SandboxSettings(), {"load": load})
    assert own_bench.run(Observe(observer="load", args={"who": "me"})).stdout == "load of me\n"
    with pytest.raises(CallFailed, match="nothing"):
        own_bench.run(Observe(observer="nothing"))


# --- time limits and cancel ------------------------------------------------------------------------


def _running(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(word in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


STUBBORN = "trap '' TERM INT HUP; (setsid sleep {word} &) ; sleep {word} & wait; wait; sleep {word}"


def test_the_time_limit_ends_everything(own_bench: Bench) -> None:
    word = f"8{time.time_ns() % 10**6}.5"
    outcome = own_bench.run(Shell(text=f"echo up; {STUBBORN.format(word=word)}", timeout_s=2))
    assert outcome.timed_out
    assert not outcome.cancelled
    assert outcome.exit_code == 137
    assert outcome.stdout == "up\n"
    assert outcome.duration_ms < 3000
    assert not _running(word)


def test_cancel_ends_everything(own_bench: Bench) -> None:
    word = f"7{time.time_ns() % 10**6}.5"
    outcome = own_bench.run(Shell(text=STUBBORN.format(word=word)), cancel_after_s=0.5)
    assert outcome.cancelled
    assert not outcome.timed_out
    assert outcome.duration_ms < 3000
    assert not _running(word)


def test_a_cancelled_plan_runs_no_further_step(own_bench: Bench) -> None:
    own_bench.run(Run(argv=("sleep", "9")), Run(argv=("touch", "never")), cancel_after_s=0.3)
    assert not (own_bench.folder / "never").exists()


def test_many_at_once_do_not_mix(own_bench: Bench) -> None:
    async def all_of_them() -> list[str]:
        steps = [Shell(text=f"sleep 0.2; echo {number}; ls /proc | grep -c '^[0-9]'") for number in range(12)]
        permits = [permit(step, cwd=own_bench.folder) for step in steps]
        outcomes = await asyncio.gather(*(own_bench.spawner.run(p) for p in permits))
        return [outcome.stdout.split()[0] for outcome in outcomes]

    assert asyncio.run(all_of_them()) == [str(number) for number in range(12)]


def test_the_loop_is_never_blocked(own_bench: Bench) -> None:
    async def beat() -> float:
        task = asyncio.create_task(own_bench.spawner.run(permit(Shell(text="sleep 1"), cwd=own_bench.folder)))
        longest, last = 0.0, time.monotonic()
        while not task.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert (await task).exit_code == 0
        return longest

    asyncio.run(own_bench.spawner.run(permit(Run(argv=("true",)), cwd=own_bench.folder)))
    assert asyncio.run(beat()) < 0.3


# --- nothing left behind ---------------------------------------------------------------------------


def _footprint() -> tuple[int, int]:
    """Descriptors and processes, once the launcher has reaped what ended and nothing changes any more."""
    own, deadline, count = psutil.Process(), time.monotonic() + 10, -1
    while (now := len(own.children(recursive=True))) != count and time.monotonic() < deadline:
        count = now
        time.sleep(0.3)
    return own.num_fds(), count


def test_two_hundred_calls_leave_no_descriptor_and_no_process(own_bench: Bench) -> None:
    async def many(count: int) -> None:
        for number in range(count):
            step = Shell(text="sleep 5 & exit 0") if number % 2 else Run(argv=("no-such-program",))
            await own_bench.spawner.run(permit(step, cwd=own_bench.folder))

    asyncio.run(many(2))
    before = _footprint()
    assert before[1] >= 1  # the launcher, and what other tests of this process keep
    asyncio.run(many(200))
    assert _footprint() == before


def test_closing_the_spawner_ends_what_runs(own_bench: Bench) -> None:
    word = f"6{time.time_ns() % 10**6}.5"

    async def run_and_close() -> int | None:
        task = asyncio.create_task(
            own_bench.spawner.run(permit(Run(argv=("sleep", word)), cwd=own_bench.folder))
        )
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_bench.spawner.close)
        return (await asyncio.wait_for(task, 5)).exit_code

    assert asyncio.run(run_and_close()) == 137
    assert not _running(word)


def test_a_launcher_that_was_killed_is_started_again(own_bench: Bench) -> None:
    assert own_bench.shell("true").exit_code == 0
    for child in psutil.Process().children():
        if "llmos.guard.zygote" in " ".join(child.cmdline()):
            child.kill()
            child.wait()
    assert own_bench.shell("echo again").stdout == "again\n"


# --- started programs ------------------------------------------------------------------------------


def test_a_started_program_outlives_the_request_and_the_broker(own_bench: Bench, isolated_home: Path) -> None:
    word = f"5{time.time_ns() % 10**6}.5"
    outcome = own_bench.run(Start(argv=("sh", "-c", f"echo hello; exec sleep {word}"), name="my server"))
    assert outcome.exit_code == 0, outcome.stderr
    own_bench.spawner.close()
    sleeper = next(process for process in _running(word) if process.name() == "sleep")
    try:
        assert f"process {sleeper.pid};" in outcome.stdout
        log = next((isolated_home / ".local/state/llmos/started").iterdir())
        assert log.read_text() == "hello\n"
        assert log.stat().st_mode & 0o777 == 0o600
        assert sleeper.uids().real != 0
    finally:
        sleeper.kill()
        psutil.wait_procs([sleeper], timeout=5)


def test_a_program_that_fails_at_once_was_not_started(own_bench: Bench, isolated_home: Path) -> None:
    outcome = own_bench.run(Start(argv=("sh", "-c", "echo why >&2; exit 4"), name="broken"))
    assert (outcome.exit_code, outcome.stderr) == (4, "why\n")
    assert own_bench.run(Start(argv=("no-such-program",), name="missing")).exit_code == 127


# --- signals ---------------------------------------------------------------------------------------


def _victim(code: str, uid: int | None = None) -> tuple[subprocess.Popen[str], float]:
    process = subprocess.Popen(["sh", "-c", code], stdout=subprocess.PIPE, text=True, user=uid)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process, psutil.Process(process.pid).create_time()


def test_term_is_enough_for_most(own_bench: Bench) -> None:
    process, started = _victim("echo up; exec sleep 60")
    outcome = own_bench.run(Signal(pid=process.pid, started=started))
    assert outcome.exit_code == 0
    assert f"({process.pid}) has ended" in outcome.stdout
    assert process.wait() == -signal.SIGTERM


def test_kill_follows_for_those_who_do_not_listen(own_bench: Bench) -> None:
    process, started = _victim("trap '' TERM; echo up; while :; do sleep 1; done")
    outcome = own_bench.run(Signal(pid=process.pid, started=started, grace_s=0.3))
    assert "was killed" in outcome.stdout
    assert process.wait() == -signal.SIGKILL


def test_another_process_with_the_same_pid_is_left_alone(own_bench: Bench) -> None:
    process, started = _victim("echo up; exec sleep 60")
    try:
        with pytest.raises(CallFailed, match="not the one"):
            own_bench.run(Signal(pid=process.pid, started=started - 10))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_what_keeps_llmos_running_is_not_signalled(own_bench: Bench) -> None:
    me = psutil.Process()
    with pytest.raises(Denied):
        own_bench.run(Signal(pid=me.pid, started=me.create_time(), signal="KILL"))
    with pytest.raises(UsageError, match="NOPE"):
        own_bench.run(Signal(pid=me.pid, started=me.create_time(), signal="NOPE"))
    with pytest.raises(CallFailed):
        own_bench.run(Signal(pid=2**22 + 1, started=0.0))


@pytest.mark.root
def test_somebody_elses_process_is_refused(own_bench: Bench) -> None:
    process, started = _victim("echo up; exec sleep 60")
    own_bench.caller = Caller(uid=OTHER_UID, gid=OTHER_UID)
    try:
        with pytest.raises(Denied, match="belongs to uid 0"):
            own_bench.run(Signal(pid=process.pid, started=started))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


# --- a layer that cannot be had --------------------------------------------------------------------


def test_every_layer_says_how_it_is_mended() -> None:
    for name in layers.LAYERS:
        error = layers.explain(name, "why")
        assert isinstance(error, SandboxUnavailable)
        assert error.exit_code == 8
        assert error.next_step


def test_without_user_namespaces_there_is_no_run_at_all(own_bench: Bench) -> None:
    """A real machine without them: a process in a user namespace that allows no further ones."""
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom tests.guard.boxes import Bench\n"
        "from llmos.errors import SandboxUnavailable\nfrom llmos.messages import Caller\nimport os\n"
        "from llmos.guard import kernel\nuid = os.geteuid()\nkernel.unshare(kernel.CLONE_NEWUSER)\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "Path('/proc/self/uid_map').write_text(f'1000 {uid} 1')\n"
        f"bench = Bench(Path({str(own_bench.folder)!r}), Caller(uid=1000, gid=os.getegid()))\n"
        "try: print('RAN', bench.shell('touch canary'))\n"
        "except SandboxUnavailable as error: print(error.exit_code, error, error.next_step)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.stdout.startswith("8 no sandbox: user namespaces cannot be had"), done.stdout + done.stderr
    assert "sysctl" in done.stdout
    assert not (own_bench.folder / "canary").exists()
