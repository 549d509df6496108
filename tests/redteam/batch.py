"""Many probes in one sandbox, one after the other: what the tests run, as starting is most of the time.

A driver inside forks for each payload and makes the work folder anew before it. The world judges the batch as
a whole; only when nothing at all happened, and the driver came to its end, has each of them been stopped. The
probes that need a sandbox of their own (limits, time limits, what stays behind) say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.redteam.probe import Probe
from tests.redteam.world import World

SIZE = 16
TIME_LIMIT_S = 60.0
MARK = "\x1e"
DRIVER = r"""
import contextlib, json, shutil, signal, sys, time, traceback

WORK, KEPT = os.getcwd(), (".env", ".env.local", "agent.sock", "sub")
LINKS = {"link": "@OUTSIDE@/canary", "linked": "@OUTSIDE@/folder", "root": "/"}


def tidy():
    os.chdir(WORK)
    for entry in os.scandir("."):
        if entry.name not in KEPT:
            with contextlib.suppress(OSError):
                shutil.rmtree(entry.name) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.name)
    with contextlib.suppress(OSError):
        with open("notes", "w") as file:
            file.write("notes\n")
        for name, target in LINKS.items():
            os.symlink(target, name)


def become(argv):
    os.setpgid(0, 0)
    if argv[1] != "-I":
        os.execv(argv[0], argv)
    try:
        exec(compile(argv[3], "<string>", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(0)


def wait(pid):
    end = time.monotonic() + 8
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.002)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


jobs = json.load(sys.stdin)
os.dup2(os.open("/dev/null", os.O_RDWR), 0)
for number, argv in enumerate(jobs):
    tidy()
    os.write(1, b"\n\x1e%d\n" % number)
    pid = os.fork()
    if pid == 0:
        become(argv)
    wait(pid)
os.write(1, b"\n\x1eend\n")
"""


def batches(probes: list[Probe]) -> Iterator[list[Probe]]:
    """All of them in their order, those that go alone as batches of one."""
    together = [probe for probe in probes if not probe.goes_alone]
    for start in range(0, len(together), SIZE):
        yield together[start : start + SIZE]
    for probe in probes:
        if probe.goes_alone:
            yield [probe]


def of(probes: list[Probe], world: World) -> Probe:
    """One probe that is all of these."""
    jobs = [probe.argv(world.places()) for probe in probes]
    return Probe("batch", "", "many", python=DRIVER, data=json.dumps(jobs), timeout_s=TIME_LIMIT_S)


def said_by_each(said: str, count: int) -> list[str] | None:
    """What each printed; nothing if the driver did not get to its end."""
    parts = said.split(MARK)
    wanted = [*map(str, range(count)), "end"]
    if [part.partition("\n")[0] for part in parts[1:]] != wanted:
        return None
    return [part.partition("\n")[2] for part in parts[1:-1]]
