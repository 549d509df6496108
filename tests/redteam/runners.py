"""The ways to run a payload: without a sandbox, through llmos, and through what others have.

Each takes the same argv in the same world, from a parent with the same forgotten descriptors, the same
secret in its environment and the same terminal, and gives back what was printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from llmos.config import SandboxSettings
from llmos.errors import LlmosError
from llmos.guard.sandbox import PATH
from llmos.guard.spawn import Spawner
from llmos.messages import Caller, Run
from tests.guard.boxes import permit
from tests.redteam.probe import Probe
from tests.redteam.world import LIMITS, World

PEERS_BIN = "/opt/peers/bin:/opt/peers/node_modules/.bin"  # or anywhere in the PATH
SRT_SETTINGS = {
    "network": {"allowedDomains": [], "deniedDomains": []},
    "filesystem": {
        "denyRead": ["~/.ssh", "~/.aws", "~/.netrc", "~/.git-credentials", "~/.gnupg"],
        "allowWrite": ["."],
        "denyWrite": [".env"],
    },
}


class Runner(Protocol):
    def run(self, probe: Probe, world: World) -> str: ...
    def close(self) -> None: ...


def _environment(world: World, home: Path | None = None) -> dict[str, str]:
    return {
        "PATH": f"{PEERS_BIN}:{PATH}",
        "HOME": str(home or world.home),
        "LANG": "C.UTF-8",
        "AWS_SECRET_ACCESS_KEY": world.secret,
        "SSH_AUTH_SOCK": "/tmp/ssh-XXredteam/agent.97",
    }


def _killed(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """What it printed; at the time limit its session is killed, as a caller with a time limit does."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=2)
            return _text(out, err)
        # A descendant keeps the pipe open. What it says from here on nobody hears.
        for stream in (process.stdout, process.stderr):
            assert stream
            stream.close()
        process.wait(5)
        return ""
    return _text(out, err)


def _text(out: bytes, err: bytes) -> str:
    return out.decode(errors="replace") + err.decode(errors="replace")


class Command:
    """A payload behind a prefix of words: nothing at all, or somebody's sandbox."""

    def __init__(self, wrap: Callable[[Path, tuple[str, ...]], list[str]]) -> None:
        self._wrap = wrap

    def run(self, probe: Probe, world: World) -> str:
        def at_the_terminal() -> None:
            fcntl.ioctl(world.slave, termios.TIOCSCTTY, 0)

        user = {"user": world.uid, "group": world.uid, "extra_groups": []} if os.geteuid() == 0 else {}
        process = subprocess.Popen(
            self._wrap(world.folder(probe), probe.argv(world.places())),
            cwd=world.folder(probe),
            env=_environment(world),
            stdin=subprocess.PIPE if probe.data else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=world.fds,
            start_new_session=True,
            preexec_fn=at_the_terminal,  # noqa: PLW1509 - the only other thread takes samples and no locks
            **user,
        )
        if probe.data:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(probe.data.encode())
        return _killed(process, probe.timeout_s)

    def close(self) -> None:
        pass


class Sandboxed:
    """Through llmos' own spawner, as the broker does it, with a permit that grants the work folder.

    With `hosts`, these machines as well: a network, and with it sockets, where otherwise there are none.
    """

    def __init__(self, hosts: tuple[str, ...] = ()) -> None:
        self._hosts = hosts
        os.environ["AWS_SECRET_ACCESS_KEY"] = "not yet"
        self._spawner = Spawner(SandboxSettings(**LIMITS))

    def run(self, probe: Probe, world: World) -> str:
        os.environ["AWS_SECRET_ACCESS_KEY"] = world.secret
        step = Run(argv=probe.argv(world.places()), timeout_s=probe.timeout_s, stdin_data=bool(probe.data))
        caller, folder = Caller(uid=world.uid, gid=world.uid), world.folder(probe)
        data = probe.data.encode() or None
        granted = permit(
            step,
            cwd=folder,
            write=(folder,),
            data=data,
            caller=caller,
            network=bool(self._hosts),
            hosts=self._hosts,
        )
        try:
            outcome = asyncio.run(self._spawner.run(granted))
        except LlmosError as error:
            return f"no sandbox: {error}"
        return outcome.stdout + outcome.stderr

    def close(self) -> None:
        self._spawner.close()


class CommandLine:
    """Through everything: `llmos call shell.run --yes`, the daemon, the policy, the journal."""

    def __init__(self, socket: Path, world: World) -> None:
        self._env = {
            **_environment(world, world.broker_home),
            "LLMOS_SOCKET": str(socket),
            "XDG_RUNTIME_DIR": str(socket.parent),
            "PYTHONPATH": os.environ["PYTHONPATH"],
            "LLMOS_FORKS_DIR": os.environ.get("LLMOS_FORKS_DIR", ""),
        }
        socket.parent.mkdir(mode=0o700, exist_ok=True)
        self._daemon = subprocess.Popen(
            [sys.executable, "-m", "llmos", "daemon", "--socket", str(socket)],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=world.fds,
            cwd="/",
        )
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert time.monotonic() < deadline, "the daemon did not come up"
            time.sleep(0.05)

    def run(self, probe: Probe, world: World) -> str:
        command = shlex.join(probe.argv(world.places()))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "llmos", "call", "shell.run", "--yes", "--json"),
                *("--args", json.dumps({"command": command})),
            ],
            cwd=world.folder(probe),
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        said = _killed(process, 90)
        with contextlib.suppress(ValueError):
            calls = json.loads(said.splitlines()[0])["calls"]
            return "".join(call["stdout"] + call["stderr"] for call in calls)
        return said

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait(20)


# --- the peers -------------------------------------------------------------------------------------


def _codex(folder: Path, argv: tuple[str, ...]) -> list[str]:
    return ["codex", "sandbox", "-c", 'sandbox_mode="workspace-write"', "--", *argv]


def _srt(folder: Path, argv: tuple[str, ...]) -> list[str]:
    settings = folder / ".srt-settings.json"
    settings.write_text(json.dumps(SRT_SETTINGS))
    settings.chmod(0o644)
    return ["srt", "-s", str(settings), "-c", shlex.join(argv)]


def _bwrap(folder: Path, argv: tuple[str, ...]) -> list[str]:
    work = str(folder)
    options = (
        "--unshare-all",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--bind",
        work,
        work,
    )
    return ["bwrap", *options, "--", *argv]


PEERS: Mapping[str, Callable[[Path, tuple[str, ...]], list[str]]] = {
    "codex": _codex,
    "srt": _srt,
    "bwrap": _bwrap,
}


def installed_peers() -> Iterator[str]:
    for name in PEERS:
        if shutil.which(name, path=f"{PEERS_BIN}:{os.environ['PATH']}"):
            yield name


def make(name: str, world: World) -> Runner:
    if name == "none":
        return Command(lambda folder, argv: list(argv))
    if name == "llmos":
        return Sandboxed()
    if name == "named":
        return Sandboxed(hosts=("192.0.2.1:443",))
    if name == "cli":
        return CommandLine(Path(f"/run/user/{os.geteuid()}/rt/s.sock"), world)
    return Command(PEERS[name])
