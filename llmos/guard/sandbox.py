"""What one sandbox is: a frozen description, the layers it is made of, and what they are granted.

Pure: nothing here touches the system. `orders` makes steps of the layers of `plan`, in their order, which a
process carries out upon itself, so the whole of a sandbox can be compared in a test. Standard library only,
because the launcher runs without site-packages. The order is the protection, each layer standing on its own:

  1. namespaces, made with the process itself: it is pid 1 of a world in which nothing else exists; a control
     group that bounds all of it in sum;
  2. a tree of the host's files, all read-only, no set-id, no devices; then file systems of its own, then
     the write roots, writable; secrets masked last, so that nothing lies over a mask; the old root is gone;
  3. the caller's uid (never 0 on the host), in a user namespace that owns nothing and allows no further one;
  4. limits, no capability, no new privileges, Landlock, the system call filter;
  5. only then our init, which starts the program and cannot be killed or looked into from inside.

Not protected against: bugs of the kernel; named pipes another of the caller's own programs has left open
to him.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from llmos.errors import UsageError

# A uid and gid that nobody has: systemd's table of uids (systemd.io/UIDS-GIDS) leaves 60578..61183 free,
# while 60001 belongs to its homes. A root caller's commands run as this.
STAND_IN_ID = 61000

RUNTIME_TMP = "/run/tmp"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
_UNGRANTABLE = ("/proc", "/sys", "/dev", "/run", "/var/run")


Route = tuple[str, int]  # a numeric address and a TCP port


@dataclass(frozen=True, slots=True)
class UserLimits:
    """Bounds of all calls of one user together; 0: none of that kind."""

    uid: int
    memory_bytes: int = 0
    processes: int = 0
    cpus: float = 0.0

    @property
    def group(self) -> str:
        """The group in which those of their calls lie."""
        return f"llmos-user.{self.uid}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of each process (setrlimit(2)), and of the call in sum (`ControlGroup`).

    Processes are counted per call even without a control group, by the call's user namespace.
    """

    processes: int
    data_bytes: int
    file_bytes: int
    cpu_s: int | None
    open_files: int = 4096
    scratch_bytes: int = 1 << 30  # each of /run and /dev/shm
    memory_bytes: int = (
        1 << 62
    )  # of the whole call, as `processes` and `cpus` are, where there is a control group
    cpus: float = 0.0  # 0: as many as there are
    need_group: bool = False  # no control group, no run
    user: UserLimits | None = None  # of everything the caller runs


@dataclass(frozen=True, slots=True)
class Command:
    """One program to start. An empty `program` is looked for by argv[0] in the PATH of the sandbox."""

    argv: tuple[str, ...]
    program: str = ""
    redirects: tuple[tuple[int, str, str], ...] = ()  # descriptor, `<` `>` `>>` or `>&`, target
    env: tuple[str, ...] = ()  # NAME=value


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands joined by pipes, or a change of folder; `joiner` is empty, `&&`, `||` or `;`."""

    commands: tuple[Command, ...] = ()
    joiner: str = ""
    cd: str | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """One sandbox. `host_uid` is who the kernel sees; `uid` is who the program believes itself to be."""

    script: tuple[Pipe, ...]
    cwd: str
    uid: int
    gid: int
    host_uid: int
    host_gid: int
    groups: tuple[int, ...]  # set only when the broker is root and the caller is not
    id_mapped: bool  # root caller: root's files appear as the stand-in's, and stay root's on disk
    write_roots: tuple[str, ...]
    hidden: tuple[str, ...]
    network: bool
    env: tuple[tuple[str, str], ...]
    limits: Limits
    stage: str = ""  # i-th write root: a view whose changes go to STAGE/i/upper, instead of the root itself
    private: tuple[str, ...] = ()  # shared folders for temporary files, of which the call gets empty ones
    name_servers: tuple[str, str] = (
        "",
        "",
    )  # resolv.conf and its text: it often lies in /run, which is empty
    routes: tuple[Route, ...] = ()  # with `network`: the only addresses and ports it reaches
    hosts_file: str = ""  # what /etc/hosts says then
    detached: bool = False  # outlives the request and the broker
    seen: tuple[tuple[str, int, int], ...] = ()  # folders as the broker knows them: path, device, inode

    def __post_init__(self) -> None:
        assert self.host_uid != 0, "a sandbox never runs as host uid 0"

    @property
    def hosts_network(self) -> bool:
        """Whether it stands in the host's network, and not in one of its own."""
        return self.network and not self.routes


def check_write_roots(roots: tuple[str, ...], hidden: tuple[str, ...]) -> tuple[str, ...]:
    """The roots, sorted, none inside another; raises UsageError for one that can never be granted."""
    for root in roots:
        # normpath keeps a double slash at the start (POSIX gives it a meaning); Linux does not.
        if (
            not root.startswith("/")
            or root.startswith("//")
            or os.path.normpath(root) != root
            or "\0" in root
        ):
            raise UsageError(f"{root!r} is not an absolute, normal path", "Name the folder by its full path.")
        if root == "/" or any(is_within(root, place) for place in _UNGRANTABLE):
            raise UsageError(
                f"{root} can never be made writable for a command",
                "Make the request in the folder to be changed, or name that folder with --write.",
            )
        if any(is_within(root, place) for place in hidden):
            raise UsageError(
                f"{root} holds secrets and is never shown to a command",
                "Change it yourself, outside llmos.",
            )
    kept: list[str] = []
    for root in sorted(set(roots)):
        if not any(is_within(root, other) for other in kept):
            kept.append(root)
    return tuple(kept)


def private_folders(*, works_in: tuple[str, ...], touches: tuple[str, ...]) -> tuple[str, ...]:
    """The shared folders for temporary files in which a call has no business: it gets empty ones of its own.

    Where it works in one, or is to look at something there or at a folder around it, it sees the real one.
    """
    return tuple(
        folder
        for folder in _TEMPORARY
        if not any(is_within(path, folder) for path in (*works_in, *touches))
        and not any(is_within(folder, path) for path in touches)
    )


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def environment(*, uid: int, user: str, home: str, shell: str, language: str) -> tuple[tuple[str, str], ...]:
    """All a program finds in its environment: nothing is inherited from the broker."""
    return (
        ("PATH", PATH),
        ("HOME", home),
        ("USER", user),
        ("LOGNAME", user),
        ("SHELL", shell),
        ("LANG", language),
        ("TERM", "dumb"),
        ("TMPDIR", RUNTIME_TMP),
        ("XDG_RUNTIME_DIR", f"/run/user/{uid}"),
        # Nobody is there to page or to answer.
        ("PAGER", "cat"),
        ("GIT_PAGER", "cat"),
        ("SYSTEMD_PAGER", ""),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        # Nobody may make a set-id file here; tar, which believes itself to be root, would fail over it.
        ("TAR_OPTIONS", "--no-same-permissions"),
    )


# --- the plan ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Namespaces:
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group of its own, entered first, so that all memory of the call counts; then its cgroup namespace."""

    memory_bytes: int
    processes: int
    cpus: float
    needed: bool
    user: UserLimits | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """`what` is one of host, devices, tmpfs, private, proc, terminals, granted, staged, names, masked.

    The first two are prepared by the launcher (`template`).
    """

    point: str
    what: str
    num_bytes: int = 0
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class Reach:
    """The only machines there are: listened for here, carried on by the broker (`relay`)."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class NewRoot:
    """The assembled tree becomes the root, and the host's is let go."""


@dataclass(frozen=True, slots=True)
class Identity:
    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Runtime:
    """Private folders below /run."""

    folders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    path: str


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """`inside` becomes the one id there is, and no further user namespace can be made."""

    inside: tuple[int, int]
    outside: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Streams:
    """Standard streams and the status socket, all else closed; unless detached, dead with the launcher."""

    detached: bool


@dataclass(frozen=True, slots=True)
class NoPrivileges:
    """No capability in any set, no new privileges by exec, not to be looked into."""


@dataclass(frozen=True, slots=True)
class Landlock:
    writable: tuple[str, ...]
    network: bool


@dataclass(frozen=True, slots=True)
class SystemCalls:
    """The filter that came with the job."""


Step = (
    Namespaces | ControlGroup | Reach | Mount | NewRoot | Identity | Runtime | Folder | UserNamespace
    | NoPrivileges | Streams | Limits | Landlock | SystemCalls
)  # fmt: skip


def namespaces(*, network: bool) -> Namespaces:
    """Made by the launcher, which for that has root or, without, a user namespace that it lives in itself."""
    return Namespaces(("mount", "pid", "ipc", "uts", *(() if network else ("net",))))


def plan(box: Box) -> tuple[Step, ...]:
    """The layers around `box`, outermost first, in the order in which they are put up."""
    limits, scratch = box.limits, box.limits.scratch_bytes
    return (
        namespaces(network=box.hosts_network),
        ControlGroup(limits.memory_bytes, limits.processes, limits.cpus, limits.need_group, limits.user),
        *((Reach(box.routes),) if box.routes else ()),
        Mount("/", "host"),
        Mount("/dev", "devices"),
        Mount("/run", "tmpfs", scratch),
        *(Mount(folder, "private", scratch, 0o1777) for folder in box.private),
        Mount("/proc", "proc"),
        Mount("/dev/shm", "tmpfs", scratch, 0o1777),  # noqa: S108
        Mount("/dev/pts", "terminals"),
        *(Mount(root, "staged" if box.stage else "granted") for root in sorted(box.write_roots)),
        *((Mount("/etc/hosts", "names"),) if box.routes else ()),
        *(Mount(path, "masked") for path in box.hidden),
        NewRoot(),
        Identity(box.host_uid, box.host_gid, box.groups),
        Runtime((RUNTIME_TMP, "/run/lock", "/run/user", f"/run/user/{box.uid}")),
        Folder(box.cwd),
        UserNamespace((box.uid, box.gid), (box.host_uid, box.host_gid)),
        NoPrivileges(),
        Streams(box.detached),
        limits,
        Landlock((*sorted(box.write_roots), *box.private, "/run", "/dev"), box.network),
        SystemCalls(),
    )
