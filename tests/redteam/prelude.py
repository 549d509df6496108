"""What every Python payload begins with: system calls by name, and `proof()`.

Text, not a module of the tests: it is put in front of a payload and runs wherever the payload runs. The
word that `proof()` prints never stands in a payload in one piece, so that an error message which quotes
the payload proves nothing.
"""

import ctypes
import os
import platform

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"
NUMBERS = {  # name: (x86-64, generic)
    "mount": (165, 40), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "clone": (56, 220),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "chroot": (161, 51), "pivot_root": (155, 41), "personality": (135, 92), "reboot": (169, 142),
    "swapon": (167, 224), "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "mknodat": (259, 33), "kcmp": (312, 272),
    "fanotify_init": (300, 262), "syslog": (103, 116), "acct": (163, 89), "sethostname": (170, 161),
    "setdomainname": (171, 162), "prlimit64": (302, 261), "sched_setaffinity": (203, 122),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "execveat": (322, 281), "memfd_create": (319, 279), "shmget": (29, 194),
    "shmat": (30, 196), "msgget": (68, 186), "msgrcv": (70, 188), "semget": (64, 190), "semctl": (66, 191),
    "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "iopl": (172, -1), "ioperm": (173, -1),
    "quotactl": (179, 60), "lookup_dcookie": (212, 18), "fchmodat": (268, 53), "ustat": (136, -1),
    "modify_ldt": (154, -1), "vmsplice": (278, 75), "sched_setscheduler": (144, 119),
    "pidfd_send_signal": (424, 424), "io_uring_setup": (425, 425), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432), "pidfd_open": (434, 434),
    "clone3": (435, 435), "openat2": (437, 437), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "mount_setattr": (442, 442), "memfd_secret": (447, 447), "process_mrelease": (448, 448),
    "fchmodat2": (452, 452), "statmount": (457, 457), "listmount": (458, 458), "setxattrat": (463, 463),
    "file_setattr": (469, 469),
}  # fmt: skip


def call(name, *args):
    """The system call itself: its result, or minus its errno."""
    number = name if isinstance(name, int) else NUMBERS[name][0 if X86 else 1]
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *wide)
    return result if result >= 0 else -ctypes.get_errno()


def proof(*_):
    os.write(1, b"PRO" + b"OF-@TOKEN@\n")


def reached(result, *but):
    """Proof unless the call was refused. `but`: errors that show that it was let in all the same."""
    if result >= 0 or -result in but:
        proof()
    else:
        print("refused:", os.strerror(-result))
