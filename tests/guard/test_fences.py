"""Each fence by itself: Landlock without the mounts, and a machine that lacks one of the layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmos.guard import landlock
from tests.guard.boxes import Bench

ROOT = Path(__file__).resolve().parents[2]

# A process with every right over files, fenced by Landlock and nothing else; as root it is root.
FENCED = """
import os, socket, sys
from llmos.guard import carry, fences, kernel, landlock, machine
inside, outside, port = sys.argv[1:]
kernel.set_no_new_privs()
fence = fences.landlocked(landlock.abi(), (inside,), network=False)
carry.prepare(fence, [-1] * machine.MAX_REGISTERS)
def attempt(name, act):
    try: act()
    except OSError as error: print(name, "refused")
    else: print(name, "done")
attempt("inside", lambda: open(f"{inside}/new", "w").close())
attempt("read", lambda: open(f"{outside}/file").read())
attempt("write", lambda: open(f"{outside}/file", "r+"))
attempt("truncate", lambda: os.truncate(f"{outside}/file", 0))
attempt("create", lambda: open(f"{outside}/new", "w"))
attempt("folder", lambda: os.mkdir(f"{outside}/folder"))
attempt("remove", lambda: os.unlink(f"{outside}/file"))
attempt("remove-folder", lambda: os.rmdir(f"{outside}/empty"))
attempt("link", lambda: os.symlink("x", f"{outside}/link"))
attempt("hard-link", lambda: os.link(f"{outside}/file", f"{inside}/file"))
attempt("move-out", lambda: os.rename(f"{inside}/new", f"{outside}/moved"))
attempt("move-in", lambda: os.rename(f"{outside}/file", f"{inside}/moved"))
attempt("pipe", lambda: os.mkfifo(f"{outside}/pipe"))
attempt("device", lambda: os.mknod(f"{inside}/device", 0o20600, os.makedev(1, 3)))
if landlock.abi() >= 4: attempt("tcp", lambda: socket.create_connection(("127.0.0.1", int(port))))
"""


@pytest.mark.sandbox
def test_landlock_alone_keeps_files_and_tcp(own_bench: Bench) -> None:
    outside = own_bench.folder.parent / "outside"
    (outside / "empty").mkdir(parents=True)
    (outside / "file").write_text("canary\n")
    argv = (sys.executable, "-c", FENCED, str(own_bench.folder), str(outside), "9")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    said = dict(line.split() for line in done.stdout.splitlines())
    assert [name for name, how in said.items() if how == "done"] == ["inside", "read"]
    assert len(said) == 14 + (landlock.abi() >= 4)
    assert (outside / "file").read_text() == "canary\n"
    assert sorted(place.name for place in outside.iterdir()) == ["empty", "file"]


# A broker on a machine that refuses some system calls, as a container's profile or an old kernel does. Each
# case is a fork of its own, because a filter stays.
LACKING = """
import os, sys
from pathlib import Path
import pyseccomp
from llmos.errors import LlmosError
from llmos.messages import Caller
from tests.guard.boxes import Bench
for case in sys.argv[2:]:
    if os.fork():
        os.wait()
        continue
    number, *names = case.split(",")
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in names:
        name, _, flag = name.partition("+")
        flags = [pyseccomp.Arg(0, pyseccomp.MASKED_EQ, int(flag, 0), int(flag, 0))] if flag else []
        rules.add_rule(pyseccomp.ERRNO(int(number)), name, *flags)
    rules.load()
    bench = Bench(Path(sys.argv[1]), Caller(uid=os.geteuid(), gid=os.getegid()))
    try: print("ran", bench.shell("touch canary; echo x > /etc/canary; echo $?").stdout.strip(), flush=True)
    except LlmosError as error: print(error.exit_code, error, "|", error.next_step, flush=True)
    finally: bench.spawner.close()
    os._exit(0)
"""
EPERM, ENOSYS = 1, 38
MOUNT_API = ("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "mount_setattr")
CASES = {
    # docker's profile
    f"{EPERM},unshare,mount,umount2,setns,{','.join(MOUNT_API)},clone+0x20000": "8 no sandbox: ",
    f"{ENOSYS},{','.join(MOUNT_API)}": "8 no sandbox: the kernel's mount API",  # Linux 5.1
    f"{EPERM},clone+0x20000000": "8 no sandbox: namespaces of its own",
    f"{EPERM},unshare+0x10000000": "8 no sandbox: user namespaces",
    f"{ENOSYS},seccomp,prctl+0x16": "8 no sandbox: the system call filter",
    f"{EPERM},landlock_restrict_self": "8 no sandbox: the Landlock fence",
    f"{ENOSYS},landlock_create_ruleset": "ran 1",  # a kernel without it: the mounts still hold
}


@pytest.mark.sandbox
def test_a_machine_that_lacks_a_layer_runs_nothing_and_says_which(own_bench: Bench) -> None:
    argv = (sys.executable, "-c", LACKING, str(own_bench.folder), *CASES)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    said = done.stdout.splitlines()
    assert len(said) == len(CASES), done.stdout + done.stderr
    for line, expected in zip(said, CASES.values(), strict=True):
        assert line.startswith(expected)
        assert line.startswith("ran") or line.partition(" | ")[2], line
    assert not Path("/etc/canary").exists()
