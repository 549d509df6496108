"""Live attempts to get out of the sandbox, each on a canary of its own; all must fail.

Every attempt is made by a real program in a real sandbox, for each kind of caller (conftest.py), and is
judged from outside: by what became of the canary, not by what the program says of itself.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from llmos.errors import UsageError
from llmos.messages import Run, Shell
from tests.guard.boxes import PYTHON, Bench

pytestmark = pytest.mark.sandbox

# ctypes inside the sandbox: the system call itself, so that no library is polite on our behalf.
SYSCALL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(name, number, *args):
    wide = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in args]
    result = libc.syscall(ctypes.c_long(number), *wide)
    print(name, "ALLOWED" if result >= 0 else "refused", ctypes.get_errno())
"""


# --- files -----------------------------------------------------------------------------------------


def test_what_is_granted_works_and_stays_the_callers(bench: Bench) -> None:
    bench.make("old", "old\n", mode=0o600)
    outcome = bench.shell("cat old && echo more >> old && mkdir -p a/b && echo new > a/b/new && ls")
    assert outcome.exit_code == 0, outcome.stderr
    assert (bench.folder / "old").read_text() == "old\nmore\n"
    made = bench.folder / "a/b/new"
    assert made.read_text() == "new\n"
    assert (made.stat().st_uid, made.stat().st_gid) == (bench.caller.uid, bench.caller.gid)


@pytest.mark.parametrize(
    "command",
    [
        "echo x > {canary}",
        "rm -f {canary}",
        "mv {canary} {canary}.moved",
        "chmod 777 {canary}",
        "ln {canary} linked && echo x > linked",
        "ln -s {canary} link && echo x > link",
        "echo x > ../outside/new",
        "mkdir ../outside/new",
        "touch /proc/1/root{canary}; echo x > /proc/1/root{canary}",
        "echo x > /proc/self/cwd/../outside/canary",
        "exec 9<../outside && echo x > /proc/self/fd/9/canary",
        "truncate -s 0 {canary}",
        "dd if=/dev/zero of={canary} bs=1 count=1 conv=notrunc",
        "mount -o remount,rw / && echo x > {canary}",
    ],
)
def test_nothing_outside_the_write_roots_changes(bench: Bench, command: str) -> None:
    outside = bench.folder.parent / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    canary = outside / "canary"
    canary.write_text("canary\n")
    canary.chmod(0o666)
    before = canary.stat()
    bench.shell(command.format(canary=canary))
    assert canary.read_text() == "canary\n"
    assert canary.stat().st_mode == before.st_mode
    assert os.listdir(outside) == ["canary"]


def test_without_a_grant_the_own_folder_is_read_only(bench: Bench) -> None:
    canary = bench.make("canary")
    outcome = bench.shell("cat canary; echo x > canary; rm canary; touch new", write=())
    assert outcome.stdout == "canary\n"
    assert outcome.exit_code != 0
    assert canary.read_text() == "canary\n"
    assert os.listdir(bench.folder) == ["canary"]


@pytest.mark.parametrize("root", ["/", "/proc", "/proc/self", "/sys/fs", "/dev", "/dev/shm", "/run"])
def test_some_places_are_never_granted(bench: Bench, root: str) -> None:
    with pytest.raises(UsageError) as caught:
        bench.shell("true", write=(Path(root),))
    assert caught.value.next_step


def test_a_root_that_became_a_symlink_is_refused(bench: Bench) -> None:
    """The swap between judgement and use: the judged folder is now a link to the outside."""
    outside = bench.folder.parent / "outside"
    outside.mkdir()
    (bench.folder / "judged").symlink_to(outside)
    with pytest.raises(UsageError):
        bench.shell("echo x > judged/new", write=(bench.folder / "judged",))
    assert os.listdir(outside) == []


def test_swapping_a_folder_for_a_link_while_commands_run_never_escapes(bench: Bench) -> None:
    """A racing link below the write root: what is written through it stays inside, or fails."""
    outside = bench.folder.parent / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    stop = threading.Event()

    def swap() -> None:
        place, link = bench.folder / "sub", bench.folder / "link"
        while not stop.is_set():
            place.mkdir()
            link.symlink_to(outside)
            place.rename(old := bench.folder / "old")
            link.rename(place)
            place.unlink()
            shutil.rmtree(old)

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        for _ in range(5):
            bench.shell("for i in $(seq 2000); do echo x > sub/new; done 2>/dev/null")
    finally:
        stop.set()
        racer.join()
    assert os.listdir(outside) == []


def test_a_link_below_the_root_cannot_redirect_a_mount_point(bench: Bench) -> None:
    """As in CVE-2026-87766: names that sandboxes mount on, as links to a canary, below what is writable."""
    outside = bench.folder.parent / "outside"
    outside.mkdir(mode=0o755)
    for name in ("proc", "dev", "run", "tmp", ".env", ".ssh", "newroot", "oldroot"):
        (bench.folder / name).symlink_to(outside)
    assert bench.shell("true").exit_code == 0
    assert os.listdir(outside) == []


# --- secrets ---------------------------------------------------------------------------------------


SECRETS = (".ssh/id_ed25519", ".netrc", ".aws/credentials", ".bash_history", ".docker/config.json")


def test_secrets_of_the_home_are_not_there(own_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    home = own_bench.folder
    monkeypatch.setenv("HOME", str(home))
    for name in SECRETS:
        own_bench.make(name, "SECRET\n", mode=0o600)
    own_bench.make("notes", "open\n")
    attempts = "cat notes " + " ".join(f"{name} ./{name} {home}/{name}" for name in SECRETS)
    outcome = own_bench.shell(f"{attempts}; grep -r SECRET . ; mv .ssh stolen; cat stolen/*; true")
    assert "open" in outcome.stdout
    assert "SECRET" not in outcome.stdout + outcome.stderr
    assert (home / SECRETS[0]).read_text() == "SECRET\n"


def test_a_linked_secret_is_masked_where_it_lies(own_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own_bench.folder))
    own_bench.make("vault/key", "SECRET\n")
    (own_bench.folder / ".ssh").symlink_to("vault")
    outcome = own_bench.shell("cat vault/key .ssh/key")
    assert "SECRET" not in outcome.stdout


def test_project_secrets_are_masked_and_their_examples_are_not(bench: Bench) -> None:
    for name in (".env", ".env.local", ".env.example"):
        bench.make(name, f"KEY={name}\n")
    outcome = bench.shell("cat .env .env.local .env.example; echo stolen > .env; mv .env env; cat env")
    assert outcome.stdout.strip() == "KEY=.env.example"
    assert (bench.folder / ".env").read_text() == "KEY=.env\n"


def test_the_machines_secrets_are_not_readable(bench: Bench) -> None:
    outcome = bench.shell("cat /etc/shadow /etc/gshadow /etc/shadow- /etc/ssh/ssh_host_*_key /etc/sudoers")
    assert outcome.stdout == ""


def test_the_daemons_own_files_are_not_there(own_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    state = own_bench.make("state/llmos/audit.jsonl", "SECRET\n").parent
    monkeypatch.setenv("XDG_STATE_HOME", str(state.parent))
    outcome = own_bench.shell("cat state/llmos/audit.jsonl; echo forged >> state/llmos/audit.jsonl")
    assert "SECRET" not in outcome.stdout
    assert (state / "audit.jsonl").read_text() == "SECRET\n"


def test_the_daemons_own_folders_cannot_be_made_for_it(
    own_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no settings yet, a command in the home could write some for the next start."""
    for name, place in (("XDG_CONFIG_HOME", ".config"), ("XDG_STATE_HOME", ".local/state")):
        monkeypatch.setenv(name, str(own_bench.folder / place))
    own_bench.limit()  # a daemon that starts in this home
    outcome = own_bench.shell("mkdir -p .config/llmos/tools; echo x > .config/llmos/tools/x.toml; ls -A")
    assert ".config" in outcome.stdout
    assert os.listdir(own_bench.folder / ".config/llmos") == []


# --- kernel ----------------------------------------------------------------------------------------


def test_never_host_uid_0(bench: Bench) -> None:
    """Seen from outside, by the kernel's own account of the running process."""
    found: list[str] = []

    def look(stream: str, text: str) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and b"sleep-canary" in _cmdline(entry):
                found.extend(re.findall(r"^[UG]id:\s.*$", (entry / "status").read_text(), re.MULTILINE))

    bench.run(Shell(text="exec -a sleep-canary sleep 3 & sleep 1; echo up; wait"), on_output=look)
    ids = {int(number) for line in found for number in line.split()[1:]}
    assert ids
    assert 0 not in ids


def _cmdline(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_inside_the_caller_is_himself(bench: Bench) -> None:
    assert bench.shell("id -u; id -g").stdout.split() == [str(bench.caller.uid), str(bench.caller.gid)]


def test_no_privilege_is_left(bench: Bench) -> None:
    status = bench.shell("cat /proc/self/status").stdout
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{name}:\s0+$", status, re.MULTILINE), name
    assert re.search(r"^NoNewPrivs:\s1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s2$", status, re.MULTILINE)


def test_kernel_settings_are_read_only(bench: Bench) -> None:
    outcome = bench.shell(
        "for f in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sysrq-trigger"
        " /proc/sys/vm/drop_caches /sys/power/state /sys/fs/cgroup/cgroup.procs"
        " /sys/kernel/uevent_helper /proc/self/oom_adj_x; do"
        " (echo canary > $f) 2>/dev/null && echo WRITTEN $f; done; hostname canary && echo WRITTEN; true"
    )
    assert "WRITTEN" not in outcome.stdout
    assert socket.gethostname() != "canary"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers below are of x86-64")
def test_dangerous_system_calls_are_refused(bench: Bench) -> None:
    calls = [
        ("mount", 165, b"none", b"/tmp", b"tmpfs", 0, 0),
        ("umount2", 166, b"/proc", 2),
        ("unshare-user", 272, 0x10000000),
        ("unshare-mount", 272, 0x00020000),
        ("setns", 308, 0, 0),
        ("clone-newuser", 56, 0x10000000 | signal.SIGCHLD, 0),
        ("clone3", 435, 0, 0),
        ("ptrace-traceme", 101, 0, 0, 0, 0),
        ("process_vm_readv", 310, 1, 0, 0, 0, 0, 0),
        ("bpf", 321, 0, 0, 0),
        ("perf_event_open", 298, 0, 0, -1, -1, 0),
        ("userfaultfd", 323, 0),
        ("io_uring_setup", 425, 1, 0),
        ("keyctl", 250, 0, -3, 1),
        ("add_key", 248, b"user", b"x", b"y", 1, -3),
        ("open_tree", 428, -100, b"/", 1),
        ("fsopen", 430, b"tmpfs", 0),
        ("open_by_handle_at", 304, 3, 0, 0),
        ("name_to_handle_at", 303, -100, b"/", 0, 0, 0),
        ("chroot", 161, b"/"),
        ("pivot_root", 155, b".", b"."),
        ("personality", 135, 0x0400000),
        ("reboot", 169, 0, 0, 0, 0),
        ("swapon", 167, b"x", 0),
        ("kexec_load", 246, 0, 0, 0, 0),
        ("init_module", 175, 0, 0, b""),
        ("settimeofday", 164, 0, 0),
        ("mknod-block", 133, b"disk", 0o60600, 0x0800),
        ("setuid-bit", 90, b"plain", 0o4755),
        ("pidfd_getfd", 438, 0, 0, 0),
    ]  # fmt: skip
    bench.make("plain")
    code = SYSCALL + "".join(f"\nif {n!r}: call({n!r}, {', '.join(map(repr, rest))})" for n, *rest in calls)
    outcome = bench.python(code)
    lines = outcome.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [name for name, *_ in calls], outcome.stderr
    assert not [line for line in lines if "refused" not in line]


def test_a_foreign_architecture_is_killed(bench: Bench) -> None:
    """x32: the same kernel entered through another table of system calls."""
    if os.uname().machine != "x86_64":
        pytest.skip("x32 exists on x86-64 alone")
    outcome = bench.python(SYSCALL + "\ncall('x32-getpid', 0x40000000 | 39)\nprint('alive')")
    assert "ALLOWED" not in outcome.stdout


def test_keys_cannot_be_pushed_into_a_terminal(bench: Bench) -> None:
    code = (
        "import fcntl, os\nm, s = os.openpty()\n"
        "for request in (0x5412, 0x541C, 0x1_0000_5412):\n"
        "    try: fcntl.ioctl(s, request & 0xFFFFFFFF, b'x'); print('PUSHED')\n"
        "    except OSError as error: print('refused', error.errno)"
    )
    outcome = bench.python(code)
    assert outcome.stdout.splitlines() == ["refused 1"] * 3, outcome.stderr


def test_a_set_id_program_gives_nothing(bench: Bench) -> None:
    """Every mount the program sees is nosuid."""
    outcome = bench.shell("cat /proc/self/mountinfo; su -c 'grep CapEff /proc/self/status' </dev/null")
    mounts = [line.split() for line in outcome.stdout.splitlines() if " - " in line]
    assert len(mounts) > 5
    assert not [fields[4] for fields in mounts if "nosuid" not in fields[5]]
    assert not re.search(r"^CapEff:\s0*[1-9a-f]", outcome.stdout, re.MULTILINE)


# --- other processes -------------------------------------------------------------------------------


def test_host_processes_are_neither_seen_nor_reached(bench: Bench) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    try:
        outcome = bench.shell(
            f"kill -9 {victim.pid}; kill -9 -1; ls -d /proc/{victim.pid}; ls /proc | grep -c '^[0-9]'"
        )
        assert f"/proc/{victim.pid}\n" not in outcome.stdout
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize(
    "command",
    [
        "setsid sleep {canary} & sleep 0.1",
        "nohup sleep {canary} >/dev/null 2>&1 & sleep 0.1",
        "( ( setsid nohup sleep {canary} </dev/null >/dev/null 2>&1 & ) & ); sleep 0.2",
        "trap '' TERM HUP INT; sleep {canary} & disown -a; sleep 0.1",
    ],
)
def test_no_background_process_survives(bench: Bench, command: str) -> None:
    canary = f"9{time.time_ns() % 10**6:06d}.25"
    outcome = bench.shell(command.format(canary=canary))
    assert outcome.exit_code == 0, outcome.stderr
    assert not _running(canary)


def _running(word: str) -> list[int]:
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and word.encode() in _cmdline(entry)
    ]


# --- network and sockets ---------------------------------------------------------------------------


def test_no_network_without_a_grant(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        port = listener.getsockname()[1]
        outcome = bench.shell(f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo CONNECTED")
        assert "CONNECTED" not in outcome.stdout
        with pytest.raises(TimeoutError):
            listener.accept()


def test_with_a_grant_the_network_is_there_and_nothing_more(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        outcome = bench.shell(f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo CONNECTED", network=True)
        assert outcome.stdout == "CONNECTED\n", outcome.stderr


FAMILIES = {"AF_UNIX": 1, "AF_NETLINK": 16, "AF_PACKET": 17, "AF_ALG": 38, "AF_VSOCK": 40, "AF_XDP": 44}


@pytest.mark.parametrize("network", [False, True])
def test_socket_families(bench: Bench, network: bool) -> None:
    code = (
        f"import socket\nfor name, number in {FAMILIES | {'AF_INET': 2}!r}.items():\n"
        "    try: socket.socket(number, socket.SOCK_STREAM); print(name)\n"
        "    except PermissionError: pass\n"
        "socket.socketpair()\n"
        "try: socket.socketpair(type=socket.SOCK_DGRAM); print('DGRAM')\n"
        "except PermissionError: pass"
    )
    outcome = bench.python(code, network=network)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.split() == (["AF_INET"] if network else [])


@pytest.mark.parametrize("network", [False, True])
def test_unix_sockets_are_out_of_reach(bench: Bench, network: bool) -> None:
    """What stands for docker.sock, D-Bus, X11 and the ssh-agent: by path and abstract."""
    path = bench.folder / "agent.sock"
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as abstract:
        named.bind(str(path))
        path.chmod(0o777)
        abstract.bind("\0llmos-canary")
        named.listen()
        abstract.listen()
        code = (
            "import socket\nfor place in ('agent.sock', '\\0llmos-canary'):\n"
            "    try: socket.socket(socket.AF_UNIX).connect(place); print('CONNECTED', place)\n"
            "    except OSError as error: print(error)"
        )
        assert "CONNECTED" not in bench.python(code, network=network).stdout


def test_the_runtime_folder_is_empty_and_private(bench: Bench) -> None:
    outcome = bench.shell(
        "ls /run; touch $TMPDIR/x && echo $TMPDIR; ls /var/run/docker.sock /run/dbus; mktemp"
    )
    assert outcome.stdout.split()[:3] == ["lock", "tmp", "user"]
    assert "/run/tmp" in outcome.stdout
    assert "docker.sock\n" not in outcome.stdout


# --- what is inherited -----------------------------------------------------------------------------


def test_no_descriptor_is_inherited(bench: Bench) -> None:
    folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(folder, True)
    try:
        outcome = bench.python("import os; print(sorted(os.listdir('/proc/self/fd')))")
    finally:
        os.close(folder)
    # 3 is the listing's own.
    assert outcome.stdout.strip() == "['0', '1', '2', '3']"


def test_no_variable_is_inherited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "LD_PRELOAD_X", "SSH_AUTH_SOCK", "DOCKER_HOST", "BASH_ENV"):
        monkeypatch.setenv(name, "canary")
    outcome = bench.shell("env; cat /proc/1/environ /proc/self/environ")
    assert "canary" not in outcome.stdout
    assert "PATH=" in outcome.stdout


# --- limits ----------------------------------------------------------------------------------------


def test_a_fork_bomb_is_bounded(bench: Bench) -> None:
    """At most 40 processes, counted from outside; and when the time is over, none."""
    bench.limit(max_processes=40)
    seen: list[int] = []
    text = "b() { b | b & }; b 2>/dev/null; sleep 2; : canary-bomb"
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            seen.append(len({*_running("canary-bomb")} & {*_running("canary-bomb")}))  # at once

    looker = threading.Thread(target=look)
    looker.start()
    bench.run(Shell(text=text, timeout_s=3))
    over.set()
    looker.join()
    assert 2 <= max(seen) <= 41  # with the init
    assert not _running("canary-bomb")


def test_a_memory_hog_is_stopped(bench: Bench) -> None:
    bench.limit(max_memory_bytes=128 << 20)
    outcome = bench.python("x = bytearray(512 << 20); print('HAD IT')")
    assert outcome.exit_code != 0
    assert "HAD IT" not in outcome.stdout


def test_a_file_hog_is_stopped(bench: Bench) -> None:
    bench.limit(max_file_bytes=1 << 20)
    outcome = bench.shell("head -c 8M /dev/zero > big; echo $?")
    assert outcome.stdout.strip() != "0"
    assert (bench.folder / "big").stat().st_size <= 1 << 20


def test_python_for_the_probes_exists() -> None:
    assert os.access(PYTHON, os.X_OK), "the probes need a python3 in the system's PATH"


def test_a_run_step_is_the_program_itself(bench: Bench) -> None:
    outcome = bench.run(Run(argv=("echo", "$HOME", ";", "id", "*")))
    assert outcome.stdout == "$HOME ; id *\n"
