"""The system call filter of the sandbox, built by libseccomp in the broker, installed in the fork.

A broad deny list over a default of "allow": what everyday programs never need and what kernel exploits
and sandbox escapes are made of. It does not see through pointers (paths, sendmsg addresses); those are
the mount tree's and the namespaces' business. A call by a foreign architecture's table (32-bit, x32)
kills the process.

Errors are chosen so that programs fall back: ENOSYS for calls libc tries first, EPERM for the rest.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import stat
from typing import Any

from llmos.errors import SandboxUnavailable

# Refused with EPERM, whatever the arguments.
DENIED = (
    # mounts and roots
    "mount", "umount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "statmount", "listmount",
    # namespaces
    "unshare", "setns",
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
    "pidfd_getfd", "kcmp",
    # keyrings: they are shared across namespaces
    "add_key", "request_key", "keyctl",
    # kernel attack surface
    "bpf", "perf_event_open", "userfaultfd", "fanotify_init", "lookup_dcookie", "vmsplice",
    "open_by_handle_at", "name_to_handle_at", "migrate_pages", "move_pages", "mbind", "set_mempolicy",
    "set_mempolicy_home_node", "remap_file_pages", "memfd_secret", "nfsservctl", "vm86", "vm86old",
    "modify_ldt", "uselib", "sysfs", "_sysctl", "ustat", "syslog", "vhangup",
    # the machine
    "init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms",
    "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd",
    "iopl", "ioperm", "settimeofday", "clock_settime", "clock_settime64", "clock_adjtime", "adjtimex",
    "stime", "sethostname", "setdomainname", "lsm_set_self_attr",
    # one call for many, whose arguments the filter cannot see (32-bit and s390 tables)
    "socketcall", "ipc",
)  # fmt: skip

# Refused with ENOSYS: callers try these first and have a plain way to fall back to.
ABSENT = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "openat2")

# Numbers of calls an older libseccomp may not know by name; the same on every architecture.
NUMBERS = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435,
    "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
    "memfd_secret": 447, "process_mrelease": 448, "set_mempolicy_home_node": 450, "fchmodat2": 452,
    "statmount": 457, "listmount": 458, "lsm_set_self_attr": 460, "open_tree_attr": 467,
}  # fmt: skip

# clone(2) flags that make a new namespace: time, mount, cgroup, uts, ipc, user, pid, net.
_NAMESPACE_FLAGS = (
    0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
# Keys pushed into a terminal; the console's paste; the console taken over; drivers loaded for a terminal.
_TERMINAL_REQUESTS = (0x5412, 0x541C, 0x541D, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD
_F_SETLEASE, _F_NOTIFY = 1024, 1026
_QUERY_PERSONALITY = 0xFFFFFFFF
_MAX_FAMILY = 45  # AF_MAX - 1 of Linux 6.x; what lies above is refused too
_SOCK_TYPE_MASK = 0xF
_RARE_SOCKET_TYPES = (3, 4, 5, 6, 10)  # raw, rdm, seqpacket, dccp, packet
_RARE_PROTOCOLS = (33, 132, 136)  # DCCP, SCTP, UDP-Lite
_LAST_PROTOCOL = 255  # above: MPTCP and SMC, for which programs fall back to TCP
# Devices take a capability, but for 0:0, which is overlayfs' mark of a deleted file.
_DEVICE_ARGUMENTS = {"mknod": 1, "mknodat": 2}
# A file that would run with its owner's rights outlives the sandbox, so none may be made in it.
_SET_ID_ARGUMENTS = {
    "chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2,
    "open": 2, "openat": 3,
}  # fmt: skip


@functools.cache
def program(network: bool) -> bytes:
    """The BPF program (struct sock_filter[], native byte order) for a call with or without network.

    Raises SandboxUnavailable when libseccomp is missing.
    """
    seccomp = _library()
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    for name in DENIED:
        _deny(rules, seccomp, name)
    for name in ABSENT:
        _deny(rules, seccomp, name, number=errno.ENOSYS)
    _deny_arguments(rules, seccomp)
    _deny_sockets(rules, seccomp, network)
    return _export(rules)


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxUnavailable(
            f"the system call filter cannot be built: {error}",
            "Install libseccomp: apt install libseccomp2 (Debian, Ubuntu) or dnf install libseccomp.",
        ) from error
    return pyseccomp


def version() -> str:
    """Of the libseccomp in use (seccomp_version(3)). Raises SandboxUnavailable when it is missing."""
    library = _library()._libseccomp
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return ".".join(map(str, library.seccomp_version().contents))


def _deny(rules: Any, seccomp: Any, name: str, *conditions: Any, number: int = errno.EPERM) -> None:
    """Refuse one call; a name unknown both here and to libseccomp does not exist on this machine."""
    try:
        call: int = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
    except (ValueError, OSError):
        call = -1
    if call < 0:
        call = NUMBERS.get(name, -1)
    if call >= 0:
        rules.add_rule(seccomp.ERRNO(number), call, *conditions)


def _deny_arguments(rules: Any, seccomp: Any) -> None:
    arg, masked = seccomp.Arg, seccomp.MASKED_EQ
    for flag in _NAMESPACE_FLAGS:
        _deny(rules, seccomp, "clone", arg(0, masked, flag, flag))
    for request in _TERMINAL_REQUESTS:
        # The kernel looks at the lower half alone, so the filter must too.
        _deny(rules, seccomp, "ioctl", arg(1, masked, 0xFFFFFFFF, request))
    for command in (_F_SETLEASE, _F_NOTIFY):
        # A lease on a file makes whoever opens it wait, a program outside too.
        _deny(rules, seccomp, "fcntl", arg(1, masked, 0xFFFFFFFF, command))
    _deny(rules, seccomp, "personality", arg(0, seccomp.NE, _QUERY_PERSONALITY))
    _deny(rules, seccomp, "prlimit64", arg(0, seccomp.NE, 0))  # others' limits, the init's among them
    for name, position in _DEVICE_ARGUMENTS.items():
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            _deny(rules, seccomp, name, arg(position, masked, 0o170000, kind))
    for name, position in _SET_ID_ARGUMENTS.items():
        for bit in (stat.S_ISUID, stat.S_ISGID):
            _deny(rules, seccomp, name, arg(position, masked, bit, bit))


def _deny_sockets(rules: Any, seccomp: Any, network: bool) -> None:
    """Without network no socket at all; with it only TCP, UDP and ping: docker, D-Bus, X11 stay away.

    socketpair(2) stays for streams. A datagram pair could be connected to another address afterwards.
    """
    arg = seccomp.Arg
    _deny(rules, seccomp, "socketpair", arg(1, seccomp.MASKED_EQ, _SOCK_TYPE_MASK, socket.SOCK_DGRAM))
    _deny(rules, seccomp, "socketpair", arg(0, seccomp.NE, socket.AF_UNIX))
    if not network:
        for name in ("socket", "connect", "bind", "listen", "accept", "accept4"):
            _deny(rules, seccomp, name)
        return
    allowed = (socket.AF_INET, socket.AF_INET6)
    for family in range(_MAX_FAMILY + 1):
        if family not in allowed:
            _deny(rules, seccomp, "socket", arg(0, seccomp.MASKED_EQ, 0xFFFFFFFF, family))
    _deny(rules, seccomp, "socket", arg(0, seccomp.GT, _MAX_FAMILY))
    for kind in _RARE_SOCKET_TYPES:
        _deny(rules, seccomp, "socket", arg(1, seccomp.MASKED_EQ, _SOCK_TYPE_MASK, kind))
    for protocol in _RARE_PROTOCOLS:
        _deny(rules, seccomp, "socket", arg(2, seccomp.MASKED_EQ, 0xFFFFFFFF, protocol))
    _deny(rules, seccomp, "socket", arg(2, seccomp.GT, _LAST_PROTOCOL))


def _export(rules: Any) -> bytes:
    fd = os.memfd_create("seccomp")
    with os.fdopen(fd, "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
