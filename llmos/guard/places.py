"""What kind of place a path is: a secret, a device, the kernel's, somebody's home, llmos' own.

Pure look-ups by name and stat; paths given are absolute. `facts` follows links first, so it is the real
place that is judged; the name before that is judged as well, because a link can be turned meanwhile.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import stat
from fnmatch import fnmatchcase
from pathlib import Path

from llmos import paths
from llmos.guard import hidden
from llmos.guard.sandbox import is_within  # one meaning for judging and for mounting

# What every program may open below /dev: streams without memory.
_STREAMS = frozenset(
    {"null", "zero", "full", "random", "urandom", "stdin", "stdout", "stderr", "tty", "fd", "shm"}
)
_DISKS = re.compile(
    r"(?:sd|hd|vd|xvd|nvme|mmcblk|loop|dm-|md|ram|zram|sr|nbd|disk/|mapper/|mem$|kmem$|port$|fmem$)"
)
_PROCESS = re.compile(r"/proc/(?:[0-9]+|self|thread-self)(?:/task/[0-9]+)?/(\w+)")
_PROCESS_OPEN = frozenset({"cgroup", "cmdline", "comm", "io", "limits", "loginuid", "oom_score",
                           "sched", "schedstat", "smaps_rollup", "stat", "statm", "status", "wchan",
                           "net", "task"})  # fmt: skip
_KERNEL_SECRETS = ("/proc/kcore", "/proc/kmsg", "/proc/kallsyms", "/proc/sysrq-trigger", "/proc/keys")
_SECRET_NAMES = ("id_rsa", "id_ecdsa", "id_ed25519", "id_dsa", ".netrc", ".git-credentials", ".pgpass")


_STANDARD_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr")  # links into /proc/self


def real(path: str) -> str:
    """Where a path leads once links are followed. The kernel's own links (/proc/PID/root) are not: they
    lead somewhere else for each process, so it is the name that is judged there."""
    plain = os.path.normpath(path)
    if any(is_within(plain, place) for place in ("/proc", "/dev/fd", *_STANDARD_STREAMS)):
        return plain
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return plain


def home_of(uid: int) -> str:
    """The home of a uid; `/` when it has none."""
    if uid == os.getuid():
        return str(Path.home())
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"


def is_device(path: str) -> bool:
    """A disk or raw memory, by name or by what stands there."""
    if path.startswith("/dev/") and _DISKS.match(path[5:]):
        return True
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except OSError:
        return False


def is_kernel(path: str) -> bool:
    """Below /proc, /sys or /dev, the harmless streams excepted."""
    if any(is_within(path, place) for place in ("/proc", "/sys")):
        return True
    return is_within(path, "/dev") and path[5:].partition("/")[0] not in _STREAMS


def is_secret(path: str, home: str) -> bool:
    """In the table of what no sandboxed command may read, or a name that holds keys anywhere."""
    name = os.path.basename(path)
    if name in _SECRET_NAMES or any(fnmatchcase(name, pattern) for pattern in hidden.PROJECT):
        return not name.endswith(hidden.PROJECT_OPEN)
    if home != "/" and any(is_within(path, f"{home}/{entry}") for entry in hidden.HOME):
        return True
    if any(_matches(path, pattern) for pattern in hidden.SYSTEM):
        return True
    return path.startswith(_KERNEL_SECRETS) or _is_process_secret(path)


def holds_secrets(path: str, home: str) -> bool:
    """Whether known secrets that exist lie somewhere below this folder."""
    if is_within("/proc", path):
        return True
    below = [f"{home}/{entry}" for entry in hidden.HOME] if home != "/" else []
    known = (*below, *(pattern for pattern in hidden.SYSTEM if "*" not in pattern))
    return any(is_within(place, path) and os.path.lexists(place) for place in known)


def _matches(path: str, pattern: str) -> bool:
    return is_within(path, pattern) if "*" not in pattern else fnmatchcase(path, pattern)


def _is_process_secret(path: str) -> bool:
    """Environment, memory, root and open files of processes: /proc/PID/environ and its like."""
    match = _PROCESS.match(path)
    return match is not None and match[1] not in _PROCESS_OPEN


def is_own(path: str) -> bool:
    """llmos' own state, settings and socket."""
    own = (
        *hidden.own_places(),
        str(paths.runtime_dir() / "llmos.sock"),
        "/run/llmos",
        "/var/lib/llmos",
        "/etc/llmos",
    )
    return any(is_within(path, place) for place in own)


def is_boot(path: str) -> bool:
    return any(is_within(path, place) for place in ("/boot", "/efi", "/lib/modules", "/usr/lib/modules"))


def is_others_home(path: str, home: str) -> bool:
    if home != "/" and is_within(path, home):
        return False
    return any(is_within(path, other) and not is_within(home, other) for other in _homes())


@functools.lru_cache(maxsize=1)
def _homes() -> tuple[str, ...]:
    """People's homes: of uids from 1000 on and of root. System accounts have folders such as /bin there."""
    people = (entry for entry in pwd.getpwall() if entry.pw_uid == 0 or 1000 <= entry.pw_uid < 60000)
    return tuple(
        {
            entry.pw_dir.rstrip("/")
            for entry in people
            if entry.pw_dir.startswith(("/home/", "/root", "/Users/"))
        }
    )


def _below_home_folder(path: str, home: str) -> bool:
    """/home/NAME/… of whomever: a person without an entry in passwd is a person still."""
    parts = path.split("/")
    return len(parts) > 2 and parts[1] == "home" and not is_within(path, home)


def is_foreign(path: str, home: str) -> bool:
    return is_others_home(path, home) or _below_home_folder(path, home)


def is_protected(path: str, home: str) -> bool:
    """Whether a rule of the machine's protection may speak of this path."""
    return is_secret(path, home) or is_own(path) or is_device(path) or is_foreign(path, home)


def owner_of(path: str, uid: int) -> str:
    """`caller`, `root`, `other`, or `nobody` when nothing stands there; of the nearest thing that does."""
    place = Path(path)
    while True:
        try:
            found = place.lstat().st_uid
        except OSError:
            if place == place.parent:
                return "nobody"
            place = place.parent
            continue
        return "caller" if found == uid else "root" if found == 0 else "other"
