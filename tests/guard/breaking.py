"""Live: a fork is given jobs that are broken or changed; run by test_steps.py, as root.

    python -m tests.guard.breaking PROGRAM FOLDER      PROGRAM empty: the fork in Python

Of a job that is broken nothing may run. Of one with random changes something may, but never without
no_new_privs, the system call filter, and no capability: the command writes down what it was run with. Nothing
outside the work folder may change.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from llmos.guard import fences, jobs, kernel, landlock, nursery, orders, seccomp, template
from llmos.guard.idmap import IdMap
from llmos.guard.nursery import Nursery
from llmos.guard.sandbox import STAND_IN_ID, Box, Command, Limits, Pipe
from tests.guard.test_steps import broken, cut_off, steps_in

NAMESPACES = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNET
)
COMMAND = (
    "grep -E '^(NoNewPrivs|Seccomp|CapEff|CapPrm|CapBnd):' /proc/self/status > canary; echo x > ../outside"
)
SEALED = {"NoNewPrivs": 1, "Seccomp": 2, "CapEff": 0, "CapPrm": 0}
RANDOM = 250
_WAIT_S = 10


class Tried:
    """The sandbox's work folder, and what lies outside of it."""

    def __init__(self, program: str, top: Path) -> None:
        self.work, self.outside = top / "work", top / "outside"
        self.work.mkdir()
        self.outside.write_text("")
        made, error = nursery.found(program)
        assert error is None
        assert made.native == bool(program), "the program does not start"
        self.nursery: Nursery = made
        self.id_map = IdMap(STAND_IN_ID)
        self.templates = template.Templates(self.id_map, None)
        self.templates.make(mapped=True)

    def job(self) -> bytes:
        limits = Limits(processes=64, data_bytes=1 << 62, file_bytes=1 << 30, cpu_s=60, scratch_bytes=1 << 20)
        box = Box(
            script=(Pipe((Command(("/bin/sh", "-c", COMMAND)),)),),
            cwd=str(self.work),
            uid=0,
            gid=0,
            host_uid=STAND_IN_ID,
            host_gid=STAND_IN_ID,
            groups=(),
            id_mapped=True,
            write_roots=(str(self.work),),
            hidden=("/etc/shadow",),
            network=False,
            env=(("PATH", "/usr/bin:/bin"),),
            limits=limits,
        )
        host = orders.Host(True, landlock.abi(), self.templates.table)
        line, _ = jobs.encoded(box).split(b"\n")
        return orders.of(line, box.script, host, bpf=seccomp.program(False), counted=False)

    def run(self, job: bytes) -> dict[str, int] | None:
        """What the command was run with; None where it was not run."""
        canary = self.work / "canary"
        canary.unlink(missing_ok=True)
        pid, sock = self.nursery.bear(NAMESPACES, fences.prepared(()))
        ours, theirs = socket.socketpair()
        told, nothing = os.memfd_create("job"), os.open("/dev/null", os.O_RDWR)
        os.write(told, job)
        fds = [told, nothing, nothing, nothing, theirs.fileno(), self.id_map.fd()]
        socket.send_fds(sock, [b"\0\1"], fds)
        for fd in (told, nothing):
            os.close(fd)
        sock.close()
        theirs.close()
        self._wait(pid)
        ours.close()
        assert self.outside.read_text() == "", "something outside was changed"
        if not canary.exists():
            return None
        pairs = (line.split(":") for line in canary.read_text().splitlines())
        return {name: int(value, 16) for name, value in pairs}

    def _wait(self, pid: int) -> None:
        deadline = time.monotonic() + _WAIT_S
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:  # a changed number can make it wait for something
                os.kill(pid, 9)
            time.sleep(0.001)


def changed(job: bytes) -> Iterator[bytes]:
    """With random bytes in the numbers of its steps, where a change is most likely to be taken as meant."""
    chance = random.Random(9)
    steps = list(steps_in(job))
    for _ in range(RANDOM):
        made = bytearray(job)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            made[chance.choice(steps) + chance.choice((0, 1, 2, 4, 8, 9, 32, 40, 48))] = chance.randrange(12)
        yield bytes(made)


def main() -> None:
    tried = Tried(sys.argv[1], Path(sys.argv[2]))
    job = tried.job()
    whole = tried.run(job)
    assert whole is not None and whole.items() >= SEALED.items(), whole
    ran = 0
    for each in broken(job) if sys.argv[1] else cut_off(job):
        assert tried.run(each) is None, "a broken job was carried out"
    for each in changed(job):
        seen = tried.run(each)
        assert seen is None or not seen or seen.items() >= SEALED.items(), seen
        ran += seen is not None
    sys.stdout.write(f"ran whole: 1, changed and run: {ran} of {RANDOM}\n")


if __name__ == "__main__":
    main()
