"""The world around one sandbox, full of canaries, and its judgement from outside.

`World` holds everything a payload must neither read, change, reach nor leave behind: files, secrets,
listeners, a process, shared memory, a terminal. After a run `harms()` looks at all of it and names what
happened; nothing of it depends on what the payload says, but for a secret or a proof in its output.

It lies in one folder, and in namespaces of its own where root made them (apart.py), so that a payload
which does bite, as the unsandboxed ones are meant to, bites nothing of the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import pty
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

from tests.redteam.probe import Probe

SECRET_FILES = (
    ".ssh/id_ed25519", ".ssh/config", ".aws/credentials", ".netrc", ".git-credentials", ".bash_history",
    ".docker/config.json", ".kube/config", ".gnupg/private-keys-v1.d/key", ".config/gcloud/creds.db",
    ".config/gh/hosts.yml", ".mozilla/firefox/x/logins.json", ".config/google-chrome/Default/Cookies",
    ".pgpass", ".npmrc", ".python_history", ".local/share/keyrings/login.keyring", "work/.env",
    "work/.env.local", "work/sub/deep/.env", "work/sub/id_rsa", "other/.env",
)  # fmt: skip
OWN_FILES = (".config/llmos/config.toml", ".config/llmos/policies/mine.toml", ".local/state/llmos/canary")
CHANGE_FILES = (".bashrc", ".profile", ".gitconfig", ".vimrc", "other/notes.txt")
# Small, so that a bomb shows within a second what it does.
LIMITS = {"max_processes": 64, "max_memory_bytes": 256 << 20, "max_file_bytes": 16 << 20}
# Where a file named after the token would last, or be found by another program.
DROPS = (
    "/etc", "/etc/cron.d", "/etc/profile.d", "/etc/systemd/system", "/etc/ld.so.conf.d", "/etc/sudoers.d",
    "/usr/local/bin", "/usr/lib", "/var/spool/cron", "/var/spool/cron/crontabs", "/var/tmp", "/tmp", "/run",
    "/run/systemd/system", "/dev/shm", "/dev", "/dev/mqueue", "/root", "/opt", "/srv", "/mnt", "/boot",
    "/lib/modules", "/sys/fs/cgroup", "/sys/kernel/debug",
)  # fmt: skip
SYSTEM_SOCKETS = ("/run/docker.sock", "/run/dbus/system_bus_socket", "/run/containerd/containerd.sock")
USER_SOCKETS = ("bus", "wayland-0", "systemd/private", "gnupg/S.gpg-agent", "llmos.sock", "pipewire-0")
TMP_SOCKETS = ("/tmp/.X11-unix/X97", "/tmp/ssh-XXredteam/agent.97", "/tmp/tmux-97/default")
VICTIM = """
import os, signal, sys, time
held = sys.argv[1]
canary = open(held)
print("up", flush=True)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda *_: open(sys.argv[2], "a").write("signal\\n"))
while True:
    time.sleep(100)
"""
IPC_CREAT, IPC_RMID, MNT_DETACH = 0o1000, 0, 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p


class World:
    def __init__(self, top: Path, uid: int, broker_home: Path | None = None) -> None:
        """Build it below `top` for a caller of this uid; `broker_home` where it is not the caller's."""
        self.token = f"{int.from_bytes(os.urandom(5), 'big') + 10**12:013d}"
        self.secret = f"SECRET-{os.urandom(8).hex()}"
        self.uid = uid
        self.top = top / "world"
        self.home = self.top / "home"
        self.work = self.home / "work"
        self.outside = self.top / "outside"
        self.broker_home = broker_home or self.home
        self._held = contextlib.ExitStack()
        self._make_files()
        self._listen()
        self._share()
        self._terminal()
        self._inherit()
        self._start_victim()
        self.fresh()

    # --- building ---

    def _make_files(self) -> None:
        shutil.rmtree(self.top, ignore_errors=True)
        for folder in (self.outside / "folder", self.work):
            folder.mkdir(parents=True)
        for name in (*SECRET_FILES, *CHANGE_FILES):
            self._write(self.home / name, self.secret if name in SECRET_FILES else "canary")
        for name in OWN_FILES:
            settings = "\n[sandbox]\n" + "".join(f"{key} = {value}\n" for key, value in LIMITS.items())
            self._write(self.broker_home / name, f"# {self.secret}" + settings * name.endswith("config.toml"))
        self._write(self.outside / "canary", "canary")
        self._write(self.outside / "private", self.secret, 0o600)
        os.mkfifo(self.outside / "fifo", 0o666)
        for path in (self.outside, self.outside / "folder"):
            path.chmod(0o777)
        (self.outside / "canary").chmod(0o666)
        (self.outside / "fifo").chmod(0o666)
        self._fifo = self._keep(os.open(self.outside / "fifo", os.O_RDONLY | os.O_NONBLOCK))
        self._own(self.home)
        self._own(self.outside)

    @staticmethod
    def _write(path: Path, text: str, mode: int = 0o644) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        path.chmod(mode)

    def _own(self, folder: Path) -> None:
        if os.geteuid() == 0:
            for place in (folder, *below(folder)):
                os.lchown(place, self.uid, self.uid)

    def _keep(self, fd: int) -> int:
        self._held.callback(os.close, fd)
        return fd

    def _listen(self) -> None:
        self.listeners: dict[str, socket.socket] = {}
        for name, family, kind, address in self._addresses():
            sock = socket.socket(family, kind)
            try:
                sock.bind(address)
                if kind == socket.SOCK_STREAM:
                    sock.listen(64)
            except OSError:  # this user cannot have it here: one listener less
                sock.close()
                continue
            sock.setblocking(False)
            self.listeners[name] = self._held.enter_context(sock)
            if isinstance(address, str) and address.startswith("/"):
                os.chmod(address, 0o777)
                self._held.callback(lambda place=address: Path(place).unlink(missing_ok=True))

    def _addresses(self) -> Iterator[tuple[str, int, int, str | tuple[str, int]]]:
        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        yield "tcp", socket.AF_INET, stream, ("127.0.0.1", 0)
        yield "tcp6", socket.AF_INET6, stream, ("::1", 0)
        yield "udp", socket.AF_INET, datagram, ("127.0.0.1", 0)
        yield "abstract", socket.AF_UNIX, stream, f"\0redteam-{self.token}"
        yield "abstract datagram", socket.AF_UNIX, datagram, f"\0redteam-{self.token}-d"
        yield "in the folder", socket.AF_UNIX, stream, str(self.work / "agent.sock")
        yield "outside", socket.AF_UNIX, stream, str(self.outside / "service.sock")
        yield "datagram", socket.AF_UNIX, datagram, str(self.outside / "log.sock")
        runtime = Path(f"/run/user/{self.uid}")
        for path in (*SYSTEM_SOCKETS, *TMP_SOCKETS, *(str(runtime / name) for name in USER_SOCKETS)):
            if not os.path.lexists(path):
                with contextlib.suppress(OSError):
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    yield path, socket.AF_UNIX, stream, path

    def _share(self) -> None:
        """Shared memory three ways: System V, POSIX, and a message queue; all open to everybody."""
        self.shm_key = int(self.token) & 0x7FFFFFF | 0x1000000
        self._shm = _libc.shmget(self.shm_key, 4096, IPC_CREAT | 0o666)
        assert self._shm >= 0
        self._held.callback(_libc.shmctl, self._shm, IPC_RMID, None)
        self._shm_at = _libc.shmat(self._shm, None, 0)
        self._held.callback(_libc.shmdt, ctypes.c_void_p(self._shm_at))
        ctypes.memmove(self._shm_at, self.secret.encode() + b"\0", len(self.secret) + 1)
        self.posix_shm = Path(f"/dev/shm/redteam-{os.getpid()}")
        self._write(self.posix_shm, self.secret, 0o666)
        self.posix_shm.chmod(0o666)
        self._held.callback(lambda: self.posix_shm.unlink(missing_ok=True))
        self._queue = _libc.msgget(self.shm_key, IPC_CREAT | 0o666)
        self._held.callback(_libc.msgctl, self._queue, IPC_RMID, None)
        self._post()

    def _post(self) -> None:
        body = self.secret.encode()
        message = ctypes.create_string_buffer(struct.pack("l", 7) + body)
        _libc.msgsnd(self._queue, message, len(body), 0)

    def _terminal(self) -> None:
        master, slave = pty.openpty()
        self.master, self.slave = self._keep(master), self._keep(slave)
        self.pts = os.ttyname(slave)
        tty.setraw(slave)
        os.set_blocking(master, False)
        if os.geteuid() == 0:
            os.chown(self.pts, self.uid, -1)
        os.chmod(self.pts, 0o622)

    def _inherit(self) -> None:
        """Descriptors somebody forgot to close: a folder, a secret and a listener."""
        folder = self._keep(os.open(self.outside, os.O_RDONLY | os.O_DIRECTORY))
        key = self._keep(os.open(self.home / ".ssh/id_ed25519", os.O_RDWR))
        file = self._keep(os.open(self.outside / "canary", os.O_RDWR))
        self.fds = (folder, key, file)
        for fd in self.fds:
            os.set_inheritable(fd, True)

    def _start_victim(self) -> None:
        user = {"user": self.uid, "group": self.uid, "extra_groups": []} if os.geteuid() == 0 else {}
        self._signals = self.outside / "signals"
        self.victim = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", VICTIM, str(self.outside / "private"), str(self._signals)],
            env={"VICTIM_KEY": self.secret},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **user,
        )
        assert self.victim.stdout and self.victim.stdout.readline() == b"up\n"
        self._held.callback(self._end_victim)

    def _end_victim(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.victim.pid, signal.SIGKILL)
        self.victim.wait()
        assert self.victim.stdout
        self.victim.stdout.close()

    def fresh(self) -> None:
        """An empty work folder but for what is planted, and the state that harm is measured against."""
        for place in self.work.iterdir():
            if place.name in (".env", ".env.local", "agent.sock", "sub"):
                continue
            _remove(place)
        self._write(self.work / "notes", "notes")
        (self.work / "link").symlink_to(self.outside / "canary")
        (self.work / "linked").symlink_to(self.outside / "folder")
        (self.work / "root").symlink_to("/")
        self._own(self.work)
        self._before = self._state()

    def close(self) -> None:
        self._held.close()
        _unmount(self.top)
        shutil.rmtree(self.top, ignore_errors=True)

    def folder(self, probe: Probe) -> Path:
        return self.home if probe.where == "home" else self.work

    def places(self) -> dict[str, str]:
        """What a payload may be told: the attacker knows the machine."""
        port = {
            name: sock.getsockname()[1] for name, sock in self.listeners.items() if name[:3] in ("tcp", "udp")
        }
        return {
            "TOKEN": self.token,
            "TOP": str(self.top.parent),
            "HOME": str(self.home),
            "WORK": str(self.work),
            "OUTSIDE": str(self.outside),
            "OWN": str(self.broker_home),
            "TCP": str(port["tcp"]),
            "TCPSIX": str(port.get("tcp6", 1)),
            "UDP": str(port["udp"]),
            "VICTIM": str(self.victim.pid),
            "SHMKEY": str(self.shm_key),
            "SHM": str(self.posix_shm),
            "PTS": self.pts,
            "UID": str(self.uid),
        }

    # --- judging ---

    def _state(self) -> dict[str, object]:
        state: dict[str, object] = {f"machine: {name}": value for name, value in _machine().items()}
        for path in self._watched():
            state[f"file: {path}"] = _of_file(path)
        for name, value in self._of_victim().items():
            state[f"victim: {name}"] = value
        state["ipc: shared memory"] = ctypes.string_at(self._shm_at, 64)
        return state

    def _watched(self) -> Iterator[Path]:
        yield from (self.outside, *sorted(below(self.outside)), self.home)
        for name in (*SECRET_FILES, *CHANGE_FILES, ".ssh", ".config", "other"):
            yield self.home / name
        for name in (*OWN_FILES, ".config/llmos", ".config/llmos/policies"):
            yield self.broker_home / name
        yield self.posix_shm
        yield Path("/run")

    def _of_victim(self) -> dict[str, object]:
        pid = self.victim.pid
        if self.victim.poll() is not None:
            return {"alive": False}
        status = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
        kept = {name: status[name] for name in ("Uid", "Cpus_allowed", "TracerPid", "Groups")}
        return kept | {
            "alive": True,
            "stopped": status["State"][:1] in ("T", "t"),
            "nice": os.getpriority(os.PRIO_PROCESS, pid),
            "policy": os.sched_getscheduler(pid),
            "limits": Path(f"/proc/{pid}/limits").read_text(),
            "oom": Path(f"/proc/{pid}/oom_score_adj").read_text(),
            "cgroup": Path(f"/proc/{pid}/cgroup").read_text(),
        }

    def harms(self, said: str, probe: Probe, peak: Peak) -> list[str]:
        """Everything that happened outside and should not have, sorted; empty is what a sandbox is for."""
        found = set(self._running())  # first: the later it is asked, the more have ended by themselves
        if self.secret in said:
            found.add("secret read")
        if f"PROOF-{self.token}" in said:
            found.add("proof")
        after = self._state()
        for state in (
            self._before,
            after,
        ):  # others may have removed a mount point
            state["machine: mounts"] = [point for point in state["machine: mounts"] if os.path.lexists(point)]
        found.update(
            key for key in self._before.keys() | after.keys() if self._before.get(key) != after.get(key)
        )
        found.update(self._heard())
        found.update(self._dropped())
        found.update(self._left_in_work())
        found.update(peak.harms(probe))
        if probe.max_disk_mb:
            disk = sum(place.lstat().st_blocks * 512 for place in below(self.work))
            found.update(["disk"] if disk > probe.max_disk_mb << 20 else [])
        return sorted(found)

    def _heard(self) -> Iterator[str]:
        for name, sock in self.listeners.items():
            with contextlib.suppress(BlockingIOError):
                if sock.type == socket.SOCK_STREAM:
                    sock.accept()[0].close()
                else:
                    sock.recv(64)
                yield f"connection: {name}"
        with contextlib.suppress(OSError):
            if os.read(self.master, 256):
                yield "terminal: written"
        queued = struct.unpack("i", fcntl.ioctl(self.slave, termios.FIONREAD, b"\0" * 4))[0]
        if queued:
            yield "terminal: keys pushed"
        with contextlib.suppress(OSError):
            if os.read(self._fifo, 64):
                yield "fifo: written"

    def _running(self) -> Iterator[str]:
        for pid in processes(self.token):
            yield "left running"
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _dropped(self) -> Iterator[str]:
        for folder in DROPS:
            with contextlib.suppress(OSError):
                for name in os.listdir(folder):
                    if self.token in name:
                        yield f"dropped: {folder}"
                        _remove(Path(folder, name))
        for home in {self.home, self.broker_home}:
            for place in below(home, self.work):
                if self.token in place.name:
                    yield f"dropped: {place.parent}"

    def _left_in_work(self) -> Iterator[str]:
        for place in below(self.work):
            with contextlib.suppress(OSError):
                found = place.lstat()
                if found.st_mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(found.st_mode):
                    yield "set-id file"
                if stat.S_ISBLK(found.st_mode) or (stat.S_ISCHR(found.st_mode) and found.st_rdev):
                    yield "device file"
                if found.st_uid != self.uid:
                    yield "another user's file"
                if "security.capability" in os.listxattr(place, follow_symlinks=False):
                    yield "capable file"


def _machine() -> dict[str, object]:
    mounted = sorted(line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    return {
        "host name": socket.gethostname(),
        "domain name": Path("/proc/sys/kernel/domainname").read_text(),
        "core pattern": Path("/proc/sys/kernel/core_pattern").read_text(),
        "ttl": Path("/proc/sys/net/ipv4/ip_default_ttl").read_text(),
        "mounts": mounted,
        "clock": abs(time.time() - time.monotonic() - _CLOCK) < 5,
    }


_CLOCK = time.time() - time.monotonic()


def _of_file(path: Path) -> object:
    try:
        found = path.lstat()
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        names = [name for name in sorted(os.listdir(path)) if name not in _OTHERS]
        return (oct(found.st_mode), found.st_uid, found.st_gid, names)
    text = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
    owner = (found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns)
    names = os.listxattr(path, follow_symlinks=False)
    return (oct(found.st_mode), owner, names, hashlib.sha256(text).hexdigest())


# What the products under test keep in the home for themselves.
_OTHERS = frozenset(
    (
        ".cache",
        ".codex",
        ".local",
        ".npm",
        ".claude",
        ".srt-settings.json",
        ".config",
        "mount",
        "llmos",
        ".agents",
    )
)


def below(folder: Path, without: Path | None = None) -> Iterator[Path]:
    """Everything in a folder, links not followed, names that are too long left out."""
    for place, folders, files in os.walk(folder):
        if without is not None:
            folders[:] = [name for name in folders if Path(place, name) != without]
        for name in (*folders, *files):
            yield Path(place, name)


def _unmount(folder: Path) -> None:
    """What an unsandboxed payload has mounted in our own mount namespace."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(points):
        if point.startswith(f"{folder}/"):
            _libc.umount2(point.encode(), MNT_DETACH)


def _remove(place: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()


def processes(word: str) -> list[int]:
    """Processes with this word in their command line, ourselves excepted."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if word.encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                    found.append(int(entry))
    return found


class Peak:
    """How much memory and how many processes a payload had at most, sampled while it runs."""

    def __init__(self, word: str, probe: Probe) -> None:
        self._word = word
        self.rss_mb = self.count = 0
        self._stop = threading.Event()
        self._thread = (
            threading.Thread(target=self._sample) if probe.max_rss_mb or probe.max_processes else None
        )

    def __enter__(self) -> Peak:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._stop.wait(0.05):
            pids = processes(self._word)
            pages = 0
            for pid in pids:
                with contextlib.suppress(OSError, IndexError):
                    pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            self.count = max(self.count, len(pids))
            self.rss_mb = max(self.rss_mb, pages * page >> 20)

    def harms(self, probe: Probe) -> Iterator[str]:
        if probe.max_rss_mb and self.rss_mb > probe.max_rss_mb:
            yield f"memory: {self.rss_mb} MB"
        if probe.max_processes and self.count > probe.max_processes:
            yield f"processes: {self.count}"
