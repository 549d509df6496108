"""The layers around a process but for its tree, as steps: who it is, what it may and holds, the filter.

Each function gives one part, in the order of `sandbox.plan`. Most are the same for all calls of a kind, and
kept. Sources: prctl(2), capabilities(7), user_namespaces(7), getrlimit(2), landlock(7), seccomp(2).
Standard library only, because the launcher runs without site-packages.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import stat
import struct
from functools import lru_cache

from llmos.guard import kernel, landlock, mounts, mountsteps
from llmos.guard.ground import DEVICE
from llmos.guard.machine import ANY, KILLS_FD, STATUS_FD
from llmos.guard.mounts import AT_FDCWD
from llmos.guard.sandbox import Limits
from llmos.guard.steps import (
    KILLS,
    LAUNCHER,
    OWN_PROC,
    PROC,
    STATUS,
    STDERR,
    STDIN,
    STDOUT,
    TERMINALS,
    Label,
    Register,
    Steps,
)

_FIRST_FREE_FD = 16
_F_DUPFD_CLOEXEC = 1030


@lru_cache(maxsize=8)
def prepared(entrances: tuple[str, ...]) -> bytes:
    """What a fork can do before it knows its job: enter its control group by these files
    (`cgroups.Hierarchy.entrances`), and make file systems of its namespaces, mounted nowhere yet."""
    s = Steps()
    with s.of("cgroup"):
        for file in entrances:
            mountsteps.write_file(s, AT_FDCWD, file, "0")
    plain = mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
    with s.of("namespaces"):
        s.call("unshare", kernel.CLONE_NEWCGROUP)
    with s.of("proc"):
        mountsteps.proc(s, OWN_PROC, attrs=plain)  # writable, for ourselves
        mountsteps.proc(s, PROC, attrs=plain | mounts.ATTR_RDONLY)
    with s.of("mount-api"):
        mountsteps.devpts(s, TERMINALS, attrs=DEVICE)
    return s.part()


@lru_cache(maxsize=1)
def session() -> bytes:
    s = Steps()
    with s.of("launcher"):
        s.call("setsid")
    return s.part()


@lru_cache(maxsize=32)
def identity(uid: int, gid: int, groups: tuple[int, ...], *, privileged: bool) -> bytes:
    """Give up root for good: groups first, then gid and uid, all three of each. Never host uid 0: this is
    where ids still mean what they mean on the host."""
    s = Steps()
    with s.of("identity"):
        if privileged:
            s.call("setgroups", len(groups), s.pack(f"={len(groups)}I", *groups))
            s.call("setresgid", gid, gid, gid)
            s.call("setresuid", uid, uid, uid)
            # For the moment: it must write its own map.
            s.call("prctl", kernel.PR_SET_DUMPABLE, 1, what="prctl dumpable")
        ids, root, other = s.space(16), Label(), Label()
        s.call("getresuid", ids.at(0, 4), ids.at(4, 4), ids.at(8, 4))
        for place in (0, 4, 8):
            s.jump_if(s.load(ids.at(place, 4)), 0, root)
        s.jump(other)
        s.place(root)
        s.fail("refusing to run a command as host uid 0")
        s.place(other)
    return s.part()


@lru_cache(maxsize=32)
def runtime(folders: tuple[str, ...], name_servers: tuple[str, str]) -> bytes:
    """Private folders below /run, and resolv.conf where that lies in /run."""
    s = Steps()
    with s.of("launcher"):
        s.call("umask", 0o022)
        for path in folders:
            s.call("mkdirat", AT_FDCWD, path, 0o700, what=f"mkdir {path}")
        place, text = name_servers
        if place.startswith("/run/") and text:
            _make_file(s, place, text)
    return s.part()


def _make_file(s: Steps, path: str, text: str) -> None:
    parts = path.split("/")
    for depth in range(3, len(parts)):  # below /run
        folder = "/".join(parts[:depth])
        s.call("mkdirat", AT_FDCWD, folder, 0o777, what=f"mkdir {folder}", ignore=(errno.EEXIST,))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    file = s.fd("openat", AT_FDCWD, path, flags, 0o666, what=f"open {path}")
    mountsteps.write(s, file, text)
    s.call("close", file)


@lru_cache(maxsize=32)
def folder(path: str) -> bytes:
    s = Steps()
    with s.of("cwd"):
        s.call("chdir", path, what=path)
    return s.part()


@lru_cache(maxsize=32)
def users(inside: tuple[int, int], outside: tuple[int, int]) -> bytes:
    """A namespace that owns none of the mounts: whoever gained all capabilities in it cannot mount.

    Where /proc/sys is read-only (a container, a hardened unit) the filter alone forbids a further one.
    """
    s = Steps()
    with s.of("user-namespace"):
        s.call("unshare", kernel.CLONE_NEWUSER)
        mountsteps.write_file(s, OWN_PROC, "self/setgroups", "deny")
        for name, there, here in zip(("uid_map", "gid_map"), inside, outside, strict=True):
            mountsteps.write_file(s, OWN_PROC, f"self/{name}", f"{there} {here} 1")
        mountsteps.write_file(s, OWN_PROC, "sys/user/max_user_namespaces", "0", ignore=(ANY,))
        # Short of memory, the kernel takes the command before the broker.
        mountsteps.write_file(s, OWN_PROC, "self/oom_score_adj", "500", ignore=(ANY,))
    return s.part()


@lru_cache(maxsize=1)
def privileges() -> bytes:
    """No new privileges; every capability out of every set, the bounding set included, with no way to get one
    back; and not to be looked into."""
    s, last = Steps(), Label()
    with s.of("privileges"):
        s.call("prctl", kernel.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, what="prctl no_new_privs")
        s.call("prctl", kernel.PR_SET_SECUREBITS, kernel.SECURE_NOROOT_LOCKED, what="prctl securebits")
        for capability in range(
            kernel.MAX_CAPABILITY + 1
        ):  # until the first one that this kernel does not know
            s.call(
                "prctl", kernel.PR_CAPBSET_DROP, capability, 0, 0, 0,
                what="prctl capbset", ignore=(errno.EINVAL,), otherwise=last,
            )  # fmt: skip
        s.place(last)
        s.call(
            "prctl", kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, what="prctl cap_ambient"
        )
        s.call("capset", s.pack("=2I", kernel.CAPABILITY_VERSION_3, 0), s.space(24))
        s.call("prctl", kernel.PR_SET_DUMPABLE, 0, what="prctl dumpable")
    return s.part()


@lru_cache(maxsize=4)
def streams(*, detached: bool, counted: bool) -> bytes:
    """Standard streams to 0..2, status to 3, the count of memory kills to 4, nothing else open. Unless
    detached, dead with the launcher: from here on the kernel sees to it, and it may have ended before."""
    s = Steps()
    with s.of("launcher"):
        s.call("prctl", kernel.PR_SET_PDEATHSIG, 0 if detached else signal.SIGKILL, what="prctl pdeathsig")
        if not detached:
            alive = Label()
            watched = s.space(8, struct.pack("=iHH", 0, select.POLLIN, 0))
            s.store(LAUNCHER, watched.at(0, 4))
            s.jump_if(s.fd("ppoll", watched, 1, s.pack("=2q", 0, 0), None, 8), 0, alive)
            s.end()
            s.place(alive)
        targets = {
            STDIN: 0,
            STDOUT: 1,
            STDERR: 2,
            STATUS: STATUS_FD,
            **({KILLS: KILLS_FD} if counted else {}),
        }
        high = [s.fd("fcntl", fd, _F_DUPFD_CLOEXEC, _FIRST_FREE_FD) for fd in targets]
        for fd, target in zip(high, targets.values(), strict=True):
            s.call("dup3", fd, target, 0 if target < STATUS_FD else os.O_CLOEXEC)
        s.set(STATUS, STATUS_FD)
        s.call("close_range", len(targets), 0xFFFFFFFF, 0)
    return s.part()


_LIMITS = (
    # 1, not 0: a core_pattern that names a program is started, by host root, for 0 too; 1 stops it (core(5)).
    (resource.RLIMIT_CORE, 1),
    (resource.RLIMIT_MEMLOCK, 8 << 20),
    (resource.RLIMIT_MSGQUEUE, 0),
)


@lru_cache(maxsize=32)
def limits(wanted: Limits) -> bytes:
    """Of each process. Where a tighter one is in force already, that one stays."""
    s = Steps()
    bounds = (
        *_LIMITS,
        (resource.RLIMIT_NPROC, wanted.processes),
        (resource.RLIMIT_DATA, wanted.data_bytes),
        (resource.RLIMIT_FSIZE, wanted.file_bytes),
        (resource.RLIMIT_NOFILE, wanted.open_files),
        *(() if wanted.cpu_s is None else ((resource.RLIMIT_CPU, wanted.cpu_s),)),
    )
    with s.of("launcher"):
        room = s.space(16)  # soft, hard
        for which, value in bounds:
            tighter, done = Label(), Label()
            s.call(
                "prlimit64", 0, which, s.pack("=2Q", value, value), None,
                ignore=(errno.EPERM, errno.EINVAL), otherwise=tighter,
            )  # fmt: skip
            s.jump(done)
            s.place(tighter)
            s.call("prlimit64", 0, which, None, room)
            s.store(s.load(room.at(8, 8)), room.at(0, 8))
            s.call("prlimit64", 0, which, room, None)
            s.place(done)
    return s.part()


@lru_cache(maxsize=32)
def landlocked(version: int, writable: tuple[str, ...], *, network: bool) -> bytes:
    """Fence this process and all it will start (`landlock`). A place that is not there is left out."""
    s = Steps()
    if not version:
        return s.part()
    with s.of("landlock"):
        attr = s.pack("=3Q", *landlock.ruleset(version, network=network))
        ruleset = s.fd("landlock_create_ruleset", attr, attr.length, 0, what="landlock ruleset")
        _allow(s, ruleset, "/", landlock.rights(version, writable=False))
        for path in writable:
            _allow(s, ruleset, path, landlock.rights(version, writable=True))
        s.call("landlock_restrict_self", ruleset, 0, what="landlock restrict")
        s.call("close", ruleset)
    return s.part()


def _allow(s: Steps, ruleset: Register, path: str, rights: int) -> None:
    absent, folder = Label(), Label()
    flags = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
    place = s.fd(
        "openat", AT_FDCWD, path, flags, what=f"open {path}", ignore=(errno.ENOENT,), otherwise=absent
    )
    rule = s.space(12)  # rights, descriptor: packed
    s.store(place, rule.at(8, 4))
    s.store(rights, rule.at(0, 8))
    mountsteps.jump_if_kind(s, mountsteps.kind_of(s, place), stat.S_IFDIR, folder)
    s.store(rights & landlock.OF_A_FILE, rule.at(0, 8))
    s.place(folder)
    s.call("landlock_add_rule", ruleset, landlock.RULE_PATH_BENEATH, rule, 0, what="landlock rule")
    s.call("close", place)
    s.place(absent)


@lru_cache(maxsize=4)
def filtered(bpf: bytes) -> bytes:
    """The system call filter, the last layer, for this process and all it will start, for good."""
    s = Steps()
    with s.of("seccomp"):
        program = s.space(16, struct.pack("=H", len(bpf) // kernel.BPF_INSTRUCTION_BYTES))  # length, address
        s.store(s.constant(bpf), program.at(8, 8))
        s.call("prctl", kernel.PR_SET_SECCOMP, kernel.SECCOMP_MODE_FILTER, program, what="prctl seccomp")
    return s.part()
