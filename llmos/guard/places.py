"""What kind of place a path is: a secret, a device, the kernel's, somebody's home, llmos' own.

Paths are absolute and already followed (`resolve.real`); each is judged under every name it has: its own,
those that bind mounts give it, without regard to case, and, when it is a hard link, as the secret it is
another name of. Landmarks that are links themselves (~/.ssh -> /data/keys) count where they lead as well.

Not protected against: a copy of a secret under a harmless name, and a hard link below a folder that is
read as a whole.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import stat
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from llmos import paths
from llmos.guard import hidden, landmarks
from llmos.guard.mountnames import other_names
from llmos.guard.resolve import is_folder, real
from llmos.guard.sandbox import is_within  # one meaning for judging and for mounting

__all__ = [
    "Kind", "fold", "holds_protected", "holds_secrets", "home_of", "is_boot", "is_device", "is_folder",
    "is_foreign", "is_kernel", "is_protected", "is_secret", "kind_of", "owner_of", "real",
]  # fmt: skip

# What every program may open below /dev: streams without memory, by name and by device number.
_STREAMS = frozenset(
    {"null", "zero", "full", "random", "urandom", "stdin", "stdout", "stderr", "tty", "fd", "shm"}
)
_STREAM_DEVICES = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)})
_TERMINALS = range(136, 144)  # /dev/pts
_DISKS = re.compile(
    r"(?:sd|hd|vd|xvd|nvme|mmcblk|loop|dm-|md|ram|zram|sr|nbd|disk/|mapper/|mem$|kmem$|port$|fmem$"
    r"|mtd|ubi|bcache|rbd|drbd|input/|kvm$|fuse$|vhost|uinput$|snapshot$|tpm|vcs|nvram$|sg\d|bsg/|raw)"
)
_PROCESS = re.compile(r"/proc/(?:[0-9]+|self|thread-self)(?:/task/(?:[0-9]+|self))?/(\w+)")
_PROCESS_OPEN = frozenset({"cgroup", "cmdline", "comm", "io", "limits", "loginuid", "oom_score",
                           "sched", "schedstat", "smaps_rollup", "stat", "statm", "status", "wchan",
                           "mounts", "mountinfo", "net", "task"})  # fmt: skip
_KERNEL_SECRETS = ("/proc/kcore", "/proc/kmsg", "/proc/kallsyms", "/proc/sysrq-trigger", "/proc/keys",
                   "/proc/vmcore", "/proc/kpageflags", "/proc/kpagecount", "/proc/key-users",
                   "/proc/slabinfo", "/proc/timer_list", "/proc/sched_debug", "/sys/kernel/debug",
                   "/sys/kernel/tracing", "/sys/kernel/security", "/sys/firmware/efi/efivars",
                   "/sys/fs/bpf", "/sys/fs/pstore", "/sys/kernel/boot_params")  # fmt: skip
_MAX_SECRET_FILES = 4000  # whose inodes are known, to find hard links to them
_MAX_NAME = 255  # of a file; longer ones are not there, and patterns take long over them
_LANDMARKS_LIVE_S = 2
_CLOCK_TICK_S = 0.02  # ctime is as coarse as the kernel's tick


@dataclass(frozen=True, slots=True)
class Kind:
    """What kinds of place one path is, at once."""

    secret: bool = False
    sensitive: bool = False
    device: bool = False
    kernel: bool = False
    own: bool = False
    foreign_home: bool = False
    boot: bool = False
    accounts: bool = False
    startup: bool = False
    control: bool = False

    @property
    def protected(self) -> bool:
        """Whether a rule of the machine's protection may speak of it."""
        return self.secret or self.own or self.device or self.foreign_home or self.control or self.accounts


@dataclass(frozen=True, slots=True)
class Landmarks:
    """The table for one home: labels by folder, names folded (`fold`)."""

    home: str
    real_home: str
    labels: dict[str, frozenset[str]]
    below: dict[tuple[str, str], tuple[str, ...]]  # (label, folder): the landmarks somewhere below it
    patterns: tuple[str, ...]
    foreign: tuple[str, ...]
    inodes: list[tuple[float, frozenset[tuple[int, int]]]] = field(default_factory=list)  # and when looked up

    def secret_inodes(self, changed: float) -> frozenset[tuple[int, int]]:
        """As of a moment after `changed`: making a hard link changes an inode, and so its ctime."""
        if not self.inodes or self.inodes[-1][0] <= changed + _CLOCK_TICK_S:
            began = time.time()
            self.inodes[:] = [(began, frozenset(itertools.islice(_inodes(self), _MAX_SECRET_FILES)))]
        return self.inodes[-1][1]


def kind_of(path: str, home: str, hide: Sequence[re.Pattern[str]] = ()) -> Kind:
    """Everything known of the place; `hide` are patterns of the policy, which make it a secret."""
    marks = _landmarks(home)
    names = (path, *other_names(path))
    labels = frozenset[str]().union(*(_labels(name, marks) for name in names))
    found = _stat(path)
    return Kind(
        secret="secret" in labels or _hard_link(found, marks) or any(h.match(n) for h in hide for n in names),
        sensitive=any(_is_sensitive(name) for name in names),
        device=_is_device(found) or any(_is_disk_name(name) for name in names),
        kernel=any(is_kernel(name) for name in names),
        own="own" in labels,
        foreign_home=any(_is_foreign(name, marks) for name in names),
        boot="boot" in labels,
        accounts="accounts" in labels,
        startup="startup" in labels or any(_starts_later(name) for name in names),
        control="control" in labels,
    )


# --- single questions ---------------------------------------------------------------------------------


def is_device(path: str) -> bool:
    """A disk, raw memory or other hardware, by name or by what stands there."""
    return _is_disk_name(path) or _is_device(_stat(path))


def is_kernel(path: str) -> bool:
    """Below /proc, /sys or /dev, the harmless streams excepted."""
    if any(is_within(path, place) for place in ("/proc", "/sys")):
        return True
    return is_within(path, "/dev") and path[5:].partition("/")[0] not in _STREAMS


def is_secret(path: str, home: str) -> bool:
    """In the table of what no sandboxed command may read, or a name that holds keys anywhere."""
    return kind_of(path, home).secret


def is_boot(path: str) -> bool:
    return any(is_within(path, place) for place in landmarks.BOOT)


def is_foreign(path: str, home: str) -> bool:
    return kind_of(path, home).foreign_home


def is_protected(path: str, home: str) -> bool:
    """Whether a rule of the machine's protection may speak of this path."""
    return kind_of(path, home).protected


def holds_secrets(path: str, home: str) -> bool:
    """Whether known secrets that exist lie somewhere below this folder."""
    return is_within("/proc", path) or _holds(path, home, "secret")


def holds_protected(path: str, home: str) -> bool:
    """Whether secrets or llmos' own files that exist lie somewhere below this folder."""
    return _holds(path, home, "secret") or _holds(path, home, "own")


def holds_control(path: str, home: str) -> bool:
    """Whether sockets that give control lie somewhere below this folder."""
    return _holds(path, home, "control")


def is_socket(path: str) -> bool:
    found = _stat(path)
    return found is not None and stat.S_ISSOCK(found.st_mode)


def _holds(path: str, home: str, label: str) -> bool:
    return any(map(os.path.lexists, _landmarks(home).below.get((label, fold(path)), ())))


def home_of(uid: int) -> str:
    """The home of a uid; `/` when it has none."""
    if uid == os.getuid():
        return str(Path.home())
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"


def owner_of(path: str, uid: int) -> str:
    """`caller`, `root`, `other`, or `nobody` when nothing stands there; of the nearest thing that does."""
    place = path
    while True:
        try:
            found = os.lstat(place).st_uid
        except (OSError, ValueError):
            if place in ("/", ""):
                return "nobody"
            place = os.path.dirname(place)
            continue
        return "caller" if found == uid else "root" if found == 0 else "other"


# --- names --------------------------------------------------------------------------------------------


def fold(path: str) -> str:
    """One spelling for names that some file systems take for the same: case, compatibility, joiners."""
    if not path.isascii():
        path = "".join(c for c in unicodedata.normalize("NFKC", path) if unicodedata.category(c) != "Cf")
    return path.lower()


def _labels(name: str, marks: Landmarks) -> frozenset[str]:
    folded = fold(name)
    found = frozenset({"secret"}) if _is_secret_name(folded, marks) else frozenset[str]()
    return found.union(*(marks.labels.get(place, ()) for place in _upwards(folded)))


def _is_secret_name(folded: str, marks: Landmarks) -> bool:
    *folders, name = folded.split("/")
    if name in landmarks.SECRET_NAMES or any(fnmatchcase(name, pattern) for pattern in hidden.PROJECT):
        return not name.endswith(hidden.PROJECT_OPEN)
    if not landmarks.SECRET_FOLDERS.isdisjoint((*folders, name)):
        return True
    if any(fnmatchcase(folded, pattern) for pattern in marks.patterns):
        return True
    if not folded.startswith(("/proc/", "/sys/")):
        return False
    match = _PROCESS.match(folded)
    return folded.startswith(_KERNEL_SECRETS) or (match is not None and match[1] not in _PROCESS_OPEN)


def may_name_secret(pattern: str) -> bool:
    """Whether a part of this glob is made to match a name that secrets go by; `*` alone is not."""
    return any(
        fnmatchcase(name, part) and (part[:1] == "." or name[:1] != ".")
        for part in fold(pattern).split("/")
        if set(part) & set("*?[") and set(part) - set("*?")
        for name in (*landmarks.SECRET_NAMES, *landmarks.SECRET_FOLDERS, ".env")
    )


def _is_sensitive(name: str) -> bool:
    folded = fold(name)
    if any(is_within(folded, place) for place in landmarks.SENSITIVE_OPEN_PLACES):
        return False
    *folders, last = folded.split("/")
    if len(last) <= _MAX_NAME and landmarks.SENSITIVE.fullmatch(last):
        return not landmarks.SENSITIVE_OPEN.fullmatch(last)
    return not landmarks.SENSITIVE_FOLDERS.isdisjoint(folders)


def _starts_later(name: str) -> bool:
    folded = fold(name)
    return any(folded.endswith(end) or f"{end}/" in folded for end in landmarks.STARTUP_ENDS)


def _is_disk_name(path: str) -> bool:
    return path.startswith("/dev/") and _DISKS.match(path[5:]) is not None


def _is_foreign(name: str, marks: Landmarks) -> bool:
    if marks.home != "/" and any(is_within(name, home) for home in (marks.home, marks.real_home)):
        return False
    folded = fold(name)
    if any(is_within(folded, other) for other in marks.foreign):
        return True
    # /home/NAME/… of whomever: a person without an entry in passwd is a person still.
    parts = folded.split("/")
    return len(parts) > 2 and parts[1] == "home"


# --- what stands there --------------------------------------------------------------------------------


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _is_device(found: os.stat_result | None) -> bool:
    if found is None or not (stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode)):
        return False
    number = (os.major(found.st_rdev), os.minor(found.st_rdev))
    return stat.S_ISBLK(found.st_mode) or not (number in _STREAM_DEVICES or number[0] in _TERMINALS)


def _hard_link(found: os.stat_result | None, marks: Landmarks) -> bool:
    """Whether this file is another name of a known secret."""
    if found is None or found.st_nlink < 2 or not stat.S_ISREG(found.st_mode):
        return False
    return (found.st_dev, found.st_ino) in marks.secret_inodes(found.st_ctime)


# --- the table for one home ---------------------------------------------------------------------------


_MOST_TABLES = 64  # of as many homes; each takes some 300 KB, so no older ones are kept beside
_tables: dict[tuple[str, tuple[str, ...], int], tuple[int, Landmarks]] = {}  # with the time it was made in


def _landmarks(home: str) -> Landmarks:
    key, age = (home, _environment(), os.geteuid()), int(time.monotonic()) // _LANDMARKS_LIVE_S
    made_in, table = _tables.get(key, (-1, None))
    if table is None or made_in != age:
        table = _table(home)
        if len(_tables) >= _MOST_TABLES:
            _tables.clear()
        _tables[key] = (age, table)
    return table


def forget() -> None:
    """Let the tables go; they are made again when they are needed."""
    _tables.clear()


def _environment() -> tuple[str, ...]:
    """What decides where llmos' own files lie (`paths`)."""
    names = ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "LLMOS_SOCKET")
    return tuple(os.environ.get(name, "") for name in names)


def _table(home: str) -> Landmarks:
    labels: dict[str, frozenset[str]] = {}
    below: dict[tuple[str, str], tuple[str, ...]] = {}
    for label, places in _labelled(home):
        for name in (name for place in places for name in _names_of(place, home)):
            labels[fold(name)] = labels.get(fold(name), frozenset()) | {label}
            for folder in _upwards(fold(name)):
                below[label, folder] = (*below.get((label, folder), ()), name)
    real_home = real(home)
    foreign = {
        fold(name)
        for other in _homes()
        for name in (other, real(other))
        if name != "/" and not (is_within(home, other) or is_within(real_home, name))
    }
    patterns = tuple(fold(pattern) for pattern in hidden.SYSTEM if "*" in pattern)
    return Landmarks(home, real_home, labels, below, patterns, tuple(foreign))


def _labelled(home: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    def below_home(entries: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{home}/{entry}" for entry in entries) if home != "/" else ()

    system = tuple(pattern for pattern in hidden.SYSTEM if "*" not in pattern)
    yield "secret", (*below_home(hidden.HOME), *system, *landmarks.SECRET_PLACES)
    own = (*hidden.own_places(), str(paths.runtime_dir() / "llmos.sock"))
    yield "own", (*own, "/run/llmos", "/var/lib/llmos", "/etc/llmos", "/usr/lib/llmos")
    yield (
        "own",
        below_home((".config/llmos", ".local/state/llmos", ".local/share/llmos")),
    )  # the caller's rules
    yield "boot", landmarks.BOOT
    yield "accounts", landmarks.ACCOUNTS
    yield "control", landmarks.CONTROL
    yield "startup", (*landmarks.STARTUP, *below_home(landmarks.STARTUP_HOME))


def _names_of(place: str, home: str) -> Iterator[str]:
    """A landmark, and where it leads when it is a link."""
    yield place
    if (name := real(place)) != place and not _is_harmless(name, home):
        yield name


def _upwards(place: str) -> Iterator[str]:
    """The place, and every folder that it lies in."""
    while place:
        yield place
        place = place.rpartition("/")[0]
    yield "/"


def _is_harmless(place: str, home: str) -> bool:
    """Where a landmark that is a link may lead without turning that into one: .bash_history -> /dev/null."""
    return is_within(place, "/dev") or is_within(home, place) or place.count("/") < 2


def _homes() -> Iterator[str]:
    """People's homes: of uids from 1000 on and of root. System accounts have folders such as /bin there."""
    for entry in pwd.getpwall():
        home = entry.pw_dir.rstrip("/")
        usual = home.startswith(("/home/", "/root", "/Users/"))
        if (entry.pw_uid == 0 or 1000 <= entry.pw_uid < 60000) and (
            usual or (home.count("/") > 1 and os.path.basename(home) == entry.pw_name)
        ):
            yield home


def _inodes(marks: Landmarks) -> Iterator[tuple[int, int]]:
    """Device and inode of the secret files that exist and have further names."""
    for place, labels in marks.labels.items():
        if "secret" not in labels:
            continue
        for file in (place, *(os.path.join(top, name) for top, _, names in os.walk(place) for name in names)):
            found = _stat(file)
            if found and found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                yield found.st_dev, found.st_ino
