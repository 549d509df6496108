"""The race between judgement and use: a folder and a link to the outside change places all the time.

`python -m tests.redteam.race [--tries N]` prints how often they changed places, how many tries there were,
and how many got out. A try is one use of the path: a call whose folder, write root or operand it is, or a
write within a call. The swapper is a process of its own with no other work than renameat2(RENAME_EXCHANGE).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmos.config import SandboxSettings
from llmos.errors import LlmosError
from llmos.guard.spawn import Spawner
from llmos.messages import Caller, Run, Shell, Step, Verdict
from tests.guard import judging
from tests.guard.boxes import PYTHON, permit

SECRET = "SECRET-of-the-race"
PER_CALL = 400  # writes within one call
SWAPPER = """
import ctypes, os, platform, sys
libc = ctypes.CDLL(None)
one, two = (os.fsencode(path) for path in sys.argv[1:3])
number = 316 if platform.machine() == "x86_64" else 276
swaps = 0
while os.getppid() == int(sys.argv[3]) and not os.path.exists(sys.argv[4]):
    for _ in range(50):
        swaps += libc.syscall(number, -100, one, -100, two, 2) == 0
print(swaps)
"""
WRITES = f"""
import os
for number in range({PER_CALL}):
    try:
        fd = os.open("sub/new", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x")
        os.close(fd)
        os.unlink("sub/new") if number % 2 else os.rename("sub/new", "sub/canary")
    except OSError:
        pass
"""


@dataclass
class Field:
    """work/sub is now a folder, now a link to outside; both are one rename away from each other."""

    top: Path
    spawner: Spawner
    tries: int = 0
    refused: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.top / "work"

    @property
    def outside(self) -> Path:
        return self.top / "outside"

    def build(self) -> None:
        (self.work / "sub").mkdir(parents=True)
        self.outside.mkdir()
        (self.work / "other").symlink_to(self.outside)
        for folder in (self.work / "sub", self.outside):
            (folder / "canary").write_text("canary\n")
        (self.outside / "key").write_text(SECRET)
        (self.work / "notes").write_text("notes\n")

    def run(self, step: Step, *, cwd: Path, write: tuple[Path, ...], tries: int = 1) -> None:
        self.tries += tries
        try:
            outcome = asyncio.run(self.spawner.run(permit(step, cwd=cwd, write=write)))
        except LlmosError:  # what was judged is no folder any more: not run at all
            self.refused += 1
            return
        self.said.append(outcome.stdout + outcome.stderr)

    def escapes(self) -> list[str]:
        found = [f"changed: {name}" for name in os.listdir(self.outside) if name not in ("canary", "key")]
        if (self.outside / "canary").read_text() != "canary\n":
            found.append("changed: canary")
        found += ["secret read" for text in self.said if SECRET in text]
        return found


def _within(field: Field) -> None:
    """The path is swapped under a program that writes through it."""
    argv = (PYTHON, "-I", "-c", WRITES)
    field.run(Run(argv=argv, timeout_s=60), cwd=field.work, write=(field.work,), tries=PER_CALL)


def _root(field: Field) -> None:
    """The write root itself is swapped: judged a folder, used as whatever it then is."""
    text = f"echo x > {field.work}/sub/new; rm -f {field.work}/sub/new; echo y > {field.work}/sub/canary"
    field.run(Shell(text=text), cwd=field.work, write=(field.work / "sub",))


def _folder(field: Field) -> None:
    """The folder of the request is swapped, and it is the write root as well."""
    field.run(Shell(text="echo x > new; rm -f new"), cwd=field.work / "sub", write=(field.work / "sub",))


def _judged(field: Field) -> None:
    """Through the gate: the operands are resolved and judged there, then used by the command."""
    place = judging.Place(field.work, _gate(field.top))
    for command in ("cp notes sub/canary", "touch sub/new", "rm -f sub/canary", "mv notes sub/notes"):
        field.tries += 1
        plan = place.plan(command)
        caller = Caller(uid=os.geteuid(), gid=os.getegid())
        try:
            verdict: Verdict = place.gate.judge(plan, caller, cwd=str(field.work))
            granted = place.gate.permit(
                plan, verdict, caller=caller, request_id="race", cwd=str(field.work), approved=True
            )
            outcome = asyncio.run(field.spawner.run(granted))
            field.said.append(outcome.stdout + outcome.stderr)
        except LlmosError:
            field.refused += 1
    (field.work / "notes").write_text("notes\n")


_GATES: dict[Path, object] = {}


def _gate(top: Path):
    if top not in _GATES:
        _GATES[top] = judging.make(top / "gate").gate
    return _GATES[top]


KINDS: tuple[Callable[[Field], None], ...] = (_within, _root, _folder, _judged)


@contextlib.contextmanager
def _swapping(field: Field) -> Iterator[list[int]]:
    stop, swaps = field.top / "stop", [0]
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", "-c", SWAPPER),
            *(str(field.work / "sub"), str(field.work / "other"), str(os.getpid()), str(stop)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield swaps
    finally:
        stop.touch()
        swaps[0] = int(process.communicate(timeout=20)[0])


@dataclass(frozen=True, slots=True)
class Result:
    tries: int
    swaps: int
    refused: int
    escapes: tuple[str, ...]


def _open(field: Field) -> None:
    """The same writes without a sandbox: they do get out, or the race would prove nothing."""
    field.tries += PER_CALL
    subprocess.run([PYTHON, "-I", "-c", WRITES], cwd=field.work, timeout=60)


def run(*, tries: int = 0, seconds: float = 1e9, sandboxed: bool = True) -> Result:
    """All kinds in turn until there were as many tries, or as much time has passed."""
    top = Path(tempfile.mkdtemp(prefix="race-", dir="/var/tmp"))
    top.chmod(0o755)
    field = Field(top, Spawner(SandboxSettings()))
    field.build()
    end = time.monotonic() + seconds
    try:
        with _swapping(field) as swaps:
            while field.tries < (tries or 1e9) and time.monotonic() < end:
                for kind in KINDS if sandboxed else (_open,):
                    kind(field)
        return Result(field.tries, swaps[0], field.refused, tuple(field.escapes()))
    finally:
        field.spawner.close()
        shutil.rmtree(top, ignore_errors=True)


def main() -> None:
    from tests.bench.report import report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=100_000)
    found = run(tries=parser.parse_args().tries)
    row = {"tries": found.tries, "swaps": found.swaps, "refused": found.refused}
    report("race", [row | {"escapes": len(found.escapes)}], {**row, "escapes": list(found.escapes)})


if __name__ == "__main__":
    main()
