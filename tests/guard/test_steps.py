"""A sandbox as a program of steps: what is written, who can read it, and that broken ones are not run."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmos import compiled
from llmos.guard import carry, fences, forks, init, jobs, machine, orders, sandbox, script, template
from llmos.guard.listing import listing
from llmos.guard.steps import Label, Steps, escaped
from tests.guard.test_sandbox_plan import BOX, SCRIPT

ROOT = Path(__file__).resolve().parents[2]
HOST = orders.Host(privileged=True, landlock_version=6, table=[template.Mount("/srv/disk", "ext4")])
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def job_of(box: sandbox.Box, host: orders.Host = HOST) -> bytes:
    line, _ = jobs.encoded(box).split(b"\n")
    return orders.of(line, box.script, host, bpf=bytes(80), counted=True)


def words(job: bytes) -> list[str]:
    """Each step without its number and layer."""
    return [line[5:81].rstrip() for line in listing(job).splitlines() if not line.startswith("part")]


# --- what is written -----------------------------------------------------------------------------


def test_a_part_reads_as_what_it_does() -> None:
    assert listing(fences.folder("/home/ada/src")).split() == [
        *("part", "of", "1", "steps"),
        *("0", 'chdir("/home/ada/src")', "cwd"),
    ]
    assert words(fences.identity(61000, 61000, (7,), privileged=True))[:4] == [
        "setgroups(1, <24+4>)",
        "setresgid(61000, 61000, 61000)",
        "setresuid(61000, 61000, 61000)",
        "prctl(4, 1)",
    ]


LANDMARKS = (
    *("setsid", "mount", "pivot_root", "umount2", "setgroups", "setresuid", "getresuid", "umask", "unshare"),
    *("prctl(38, 1", "capset", "prctl(1, 9", "close_range", "prlimit64", "landlock_restrict_self"),
    *("prctl(22, 2", "run"),
)


def test_the_layers_come_in_their_order() -> None:
    told = words(job_of(BOX))
    places = [next(at for at, text in enumerate(told) if text.startswith(mark)) for mark in LANDMARKS]
    assert places == sorted(places)
    assert told[-1].startswith("run") and told[-2].startswith("prctl(22, 2")  # the filter is the last
    masks = [at for at, text in enumerate(told) if '"/home/ada/.ssh"' in text]
    others = [at for at, text in enumerate(told) if text.startswith("move_mount") and at < places[2]]
    assert masks[0] > others[-2]  # the last of all mounts is the mask's own


def test_what_is_granted_is_mounted_and_what_lies_in_it() -> None:
    told = words(job_of(BOX))
    assert [text for text in told if '"/srv/disk"' in text]
    staged = words(job_of(replace(BOX, stage="/stage")))
    assert [text for text in staged if '"/stage"' in text and "openat2" in text]
    opened_and_told = sum("upper" in text for text in staged)
    assert opened_and_told == 2 * len(BOX.write_roots)
    waits = [sum(text.startswith("again") for text in each) for each in (told, staged)]
    assert waits[1] - waits[0] == len(BOX.write_roots)  # for a view that is still busy


def test_a_network_and_its_machines() -> None:
    routes = (("192.0.2.1", 443), ("2001:db8::1", 22))
    told = words(job_of(replace(BOX, network=True, routes=routes, hosts_file="x")))
    assert sum("listen" in text for text in told) == 2
    assert [text for text in told if text.startswith("sendmsg(status")]
    assert told.index(next(t for t in told if "sendmsg" in t)) < told.index('mount(0, "/", 0, 278528)')


def test_a_program_that_is_to_stay_does_not_die_with_the_launcher() -> None:
    assert "prctl(1, 9)" in words(job_of(BOX))
    told = words(job_of(replace(BOX, detached=True)))
    assert "prctl(1)" in told and "prctl(1, 9)" not in told
    assert [text for text in told if text.startswith("write(status")]


def test_an_unprivileged_launcher_changes_no_ids() -> None:
    told = words(job_of(replace(BOX, id_mapped=False), replace(HOST, privileged=False)))
    assert not [text for text in told if text.startswith(("setgroups", "setresuid", "setfsuid"))]
    assert [text for text in told if text.startswith("getresuid")]


def test_a_script_is_read_as_it_was_written() -> None:
    env = (("PATH", "/bin"), ("NAME", "caf\udce9 é"))
    reader = init._Reader(script.encoded(SCRIPT, env, "/srv"))
    assert (reader.text(), reader.text(), reader.texts()) == (
        "/bin",
        "/srv",
        ["PATH=/bin", "NAME=caf\udce9 é"],
    )
    assert (reader.number(), reader.number(), reader.number(), reader.number()) == (3, 0, 0, 2)
    first, second = reader.command(), reader.command()
    assert (first.argv, first.program, first.redirects) == (["ls", "-la", "a b"], "/bin/ls", [])
    assert second.redirects == [(1, ">", "out")]


# --- carried out in Python -----------------------------------------------------------------------


def test_registers_data_and_jumps() -> None:
    s, done, wrong = Steps(), Label(), Label()
    room = s.space(16, b"\xff" * 16)
    s.store(0x1234, room.at(0, 2))
    number = s.load(room.at(0, 4))  # 0xffff1234
    s.jump_unless(number, 0xFFFF1234, wrong)
    s.jump_if(number, 0x34, done, mask=0xFF)
    s.place(wrong)
    s.fail("it went wrong")
    s.place(done)
    registers = [-1] * machine.MAX_REGISTERS
    carry.prepare(s.part(), registers)
    assert registers[number] == 0xFFFF1234


def test_an_error_names_its_layer_and_what_was_done() -> None:
    s, on = Steps(), Label()
    with s.of("write-root"):
        s.call("chdir", "/no such é", what="chdir /no such é", ignore=(2,), otherwise=on)
        s.fail("not reached")
        s.place(on)
        s.call("chdir", "/no such é", what="chdir /no such é")
    with pytest.raises(carry.Amiss) as caught:
        carry.prepare(s.part(), [-1] * machine.MAX_REGISTERS)
    assert caught.value.line == (
        b'{"layer": "write-root", "error": "chdir /no such \\u00e9: No such file or directory"}\n'
    )


def test_what_is_told_is_json() -> None:
    for text in ("", 'a"b\\c\n\t\x00\x7f', "é漢😀\udc80"):
        assert json.loads(carry.Amiss("mask", escaped(text)).line) == {"layer": "mask", "error": text}


def test_no_script_is_run_where_layers_are_missing() -> None:
    s = Steps()
    s.run(s.constant(script.encoded(SCRIPT, (), "/")))
    with pytest.raises(carry.Amiss, match="not the first process"):
        carry.carry_out(s.part(), [-1] * machine.MAX_REGISTERS)


# --- broken ones ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with what finds reads and writes out of bounds, where the compiler has that."""
    if compiled.compiler() is None:
        pytest.skip("there is no C compiler. Run: sudo apt install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("forks")
    flags = ("-O1", "-g", "-std=gnu11", *forks.WARNINGS, "-Werror")
    try:
        return compiled.built(replace(forks.RECIPE, flags=(*flags, *SANITIZERS)), folder)
    except OSError:
        return compiled.built(replace(forks.RECIPE, flags=flags), folder)


def checked(program: Path, jobs: list[bytes]) -> list[str]:
    given = b"".join(struct.pack("=Q", len(job)) + job for job in jobs)
    done = subprocess.run([program, "--check"], input=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return done.stdout.decode().split()


def steps_in(job: bytes) -> Iterator[int]:
    """Where each step begins."""
    at = 0
    while at < len(job):
        _, size, count, _ = machine.HEADER.unpack_from(job, at)
        yield from range(
            at + machine.HEADER.size, at + machine.HEADER.size + count * machine.STEP.size, machine.STEP.size
        )
        at += size


def with_number(job: bytes, at: int, form: str, value: int) -> bytes:
    return job[:at] + struct.pack(form, value) + job[at + struct.calcsize(form) :]


# Field of a step and a value that it can never have: op, call, register, step, kind, layer, what.
WILD = (
    (0, "=B", 11), (0, "=B", 255), (2, "=H", 4096), (4, "=H", 0xFFF0), (8, "=B", 3), (24, "=I", 1 << 30),
    (28, "=I", 1 << 31),
)  # fmt: skip


def cut_off(job: bytes) -> Iterator[bytes]:
    chance = random.Random(6)
    for size in (0, 8, 16, *(chance.randrange(len(job)) for _ in range(60)), len(job) - 8, len(job) - 1):
        yield job[:size]
    at = 0
    while at < len(job):  # between two parts
        yield job[:at]
        at += machine.HEADER.unpack_from(job, at)[1]
    yield job + job  # two scripts
    yield job + fences.session()  # what comes after a script


def broken(job: bytes) -> Iterator[bytes]:
    """Jobs that the program in C may not begin to carry out, of each sort some."""
    chance = random.Random(7)
    steps = list(steps_in(job))
    yield from cut_off(job)
    for place, form, value in WILD:
        for at in chance.sample(steps, 12):
            yield with_number(job, at + place, form, value)
    for at in steps:  # data that lies outside
        kinds = job[at + 8 : at + 14]
        for number in (n for n, kind in enumerate(kinds) if kind == machine.DATA):
            if chance.random() < 0.2:
                place = at + 32 + 8 * number
                yield with_number(
                    job, place, "=Q", chance.choice(((1 << 31) + 7, (1 << 63) + 16, (1 << 64) - 1))
                )
    for at in (0, 4, 8, 12):  # the first header
        yield with_number(job, at, "=I", chance.randrange(1 << 32))


def test_what_is_broken_is_refused_whole(sanitized: Path) -> None:
    boxes = (BOX, replace(BOX, stage="/stage"), replace(BOX, routes=(("192.0.2.1", 443),), network=True))
    for box in boxes:
        job = job_of(box)
        assert checked(sanitized, [job]) == ["sound"]
        found = list(broken(job))
        assert len(found) > 150
        assert checked(sanitized, found) == ["broken"] * len(found)


def test_many_secrets_are_many_masks(sanitized: Path) -> None:
    hidden = tuple(f"/srv/{number // 10}/{number}/.env" for number in range(2500))
    job = job_of(replace(BOX, hidden=hidden))
    assert checked(sanitized, [job]) == ["sound"]
    assert sum('/.env"' in text and "openat2" in text for text in words(job)) == len(hidden)


def test_random_changes_break_nothing_in_the_reading(sanitized: Path) -> None:
    chance = random.Random(8)
    job = job_of(BOX)
    jobs = []
    for _ in range(1500):
        changed = bytearray(job)
        for _ in range(chance.choice((1, 1, 2, 8, 64))):
            changed[chance.randrange(len(job))] = chance.randrange(256)
        jobs.append(bytes(changed))
    assert set(checked(sanitized, jobs)) <= {"sound", "broken"}


@pytest.mark.sandbox
@pytest.mark.root
@pytest.mark.parametrize("written_in", ["C", "Python"])
def test_live_a_broken_job_runs_nothing_and_a_changed_one_nothing_unsealed(
    sanitized: Path, tmp_path: Path, written_in: str
) -> None:
    """In a mount namespace of its own; tests/guard/breaking.py says what is tried."""
    program = str(sanitized) if written_in == "C" else ""
    argv = [sys.executable, "-m", "tests.guard.breaking", program, str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert not re.search("AddressSanitizer|runtime error", done.stderr), done.stderr[-4000:]
    assert "ran whole: 1" in done.stdout
