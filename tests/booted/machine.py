"""A machine that systemd has booted: an overlay of this one's files in a container of systemd-nspawn.

    lower: / of this machine, read-only        upper: a tmpfs, gone with the machine

Whatever happens inside stays inside: it has its own files, processes, network and service manager. It is
never booted on the shared root, whose /tmp a starting systemd empties. Nothing is downloaded and no image is
built. Not its own: the kernel and its control groups of version 1, whose controllers a container may not set
up.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
# Answers lines of JSON: a tool's part that acts inside the broker, called as the broker would call it.
TOOLBOX = """
import json, sys
from llmos.errors import LlmosError
from llmos.messages import Caller
from llmos.toolbox import builtins
for line in sys.stdin:
    table, name, args = json.loads(line)
    try:
        if table == "CHANGERS":
            args[1] = Caller(uid=args[1], gid=args[1])
        answer = getattr(builtins, table)[name](*args)
        answer = answer if isinstance(answer, str) else answer.model_dump(mode="json")
    except LlmosError as error:
        answer = f"{error.kind}: {error} | {error.next_step}"
    print(json.dumps(answer), flush=True)
"""
BOOT_TIMEOUT_S = 60.0
# basic.target: no service that happens to be installed here, only what systemd itself needs.
# The service's state on a file system of its own: an overlay is no place for the upper layer of another one.
# nspawn allows a list of system calls of its own, in which Landlock's are not yet (version 252).
BOOT = """
set -e
mount -t tmpfs -o size=1g,mode=755 tmpfs "$1/store"
mkdir "$1/store/upper" "$1/store/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/store/upper,workdir=$1/store/work" "$1/root"
echo "$2" >"$1/root$3/00_checkout.pth"
# Other users start our programs too, wherever these lie.
for place in "$2" "$4" "$3"; do
    while [ "$place" != / ]; do chmod a+rx "$1/root$place"; place=$(dirname "$place"); done
done
rm -rf "$1/root/var/log/journal" && mkdir "$1/root/var/log/journal"
# The machine would cover its /tmp and empty it, and a checkout may lie there: as a mount of its own it stays.
export SYSTEMD_NSPAWN_TMPFS_TMP=0
exec systemd-nspawn --quiet --directory="$1/root" --bind-ro="+$2:$2" --boot --register=no --keep-unit \
    --private-network --console=pipe --link-journal=no --capability=all \
    --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
    --tmpfs=/var/lib/llmos:mode=0700 "${@:5}" systemd.unit=basic.target
"""
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def missing() -> str:
    """Why no machine can be booted here, or an empty string."""
    for program, package in (("systemd-nspawn", "systemd-container"), ("dbus-daemon", "dbus")):
        if shutil.which(program) is None:
            return f"needs {program}. Run: apt-get install {package}"
    if not Path("/lib/systemd/systemd").exists():
        return "needs systemd. Run: apt-get install systemd"
    return ""


@dataclass
class Machine:
    nspawn: subprocess.Popen[bytes]
    folder: Path
    console: Path
    leader: int = 0
    uids: dict[str, int] = field(default_factory=lambda: {"": 0, "nobody": 65534})
    toolbox: subprocess.Popen[str] | None = None

    def run(
        self,
        *argv: str,
        user: str = "",
        text: str | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root or as `user`, in the manner of a login without a terminal."""
        return subprocess.run(
            [*self.words(user, env), *argv],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def words(self, user: str = "", env: dict[str, str] | None = None) -> list[str]:
        as_whom = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        variables = ENVIRONMENT | ({"HOME": f"/home/{user}"} if user else {}) | (env or {})
        pairs = (f"{name}={value}" for name, value in variables.items())
        return ["nsenter", "-t", str(self.leader), "-a", *as_whom, "env", "-i", *pairs]

    def ok(self, *argv: str, user: str = "", text: str | None = None) -> str:
        done = self.run(*argv, user=user, text=text)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def python(self, code: str, *args: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run Python source of the checkout's own interpreter inside."""
        return self.run(python(), "-c", code, *args, user=user)

    def llmos(self, *words: str, user: str = "") -> subprocess.CompletedProcess[str]:
        cwd = f"/home/{user}" if user else "/root"
        return self.run("env", "-C", cwd, python(), "-m", "llmos", *words, user=user)

    def path(self, inside: str) -> Path:
        """A file of the machine, seen from here."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def add_user(self, name: str) -> None:
        """A person with a home, whose own manager runs."""
        self.ok("useradd", "--create-home", "--shell", "/bin/bash", name)
        self.ok("loginctl", "enable-linger", name)
        self.uids[name] = int(self.ok("id", "-u", name))

    def uid(self, user: str) -> int:
        return self.uids[user]

    def ask(self, table: str, tool: str, *args: object) -> Any:
        """Call an entry of the toolbox's tables inside, as root; its answer, or `KIND: error | next step`."""
        if self.toolbox is None:
            words = [*self.words(), python(), "-c", TOOLBOX]
            self.toolbox = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.toolbox.stdin is not None and self.toolbox.stdout is not None
        self.toolbox.stdin.write(json.dumps([table, tool, args]) + "\n")
        self.toolbox.stdin.flush()
        return json.loads(self.toolbox.stdout.readline())

    def stop(self) -> None:
        """The machine is switched off hard: its files are gone anyway."""
        if self.toolbox is not None:
            self.toolbox.kill()
            self.toolbox.communicate()
        with contextlib.suppress(ProcessLookupError):
            if self.leader:
                os.kill(self.leader, signal.SIGKILL)
        try:
            self.nspawn.wait(10)
        except subprocess.TimeoutExpired:
            self.nspawn.kill()
            self.nspawn.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def venv() -> Path:
    return CHECKOUT / ".venv"


def python() -> str:
    return str(venv() / "bin/python")


def boot() -> Machine:
    """Boot one; the caller stops it. Raises AssertionError with what the console said."""
    folder = Path(tempfile.mkdtemp(prefix="llmos-boot-", dir="/tmp"))
    for name in ("root", "store"):
        (folder / name).mkdir()
    console = folder / "console"
    with console.open("wb") as out:
        nspawn = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "bash",
                "-c",
                BOOT,
                "boot",
                str(folder),
                *_places(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    machine = Machine(nspawn, folder, console)
    try:
        _await(machine)
    except BaseException:
        machine.stop()
        raise
    return machine


def _places() -> list[str]:
    """The checkout, its packages, its interpreter; and binds for those on another file system."""
    packages = os.path.realpath(site.getsitepackages()[0])  # a link would lead out of the machine's own root
    places = [str(CHECKOUT), packages, sys.base_prefix]
    elsewhere = [
        place for place in (str(CHECKOUT), str(venv().resolve()), sys.base_prefix) if _is_elsewhere(place)
    ]
    return [*places, *(f"--bind-ro={place}" for place in elsewhere)]


def _is_elsewhere(place: str) -> bool:
    return os.stat(place).st_dev != os.stat("/").st_dev


def _await(machine: Machine) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        assert machine.nspawn.poll() is None, machine.console.read_text(errors="replace")
        machine.leader = machine.leader or _first_child(machine.nspawn.pid)
        if machine.leader and _is_up(machine):
            return
        time.sleep(0.05)
    raise AssertionError(f"it did not come up: {machine.console.read_text(errors='replace')}")


def _first_child(pid: int) -> int:
    """The container's process 1: nspawn's child whose pid namespace is another."""
    children: Sequence[str] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = os.readlink("/proc/self/ns/pid")
    for child in children:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{child}/ns/pid") != own:
                return int(child)
    return 0


def _is_up(machine: Machine) -> bool:
    state = machine.run("systemctl", "is-system-running", timeout_s=20).stdout.strip()
    return state in ("running", "degraded")
