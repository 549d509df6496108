"""What one sandbox is: a frozen description, and the bubblewrap arguments that follow from it.

Pure: nothing here touches the system. `launcher` assembles the tree a `Box` describes and `spawn`
starts it, so the same box can be compared whole in a test. Standard library only, because the
launcher runs without site-packages.

The order of protection, each layer on its own:
  1. a tree of the host's files, all read-only, no set-id, no devices, assembled before bubblewrap;
     the write roots are mounted over it writable, secrets are masked, /run is empty;
  2. bubblewrap: new user, mount, pid, ipc, uts, cgroup and (unless granted) network namespaces, no
     capabilities, an own /proc and a minimal /dev;
  3. a seccomp filter, no_new_privs, limits, no inherited descriptor, an environment of our own.

Bubblewrap itself creates mount points only in /proc and /dev of the read-only tree and in its own /dev,
never below anything a caller can write: so CVE-2026-87766 (a symlink below a writable bind redirects
bubblewrap's mount points) has nothing to redirect.

Not protected against: bugs of the kernel; memory in sum (limits are per process); named pipes another
of the caller's own programs has left open to him.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from llmos.errors import UsageError

# A uid and gid that nobody has: systemd's table of uids (systemd.io/UIDS-GIDS) leaves 60578..61183 free,
# while 60001 belongs to its homes. A root caller's commands run as this.
STAND_IN_ID = 61000

TREE = "/tree"  # where the launcher's root holds the finished tree
STATUS_FD = 3
SECCOMP_FD = 4
FIRST_CLOSED_FD = 5

RUNTIME_TMP = "/run/tmp"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNGRANTABLE = ("/proc", "/sys", "/dev", "/run", "/var/run")


@dataclass(frozen=True, slots=True)
class Limits:
    """Per-process limits (setrlimit(2)); processes are counted per call, by the call's user namespace."""

    processes: int
    data_bytes: int
    file_bytes: int
    cpu_s: int | None
    open_files: int = 4096
    scratch_bytes: int = 1 << 30  # each of /run and /dev/shm


@dataclass(frozen=True, slots=True)
class Box:
    """One sandbox. `host_uid` is who the kernel sees; `uid` is who the program believes itself to be."""

    argv: tuple[str, ...]
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
    bwrap: str
    stage: str = ""  # i-th write root: a view whose changes go to STAGE/i/upper, instead of the root itself
    detached: bool = False  # outlives the request and the broker

    def __post_init__(self) -> None:
        assert self.host_uid != 0, "a sandbox never runs as host uid 0"

    def to_job(self) -> dict[str, Any]:
        return asdict(self)


def from_job(job: dict[str, Any]) -> Box:
    """The inverse of `Box.to_job`, after JSON made lists of the tuples."""
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in job.items()
    }
    fields["limits"] = Limits(**job["limits"])
    fields["env"] = tuple((key, value) for key, value in job["env"])
    return Box(**fields)


def check_write_roots(roots: tuple[str, ...], hidden: tuple[str, ...]) -> tuple[str, ...]:
    """The roots, sorted, none inside another; raises UsageError for one that can never be granted."""
    for root in roots:
        if not root.startswith("/") or os.path.normpath(root) != root or "\0" in root:
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
    )


def bwrap_argv(box: Box) -> list[str]:
    """Bubblewrap's arguments, in the order it carries them out. argv[0] included."""
    return [
        "bwrap",
        # Namespaces. The user namespace is what makes all others possible without privilege.
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *(() if box.network else ("--unshare-net",)),
        *("--uid", str(box.uid), "--gid", str(box.gid)),
        # No terminal to push keys into; nothing outlives the broker unless it is meant to.
        "--new-session",
        *(() if box.detached else ("--die-with-parent",)),
        *("--cap-drop", "ALL"),
        # The finished tree, then the two file systems only the new namespaces can have.
        *("--bind", TREE, "/", "--proc", "/proc", "--dev", "/dev"),
        *("--size", str(box.limits.scratch_bytes), "--perms", "1777", "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--remount-ro", "/dev"),
        *("--chdir", box.cwd),
        "--clearenv",
        *(word for key, value in box.env for word in ("--setenv", key, value)),
        *("--seccomp", str(SECCOMP_FD), "--json-status-fd", str(STATUS_FD)),
        "--",
        *box.argv,
    ]
