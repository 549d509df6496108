"""Places: every way a path may name a protected place leads to the same answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.guard import mountnames, places, resolve
from tests.guard import judging

HOME = "/home/person"


def kinds(path: str, home: str = HOME) -> set[str]:
    kind = places.kind_of(path, home)
    return {name for name in kind.__slots__ if getattr(kind, name)}


# --- resolve --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("/etc//../etc/./passwd/", "/etc/passwd"),
        ("//etc/passwd", "/etc/passwd"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/no/such/../place", "/no/place"),
        ("/dev/stdin", "/dev/stdin"),
        ("/dev/./stdin", "/dev/stdin"),
        ("/dev/fd/0", "/dev/fd/0"),
        ("/dev/fd/7", "/proc/self/fd/7"),
        ("/dev/fd/../environ", "/proc/self/environ"),
        ("/proc/self/environ", "/proc/self/environ"),
        ("/proc/thread-self/../../environ", "/proc/self/environ"),
        ("/proc/self/root/etc/shadow", "/proc/self/root/etc/shadow"),
        ("/proc/self/cwd/../../../etc/x", "/proc/self/cwd/etc/x"),
        ("/proc/1/task/1/root/../etc", "/proc/1/task/1/root/etc"),
        ("/proc/mounts", "/proc/self/mounts"),
        ("", "/"),
        ("/a\0b", "/a\0b"),
    ],
)
def test_paths_are_followed_up_to_magic_links(path: str, real: str) -> None:
    assert resolve.real(path) == real


def test_ordinary_paths_lead_where_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "up").symlink_to("a/b/..")
    (tmp_path / "far").symlink_to(tmp_path / "up" / "b")
    (tmp_path / "gone").symlink_to("nowhere/x")
    for name in ("up", "far/file", "far/../b/file", "gone", "up/b/../../a", "a/b/none"):
        assert resolve.real(f"{tmp_path}/{name}") == os.path.realpath(tmp_path / name), name


def test_loops_and_endless_paths_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    assert resolve.real(f"{tmp_path}/x/deep").startswith(str(tmp_path))
    assert resolve.real("/a" * 100_000).startswith("/a/a")
    assert resolve.real("/" + "../" * 1_000 + "etc/passwd") == "/etc/passwd"


def test_links_on_the_way_are_known(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("/etc")
    place, links = resolve.followed(f"{tmp_path}/a/passwd")
    assert (place, links) == ("/etc/passwd", (f"{tmp_path}/a", f"{tmp_path}/b"))


# --- kinds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/etc/shadow", "secret"),
        ("/ETC/SHADOW", "secret"),
        (f"{HOME}/.ssh/config", "secret"),
        (f"{HOME}/.SSH/config", "secret"),
        (f"{HOME}/.s\u200csh/config", "secret"),
        (f"{HOME}/\uff0essh/config", "secret"),
        ("/var/lib/jenkins/.ssh/id", "secret"),
        ("/any/deep/.env.local", "secret"),
        ("/any/id_rsa", "secret"),
        ("/etc/ssh/ssh_host_rsa_key", "secret"),
        ("/proc/1/environ", "secret"),
        ("/proc/self/root/etc/hosts", "secret"),
        ("/proc/self/fd/3", "secret"),
        ("/proc/self/task/self/mem", "secret"),
        ("/proc/kcore", "secret"),
        ("/run/secrets/db", "secret"),
        ("/any/server.key", "sensitive"),
        ("/any/server.key.bak", "sensitive"),
        ("/any/aws_credentials", "sensitive"),
        ("/any/secrets.prod.yml", "sensitive"),
        ("/any/secrets/x", "sensitive"),
        ("/dev/sda1", "device"),
        ("/dev/mapper/root", "device"),
        ("/dev/mem", "device"),
        ("/dev/input/event3", "device"),
        ("/proc/sys/kernel/x", "kernel"),
        ("/sys/power/state", "kernel"),
        ("/dev/kmsg", "kernel"),
        ("/etc/llmos/policies/x.toml", "own"),
        ("/run/llmos/llmos.sock", "own"),
        (f"{HOME}/.config/llmos/policies/mine.toml", "own"),
        ("/home/other", "foreign_home"),
        ("/home/other/x", "foreign_home"),
        ("/root/x", "foreign_home"),
        ("/boot/vmlinuz", "boot"),
        ("/usr/lib/modules/x", "boot"),
        ("/etc/passwd", "accounts"),
        ("/etc/pam.d/sshd", "accounts"),
        ("/etc/ld.so.preload", "accounts"),
        ("/etc/systemd/system/a.service", "startup"),
        ("/etc/cron.d/x", "startup"),
        (f"{HOME}/.bashrc", "startup"),
        (f"{HOME}/.config/autostart/x.desktop", "startup"),
        ("/any/.git/hooks/pre-commit", "startup"),
        ("/any/.git/config", "startup"),
        ("/run/docker.sock", "control"),
        ("/run/user/1000/bus", "control"),
    ],
)
def test_a_place_is_what_it_is(path: str, kind: str) -> None:
    assert kind in kinds(path)


@pytest.mark.parametrize(
    "path",
    [
        f"{HOME}/work/notes.txt", f"{HOME}/work/.env.example", f"{HOME}/work/id_generator.py", "/usr/bin/ls",
        f"{HOME}/work/secrets.py", f"{HOME}/work/tokenizer.go", "/etc/ssl/certs/ca.pem", "/home", "/dev/null",
        f"{HOME}/work/id_ed25519.pub", f"{HOME}/work/passwd.c", f"{HOME}/work/keys.md", "/etc/os-release",
    ],
)  # fmt: skip
def test_ordinary_places_are_nothing_special(path: str) -> None:
    assert kinds(path) == set()


def test_a_device_node_is_a_device_wherever_it_lies(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root. Run: sudo ./test.sh")
    node = tmp_path / "innocent.txt"
    os.mknod(node, 0o600 | 0o020000, os.makedev(1, 1))  # what /dev/mem is
    assert "device" in kinds(str(node))


def test_a_hard_link_to_a_secret_is_that_secret(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    keys = [f"key{number}" for number in range(20)]
    for key in ("key", *keys):
        (home / ".ssh" / key).write_text("k")
    (home / "plain").write_text("p")
    os.link(home / ".ssh/key", home / "notes")
    os.link(home / "plain", home / "other")
    assert "secret" in kinds(str(home / "notes"), str(home))
    assert "secret" not in kinds(str(home / "other"), str(home))
    for key in keys:  # linked after they were last looked at, sooner than the table is renewed
        os.link(home / ".ssh" / key, home / f"link-to-{key}")
        assert "secret" in kinds(str(home / f"link-to-{key}"), str(home))


def test_a_landmark_that_is_a_link_counts_where_it_leads(tmp_path: Path) -> None:
    home, keys = tmp_path / "home", tmp_path / "data/keys"
    home.mkdir()
    keys.mkdir(parents=True)
    (home / ".ssh").symlink_to(keys)
    (home / ".bash_history").symlink_to("/dev/null")
    assert "secret" in kinds(str(keys / "k"), str(home))
    assert kinds("/dev/null", str(home)) == set()


def test_a_secret_passed_on_the_way_is_judged(tmp_path: Path, isolated_home: Path) -> None:
    place = judging.make(tmp_path / "place")
    (isolated_home / ".ssh").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("k")
    (isolated_home / ".ssh/key").symlink_to(elsewhere)
    (place.folder / "innocent").symlink_to(isolated_home / ".ssh/key")
    assert place.judge("cat innocent").rule == "machine.secrets"


# --- mounts ---------------------------------------------------------------------------------------------

_MOUNTS = """\
22 1 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw - ext4 /dev/vda rw
30 27 254:0 /home/other /srv/a\\040b rw - ext4 /dev/vda rw
31 27 0:50 / /srv/proc rw - proc proc rw
"""


def test_a_bind_mount_has_the_names_of_what_it_shows() -> None:
    table = mountnames.parse(_MOUNTS)
    assert list(mountnames.names("/srv/a b/x", table)) == ["/home/other/x"]
    assert list(mountnames.names("/home/other/x", table)) == ["/srv/a b/x"]
    assert list(mountnames.names("/srv/proc/1/mem", table)) == ["/proc/1/mem"]
    assert list(mountnames.names("/etc/passwd", table)) == []


_PROBE = """
import sys
from llmos.guard import places
kind = places.kind_of(sys.argv[1], "/home/person")
print(*(name for name in kind.__slots__ if getattr(kind, name)))
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("mount", "path", "kind"),
    [
        ("mount --bind /etc $1", "shadow", "secret"),
        ("mount --bind /root $1", "x", "foreign_home"),
        ("mount --bind /proc $1", "sys/kernel/x", "kernel"),
        ("mount -t proc proc $1", "1/environ", "secret"),
        ("mount -t sysfs sysfs $1", "power/state", "kernel"),
        ("mount -t devtmpfs dev $1", "null/../kmsg", "kernel"),
    ],
)
def test_a_real_mount_hides_nothing(tmp_path: Path, mount: str, path: str, kind: str) -> None:
    script = f'{mount} || exit 9; shift; exec "$@"'
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", str(tmp_path)]
    probe = [sys.executable, "-c", _PROBE, os.path.normpath(tmp_path / path)]
    done = subprocess.run([*argv, *probe], capture_output=True, text=True, timeout=60)
    assert kind in done.stdout.split(), done.stderr
