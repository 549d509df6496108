"""What a sandbox is made of, without starting one: arguments, grants, masks, tables."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.errors import SandboxUnavailable, UsageError
from llmos.guard import hidden, layers, mounts, sandbox, seccomp
from llmos.guard.launcher import _swap_map
from llmos.guard.sandbox import Box, Limits, bwrap_argv, check_write_roots, from_job

BOX = Box(
    argv=("ls", "-la", "a b"),
    cwd="/home/ada/src",
    uid=1000,
    gid=1000,
    host_uid=1000,
    host_gid=1000,
    groups=(1000, 27),
    id_mapped=False,
    write_roots=("/home/ada/src",),
    hidden=("/home/ada/.ssh",),
    network=False,
    env=(("PATH", "/bin"), ("HOME", "/home/ada")),
    limits=Limits(processes=8, data_bytes=1 << 20, file_bytes=1 << 20, cpu_s=3, scratch_bytes=1 << 20),
    bwrap="/usr/bin/bwrap",
)

# ruff: noqa: SIM905 - it reads as the command it is
WHOLE = (
    "bwrap --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --unshare-net"
    " --uid 1000 --gid 1000 --new-session --die-with-parent --cap-drop ALL --bind /tree / --proc /proc"
    " --dev /dev --size 1048576 --perms 1777 --tmpfs /dev/shm --remount-ro /dev --chdir /home/ada/src"
    " --clearenv --setenv PATH /bin --setenv HOME /home/ada --seccomp 4 --json-status-fd 3 -- ls -la"
).split()


def test_the_arguments_whole() -> None:
    assert bwrap_argv(BOX) == [*WHOLE, "a b"]


def test_a_network_grant_drops_one_namespace_and_nothing_else() -> None:
    assert bwrap_argv(replace(BOX, network=True)) == [w for w in [*WHOLE, "a b"] if w != "--unshare-net"]


def test_a_detached_program_may_outlive_us_and_nothing_else() -> None:
    assert bwrap_argv(replace(BOX, detached=True)) == [w for w in [*WHOLE, "a b"] if w != "--die-with-parent"]


def test_bubblewrap_never_mounts_below_what_a_caller_can_write() -> None:
    """CVE-2026-87766: every mount point it makes is / or in /proc or /dev."""
    argv = bwrap_argv(BOX)
    points = [
        argv[i + (2 if word.endswith("bind") else 1)]
        for i, word in enumerate(argv)
        if word in ("--bind", "--ro-bind", "--dev-bind", "--tmpfs", "--proc", "--dev", "--dir", "--symlink")
    ]
    assert points == ["/", "/proc", "/dev", "/dev/shm"]


def test_a_box_survives_the_way_to_the_launcher() -> None:
    assert from_job(json.loads(json.dumps(BOX.to_job()))) == BOX


def test_a_box_for_host_uid_0_cannot_be_made() -> None:
    with pytest.raises(AssertionError):
        replace(BOX, host_uid=0)


# --- grants ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "root",
    [
        "/",
        "/proc",
        "/proc/1/root",
        "/sys",
        "/dev/shm",
        "/run/user/0",
        "src",
        "/a/../etc",
        "/a/",
        "/a//b",
        "/a\0b",
        "",
    ],
)
def test_roots_that_are_never_granted(root: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_write_roots((root,), ())
    assert caught.value.next_step


def test_a_root_in_a_hidden_place_is_refused() -> None:
    with pytest.raises(UsageError, match="secrets"):
        check_write_roots(("/home/ada/.ssh/keys",), ("/home/ada/.ssh",))
    assert check_write_roots(("/home/ada/.sshx",), ("/home/ada/.ssh",)) == ("/home/ada/.sshx",)


def test_nested_roots_become_one() -> None:
    assert check_write_roots(("/a/b", "/a", "/ab", "/a/b/c", "/a"), ()) == ("/a", "/ab")


names = st.text("ab./", min_size=0, max_size=6)


@given(st.lists(names.map("/".__add__), max_size=6))
def test_what_is_granted_is_normal_and_disjoint(roots: list[str]) -> None:
    try:
        kept = check_write_roots(tuple(roots), ())
    except UsageError:
        return
    for root in kept:
        assert root in roots
        assert ".." not in root.split("/")
        assert not any(sandbox.is_within(root, other) for other in kept if other != root)
    assert all(any(sandbox.is_within(root, other) for other in kept) for root in roots)


# --- masks -----------------------------------------------------------------------------------------


def test_masks_name_what_exists_in_home_and_folders(tmp_path: Path, isolated_home: Path) -> None:
    home, work = tmp_path / "ada", tmp_path / "work [1]"
    for folder in (home / ".ssh", home / ".config/gcloud", work / "sub"):
        folder.mkdir(parents=True)
    for file in (
        work / ".env",
        work / ".env.local",
        work / ".env.example",
        work / "sub/.env",
        home / ".netrc",
    ):
        file.touch()
    found = {Path(path) for path in hidden.candidates(str(home), (str(work),))}
    expected = {home / ".ssh", home / ".config/gcloud", home / ".netrc", work / ".env", work / ".env.local"}
    assert expected == {path for path in found if path.is_relative_to(tmp_path)}
    assert Path("/etc/shadow") in found


def test_the_daemons_own_places_are_masked(isolated_home: Path) -> None:
    state = isolated_home / ".local/state/llmos"
    state.mkdir(parents=True)
    assert str(state) in hidden.candidates("/nowhere", ())


# --- the kernel's tables ---------------------------------------------------------------------------


def test_the_mount_table_is_read_with_its_escapes() -> None:
    text = (
        b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        b"28 27 0:25 / /mnt/a\\040b\\134c ro master:1 propagate_from:2 - fuse.sshfs host:/x rw\n"
    )
    assert mounts.mount_table(text) == [mounts.Mount("/", "ext4"), mounts.Mount("/mnt/a b\\c", "fuse.sshfs")]


def test_the_id_map_moves_root_and_nobody_else() -> None:
    ranges = [tuple(map(int, line.split())) for line in _swap_map(61000).splitlines()]
    mapped = {
        inside + i: outside + i for inside, outside, length in ranges for i in range(min(length, 70000))
    }
    assert mapped[0] == 61000
    assert 61000 not in mapped
    assert all(inside == outside for inside, outside in mapped.items() if inside)
    assert 0 not in mapped.values()


def test_the_filter_is_a_valid_program_that_ends_in_allow() -> None:
    for network in (False, True):
        code = seccomp.program(network)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 4096  # BPF_MAXINSNS
        opcodes = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
        returns = {value for opcode, _, _, value in opcodes if opcode == 0x06}
        assert returns == {0x7FFF0000, 0x00000000, 0x00050001, 0x00050026}  # allow, kill, EPERM, ENOSYS
    assert seccomp.program(False) != seccomp.program(True)


def test_complaints_of_bubblewrap_name_their_layer() -> None:
    said = {
        "bwrap: setting up uid map: Permission denied": "namespaces",
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted": "proc",
        "bwrap: Can't read seccomp data: Bad file descriptor": "seccomp",
        "bwrap: Unknown option --size": "bubblewrap",
    }
    assert {text: layers.of_bwrap_message(text) for text in said} == said
    assert isinstance(layers.explain("cwd", "x"), UsageError)
    assert isinstance(layers.explain("idmap", "x"), SandboxUnavailable)
