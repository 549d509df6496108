"""The planner takes its own rights away, in two steps, for good.

    confine_files()   before any thread exists: no capabilities, no new privileges, Landlock: reading what
                      the interpreter and the weights need, writing only where loading keeps the
                      prepared weights, and nothing else of the file system; no TCP
    confine_calls()   after the weights are loaded: seccomp on every thread: no program, no process, no
                      socket, no file opened for writing, no look into another process, no io_uring

Landlock binds the calling thread and what it starts later, hence the order. A kernel that lacks a layer
is reported in `missing` and the planner goes on: it returns proposals that the broker judges, and
holds no key to anything. This does not protect against a planner that lies in its answers (the policy
does), nor against reading what stands in the allowed folders, nor against using up processor time.
Sources: landlock(7), seccomp(2), capabilities(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SIGKILL = 9
CAPABILITY_VERSION_3 = 0x20080522
MAX_CAPABILITY = 63

# Of /proc only what concerns us: other processes' environments and memory maps are nobody's business.
_SYSTEM_READABLE: tuple[str, ...] = (
    *("/usr", "/lib", "/lib64", "/bin", "/opt", "/nix", "/gnu", "/etc/ld.so.cache", "/etc/localtime"),
    *(
        "/proc/self",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/sys/devices/system",
        "/sys/fs/cgroup",
        "/dev/urandom",
        "/dev/null",
    ),
)

# Nothing of the work needs these. io_uring would do the others' work unseen; clone3 cannot be looked into
# and ENOSYS makes the C library use clone; openat2 likewise.
_REFUSED = """
execve execveat fork vfork ptrace process_vm_readv process_vm_writev process_madvise kcmp
socket socketpair connect bind listen accept accept4
pidfd_open pidfd_getfd pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo
creat truncate rename renameat renameat2 unlink unlinkat mkdir mkdirat rmdir link linkat symlink symlinkat
mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat
setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat fallocate
mount umount2 pivot_root chroot move_mount open_tree fsopen fsmount fsconfig fspick mount_setattr
unshare setns open_by_handle_at name_to_handle_at quotactl swapon swapoff acct reboot
init_module finit_module delete_module kexec_load kexec_file_load bpf perf_event_open userfaultfd
add_key request_key keyctl shmget shmat semget msgget mq_open memfd_secret
setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid
setpriority ioprio_set sethostname setdomainname settimeofday clock_settime adjtimex clock_adjtime
"""
_ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register", "openat2", "clone3")
_WRITE_FLAGS = (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND)
_CLONE_THREAD = 0x00010000


@dataclass(frozen=True, slots=True)
class Confinement:
    """Which layers hold, and which do not, with the reason (`landlock: disabled at boot`)."""

    held: tuple[str, ...]
    missing: tuple[str, ...]


_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel kill us when the broker dies, however it dies (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(PR_SET_PDEATHSIG, SIGKILL)


def needed_to_read(*more: Path) -> tuple[Path, ...]:
    """What must stay readable: the interpreter, its libraries, the kernel's facts, and `more`."""
    python: list[str] = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        *sysconfig.get_paths().values(),
        *sys.path,
    ]
    package = Path(__file__).resolve().parents[1]
    wanted: list[str | Path] = [*_SYSTEM_READABLE, *python, *site.getsitepackages(), package, *more]
    return tuple(sorted({Path(item).resolve() for item in wanted if item and Path(item).exists()}))


def confine_files(readable: Iterable[Path], writable: Iterable[Path] = ()) -> Confinement:
    """Step one; call it while the process has one thread. Never raises for a missing kernel feature.

    `writable` folders can be written until step two.
    """
    readable, writable = tuple(readable), tuple(writable)
    # Importing pyseccomp looks for the C library with helper programs: the last moment that works.
    with contextlib.suppress(ImportError, RuntimeError):
        importlib.import_module("pyseccomp")
    return _apply(
        ("capabilities", _drop_capabilities),
        ("no_new_privs", lambda: _prctl(PR_SET_NO_NEW_PRIVS, 1)),
        ("landlock", lambda: _landlock(readable, writable)),
    )


def confine_calls() -> Confinement:
    """Step two; holds on every thread there is and will be."""
    return _apply(("seccomp", _seccomp))


def _apply(*layers: tuple[str, Callable[[], None]]) -> Confinement:
    held, missing = [], []
    for name, layer in layers:
        try:
            layer()
            held.append(name)
        except (OSError, RuntimeError, ImportError) as error:
            missing.append(f"{name}: {error}")
    return Confinement(tuple(held), tuple(missing))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _drop_capabilities() -> None:
    """All sets to nothing, the bounding set first, while CAP_SETPCAP may still be there."""
    for capability in range(MAX_CAPABILITY + 1):
        try:
            _prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the last one this kernel knows
                break
            if error.errno != errno.EPERM:  # without privilege there is nothing to drop
                raise
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _landlock(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    from py_landlock import AccessFs, Landlock
    from py_landlock.errors import LandlockError

    try:
        rules = Landlock(strict=False)
        for path in readable:
            # A rule on a file may not speak of directories (EINVAL).
            listing = AccessFs.READ_DIR if path.is_dir() else AccessFs(0)
            rules.add_path_rule(path, access=AccessFs.READ_FILE | listing)
        # REFER: what is prepared is moved into place whole, from a folder beside it.
        rules.allow_read_write(*writable).add_path_rule(*writable, access=AccessFs.REFER)
        rules.apply()
    except LandlockError as error:
        raise RuntimeError(str(error)) from error


def _seccomp() -> None:
    import pyseccomp

    refuse, absent = pyseccomp.ERRNO(errno.EPERM), pyseccomp.ERRNO(errno.ENOSYS)
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    rules.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)
    for name in _REFUSED.split():
        _rule(rules, refuse, name)
    for name in _ABSENT:
        _rule(rules, absent, name)
    for flag in _WRITE_FLAGS:
        _rule(rules, refuse, "open", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, flag, flag))
        _rule(rules, refuse, "openat", pyseccomp.Arg(2, pyseccomp.MASKED_EQ, flag, flag))
    _rule(rules, refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0))
    for name in ("kill", "tgkill"):
        _rule(rules, refuse, name, pyseccomp.Arg(0, pyseccomp.NE, os.getpid()))
    for name in ("prlimit64", "sched_setaffinity"):  # 0 means the caller
        _rule(rules, refuse, name, pyseccomp.Arg(0, pyseccomp.GT, 0))
    rules.load()


def _rule(rules: object, action: int, name: str, *args: object) -> None:
    """Add one rule; a call that this architecture or libseccomp does not know needs none."""
    import pyseccomp

    try:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    except (OSError, ValueError):
        return
    if number >= 0:
        rules.add_rule(action, number, *args)  # type: ignore[attr-defined]
