"""What a sandbox is made of, without starting one: its plan, grants, masks, tables."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.errors import SandboxUnavailable, UsageError
from llmos.guard import hidden, jobs, landlock, layers, sandbox, seccomp, template
from llmos.guard.idmap import swap_map
from llmos.guard.sandbox import (
    Box,
    Command,
    ControlGroup,
    Folder,
    Identity,
    Landlock,
    Limits,
    Mount,
    Namespaces,
    NewRoot,
    NoPrivileges,
    Pipe,
    Runtime,
    Step,
    Streams,
    SystemCalls,
    UserNamespace,
    check_write_roots,
    plan,
    private_folders,
)

SCRIPT = (
    Pipe((Command(("ls", "-la", "a b"), "/bin/ls"), Command(("sort",), redirects=((1, ">", "out"),)))),
    Pipe(joiner="&&", cd="src"),
    Pipe((Command(("make",), env=("V=1",)),), joiner="||"),
)
BOX = Box(
    script=SCRIPT,
    cwd="/home/ada/src",
    uid=0,
    gid=0,
    host_uid=61000,
    host_gid=61000,
    groups=(),
    id_mapped=True,
    write_roots=("/srv", "/home/ada/src"),
    hidden=("/home/ada/.ssh",),
    network=False,
    env=(("PATH", "/bin"), ("HOME", "/home/ada")),
    limits=Limits(
        processes=8,
        data_bytes=1 << 20,
        file_bytes=1 << 20,
        cpu_s=3,
        scratch_bytes=1 << 20,
        memory_bytes=1 << 26,
        cpus=1.5,
    ),
)

WHOLE = (
    Namespaces(("mount", "pid", "ipc", "uts", "net")),
    ControlGroup(memory_bytes=1 << 26, processes=8, cpus=1.5, needed=False),
    # the host, then what is the sandbox's own, then what is granted, then what nothing may lie over
    Mount("/", "host"),
    Mount("/dev", "devices"),
    Mount("/run", "tmpfs", 1 << 20),
    Mount("/proc", "proc"),
    Mount("/dev/shm", "tmpfs", 1 << 20, 0o1777),
    Mount("/dev/pts", "terminals"),
    Mount("/home/ada/src", "granted"),
    Mount("/srv", "granted"),
    Mount("/home/ada/.ssh", "masked"),
    NewRoot(),
    # from here on nothing is done as root
    Identity(61000, 61000, ()),
    Runtime(("/run/tmp", "/run/lock", "/run/user", "/run/user/0")),
    Folder("/home/ada/src"),
    UserNamespace(inside=(0, 0), outside=(61000, 61000)),
    NoPrivileges(),
    Streams(detached=False),
    BOX.limits,
    Landlock(("/home/ada/src", "/srv", "/run", "/dev"), network=False),
    SystemCalls(),
)


def test_the_plan_whole() -> None:
    assert plan(BOX) == WHOLE


def _changes(**fields: Any) -> list[tuple[Step, Step]]:
    changed = plan(replace(BOX, **fields))
    return [(before, after) for before, after in zip(WHOLE, changed, strict=True) if before != after]


def test_a_network_grant_lifts_one_namespace_and_the_rules_on_tcp() -> None:
    assert _changes(network=True) == [
        (WHOLE[0], Namespaces(("mount", "pid", "ipc", "uts"))),
        (WHOLE[-2], replace(WHOLE[-2], network=True)),
    ]


def test_a_detached_program_may_outlive_the_launcher_and_nothing_else() -> None:
    assert _changes(detached=True) == [(Streams(detached=False), Streams(detached=True))]


def test_a_staged_call_writes_on_views() -> None:
    assert _changes(stage="/stage") == [
        (Mount(r, "granted"), Mount(r, "staged")) for r in ("/home/ada/src", "/srv")
    ]


def test_a_call_with_no_business_in_tmp_has_an_empty_one() -> None:
    both = ("/tmp", "/var/tmp")
    assert private_folders(works_in=("/home/ada",), touches=("/etc/hosts",)) == both
    assert private_folders(works_in=("/",), touches=()) == both
    assert private_folders(works_in=("/tmp/work",), touches=()) == ("/var/tmp",)
    assert private_folders(works_in=("/home/ada",), touches=("/tmp/x.log",)) == ("/var/tmp",)
    assert private_folders(works_in=("/home/ada",), touches=("/",)) == ()
    shown = plan(replace(BOX, private=both))
    assert [step for step in shown if isinstance(step, Mount) and step.what == "private"] == [
        Mount(folder, "private", 1 << 20, 0o1777) for folder in both
    ]
    assert shown[-2] == replace(WHOLE[-2], writable=("/home/ada/src", "/srv", *both, "/run", "/dev"))


def test_a_box_survives_the_way_to_the_launcher() -> None:
    box, script = jobs.encoded(BOX).split(b"\n")
    assert replace(jobs.box_of(box), script=jobs.script_of(script)) == BOX


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
        "//",
        "//a",
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


def test_the_daemons_own_places_are_masked(isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state, and what the compiler has made for it: code that runs outside of every sandbox."""
    monkeypatch.setenv("LLMOS_MODELS_DIR", str(isolated_home / "models"))
    own = {str(isolated_home / name) for name in (".local/state/llmos", "models/kernels")}
    for place in own:
        Path(place).mkdir(parents=True)
    assert own <= set(hidden.candidates("/nowhere", ()))


# --- the kernel's tables ---------------------------------------------------------------------------


def test_the_mount_table_is_read_with_its_escapes() -> None:
    text = (
        b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        b"28 27 0:25 / /mnt/a\\040b\\134c ro master:1 propagate_from:2 - fuse.sshfs host:/x rw\n"
    )
    found = [(one.point, one.fs_type) for one in template.mount_table(text)]
    assert found == [("/", "ext4"), ("/mnt/a b\\c", "fuse.sshfs")]


def test_the_id_map_moves_root_and_nobody_else() -> None:
    ranges = [tuple(map(int, line.split())) for line in swap_map(61000).splitlines()]
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
        assert returns == {0x7FFF0000, 0x80000000, 0x00050001, 0x00050026}  # allow, kill, EPERM, ENOSYS
    assert seccomp.program(False) != seccomp.program(True)


def test_two_layers_are_about_the_request_and_not_about_the_machine() -> None:
    assert isinstance(layers.explain("cwd", "x"), UsageError)
    assert isinstance(layers.explain("idmap", "x"), SandboxUnavailable)


@pytest.mark.parametrize(
    ("abi", "rights"), [(1, 0x1FFF), (2, 0x3FFF), (3, 0x7FFF), (4, 0x7FFF), (5, 0xFFFF), (9, 0xFFFF)]
)
def test_landlock_handles_every_right_its_version_knows(abi: int, rights: int) -> None:
    assert landlock.handled_rights(abi) == rights
