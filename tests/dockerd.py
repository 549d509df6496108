"""A Docker Engine of the tests' own: all in one folder, no bridge, one image of busybox."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docker import APIClient

IMAGE = "busybox:test"
_START_S = 60.0
_APPLETS = "sh sleep echo cat ls env true false tr id touch mkdir rm dd yes seq kill trap".split()  # noqa: SIM905


def missing() -> str:
    """What is lacking for an engine here, or an empty string."""
    for program in ("dockerd", "containerd", "busybox"):
        if not shutil.which(program):
            return f"{program} is not installed. Run: apt-get install docker.io busybox-static"
    return ""


@dataclass
class Engine:
    folder: Path
    process: subprocess.Popen[bytes]
    containerd: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> APIClient:
        return APIClient(base_url=f"http+unix://{self.socket}", version="auto", timeout=30)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))
    with (folder / "log").open("wb") as log:
        started = [
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            for argv in (_containerd(folder), _dockerd(folder))
        ]
    engine = Engine(folder, started[1], started[0])
    try:
        _await(engine)
        with contextlib.closing(engine.client()) as client:
            client.import_image_from_data(_busybox(), repository=IMAGE.partition(":")[0], tag="test")
        yield engine
    finally:
        _stop(engine)


def _containerd(folder: Path) -> list[str]:
    """One of its own: dockerd takes the machine's, alive or not, where there is a socket of one."""
    places = {"root": "containerd", "state": "state", "address": "c.sock"}
    return ["containerd", *(f"--{option}={folder}/{name}" for option, name in places.items())]


def _dockerd(folder: Path) -> list[str]:
    return [
        "dockerd", f"--data-root={folder}/data", f"--exec-root={folder}/exec", "-H", f"unix://{folder}/docker.sock",
        f"--containerd={folder}/c.sock", f"--pidfile={folder}/pid",
        "--iptables=false", "--ip6tables=false", "--bridge=none",
        "--storage-driver=vfs",  # works on any file system, and the image is small
    ]  # fmt: skip


def _await(engine: Engine) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert engine.process.poll() is None, engine.log()
        if engine.socket.exists():
            with contextlib.suppress(Exception), contextlib.closing(engine.client()) as client:
                client.ping()
                return
        time.sleep(0.1)
    raise AssertionError(f"the engine did not come up: {engine.log()}")


def _stop(engine: Engine) -> None:
    with contextlib.suppress(Exception), contextlib.closing(engine.client()) as client:
        for found in client.containers(all=True):
            client.remove_container(found["Id"], force=True)
    for process in (engine.process, engine.containerd):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    # dockerd leaves the namespace of containers without a network mounted behind it.
    for mounted in engine.folder.glob("exec/netns/*"):
        subprocess.run(["umount", str(mounted)], check=False, capture_output=True)
    shutil.rmtree(engine.folder, ignore_errors=True)


def _busybox() -> bytes:
    """An image's files: busybox and its names."""
    packed = io.BytesIO()
    program = shutil.which("busybox")
    assert program is not None
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(Path(program).resolve(), "bin/busybox")
        for name in _APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for folder in ("tmp", "etc"):
            made = tarfile.TarInfo(folder)
            made.type, made.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(made)
    return packed.getvalue()
