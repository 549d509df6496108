"""Understood text is wired by the sandbox's own init, and does what bash would have done with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llmos.messages import Exec, Outcome, Pipeline, Pipelines, Redirect
from tests.guard.boxes import Bench

pytestmark = pytest.mark.sandbox

BASH = shutil.which("bash") or "bash"


def program(
    *argv: str, to: str = "", redirects: tuple[Redirect, ...] = (), env: tuple[str, ...] = ()
) -> Exec:
    found = shutil.which(argv[0], path="/usr/bin:/bin") or argv[0]
    more = (Redirect(fd=1, op=">", target=to),) if to else ()
    return Exec(argv=argv, program=found, redirects=(*redirects, *more), env=env)


def pipe(*commands: Exec, joiner: str = "") -> Pipeline:
    return Pipeline.model_validate({"commands": commands, "joiner": joiner})


def cd(folder: str, joiner: str = "") -> Pipeline:
    return Pipeline.model_validate({"cd": folder, "joiner": joiner})


def run(bench: Bench, *pipelines: Pipeline, data: bytes | None = None, timeout_s: float = 20) -> Outcome:
    step = Pipelines(text="a test", pipelines=pipelines, stdin_data=data is not None, timeout_s=timeout_s)
    return bench.run(step, data=data)


R = Redirect
SAME_AS_BASH = {
    "echo 'a b' '$HOME' '*'": (pipe(program("echo", "a b", "$HOME", "*")),),
    "printf '3\\n1\\n2\\n' | sort | head -n 2": (
        pipe(program("printf", "3\\n1\\n2\\n"), program("sort"), program("head", "-n", "2")),
    ),
    "/bin/false | /bin/true": (pipe(program("false"), program("true")),),
    "/bin/true | /bin/false": (pipe(program("true"), program("false")),),
    "/bin/false && echo no || echo yes; echo end": (
        pipe(program("false")),
        pipe(program("echo", "no"), joiner="&&"),
        pipe(program("echo", "yes"), joiner="||"),
        pipe(program("echo", "end"), joiner=";"),
    ),
    "/bin/true || echo no && echo yes": (
        pipe(program("true")),
        pipe(program("echo", "no"), joiner="||"),
        pipe(program("echo", "yes"), joiner="&&"),
    ),
    "yes | head -n 1": (pipe(program("yes"), program("head", "-n", "1")),),
    "echo x | sh -c 'kill -TERM $$'": (pipe(program("echo", "x"), program("sh", "-c", "kill -TERM $$")),),
    "sh -c 'kill -9 $$' | cat; sh -c 'exit 7'": (
        pipe(program("sh", "-c", "kill -9 $$"), program("cat")),
        pipe(program("sh", "-c", "exit 7"), joiner=";"),
    ),
    "ls missing 2>&1 >/dev/null | wc -l": (
        pipe(
            program("ls", "missing", redirects=(R(fd=2, op=">&", target="1"),), to="/dev/null"),
            program("wc", "-l"),
        ),
    ),
    "echo one > out; echo two >> out; cat < out": (
        pipe(program("echo", "one", to="out")),
        pipe(program("echo", "two", redirects=(R(fd=1, op=">>", target="out"),)), joiner=";"),
        pipe(program("cat", redirects=(R(fd=0, op="<", target="out"),)), joiner=";"),
    ),
    "cat < missing && echo no": (
        pipe(program("cat", redirects=(R(fd=0, op="<", target="missing"),))),
        pipe(program("echo", "no"), joiner="&&"),
    ),
    "mkdir -p d/e && cd d/e && echo x > y; ls; cd ../..; ls d": (
        pipe(program("mkdir", "-p", "d/e")),
        cd("d/e", "&&"),
        pipe(program("echo", "x", to="y"), joiner="&&"),
        pipe(program("ls"), joiner=";"),
        cd("../..", ";"),
        pipe(program("ls", "d"), joiner=";"),
    ),
    "mkdir real; ln -s real link; cd link; cd ..; ls": (
        pipe(program("mkdir", "real")),
        pipe(program("ln", "-s", "real", "link"), joiner=";"),
        cd("link", ";"),
        cd("..", ";"),
        pipe(program("ls"), joiner=";"),
    ),
    "cd missing && echo no": (cd("missing"), pipe(program("echo", "no"), joiner="&&")),
    "NAME=value sh -c 'echo $NAME'": (pipe(program("sh", "-c", "echo $NAME", env=("NAME=value",))),),
    "sh -c 'echo up >&3' 3> third; cat third": (
        pipe(program("sh", "-c", "echo up >&3", redirects=(R(fd=3, op=">", target="third"),))),
        pipe(program("cat", "third"), joiner=";"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", SAME_AS_BASH)
def test_it_does_what_bash_does(own_bench: Bench, tmp_path: Path, text: str) -> None:
    theirs = subprocess.run([BASH, "-c", text], cwd=tmp_path, capture_output=True, text=True)
    ours = run(own_bench, *SAME_AS_BASH[text])
    assert (ours.exit_code, ours.stdout) == (theirs.returncode, theirs.stdout)
    # bash says who it is and which line it is at; the rest is the same.
    assert [line.rpartition("line 1: ")[2] for line in theirs.stderr.splitlines()] == ours.stderr.splitlines()


def test_a_program_that_is_not_there_is_127_and_one_that_is_none_126(own_bench: Bench) -> None:
    gone = Exec(argv=("no-such",), program="/usr/bin/no-such")
    assert run(own_bench, pipe(gone)).exit_code == 127
    assert run(own_bench, pipe(gone)).stderr == "no-such: command not found\n"
    own_bench.make("plain", "text", mode=0o644)
    assert run(own_bench, pipe(program("./plain"))).stderr == "./plain: Permission denied\n"
    assert run(own_bench, pipe(program("./plain"))).exit_code == 126
    assert run(own_bench, pipe(program("/usr"))).stderr == "/usr: Is a directory\n"


def test_a_script_without_its_first_line_is_run_by_the_shell(own_bench: Bench) -> None:
    own_bench.make("script", 'echo "$1 from $0"\n', mode=0o755)
    assert run(own_bench, pipe(program("./script", "hello"))).stdout == "hello from ./script\n"


def test_data_goes_to_the_first_program_and_no_shell_is_there(own_bench: Bench) -> None:
    outcome = run(own_bench, pipe(program("cat"), program("tr", "a-z", "A-Z")), data=b"some data\n")
    assert outcome.stdout == "SOME DATA\n"
    seen = run(own_bench, pipe(program("cat", "/proc/self/stat"))).stdout.split()
    assert seen[3] == "1"  # its parent is the init itself


def test_no_number_reaches_what_the_init_holds_open(own_bench: Bench) -> None:
    """`>&3` in the text must not mean the socket on which the exit code is told."""
    for number in range(3, 20):
        redirect = Redirect(fd=1, op=">&", target=str(number))
        outcome = run(own_bench, pipe(program("echo", '{"exit-code": 0}', redirects=(redirect,))))
        assert (outcome.exit_code, outcome.stdout) == (1, "")


def test_the_time_limit_ends_a_pipeline_that_waits_for_a_fifo(own_bench: Bench) -> None:
    waiting = program("cat", redirects=(Redirect(fd=0, op="<", target="fifo"),))
    outcome = run(own_bench, pipe(program("mkfifo", "fifo")), pipe(waiting, joiner=";"), timeout_s=1)
    assert outcome.timed_out


def test_a_redirection_writes_only_where_the_sandbox_lets_it(own_bench: Bench) -> None:
    outside = own_bench.folder.parent / "outside"
    outcome = run(own_bench, pipe(program("echo", "x", to=str(outside))))
    assert outcome.exit_code == 1
    assert not outside.exists()
