"""The sandbox for users other than the one who runs the tests, and from places closed to them.

Root only: it takes root to become somebody else. The plain user's run repeats every other sandbox test
in this folder as uid 12345, with a per-user broker of his own, on the real kernel.
"""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guard.boxes import OTHER_UID, Bench

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

ROOT = Path(__file__).resolve().parents[2]

# In a mount namespace of its own: interpreter, libraries and sources at places everyone may read.
AS_PLAIN_USER = """
set -eu
mount --make-rprivate /
mkdir -p $TOP/python $TOP/site $TOP/src $TOP/home
mount --bind $PREFIX $TOP/python
mount --bind $SITE $TOP/site
mount --bind $SRC $TOP/src
chown $USER_ID $TOP/home
cd $TOP/src
exec setpriv --reuid $USER_ID --regid $USER_ID --clear-groups --inh-caps=-all \
  env -i HOME=$TOP/home PATH=/usr/bin:/bin PYTHONPATH=$TOP/site PYTHONDONTWRITEBYTECODE=1 \
  LLMOS_FORKS_DIR=$LLMOS_FORKS_DIR \
  $TOP/python/bin/$PYTHON "$@"
"""


def _as_plain_user(top: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    executable = Path(sys.executable).resolve()
    env = {
        "PATH": os.environ["PATH"],
        "TOP": str(top),
        "PREFIX": sys.base_prefix,
        "SITE": site.getsitepackages()[0],
        "SRC": str(ROOT),
        "USER_ID": str(OTHER_UID),
        "PYTHON": executable.name,
        "LLMOS_FORKS_DIR": os.environ["LLMOS_FORKS_DIR"],
    }
    argv = ["unshare", "--mount", "sh", "-c", AS_PLAIN_USER, "sh", *arguments]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=280)


def test_every_sandbox_test_passes_for_a_plain_user(own_bench: Bench) -> None:
    top = own_bench.folder.parent
    files = ["tests/guard/test_sandbox_escapes.py", "tests/guard/test_spawn.py"]
    done = _as_plain_user(top, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 80
    skipped = re.search(r"(\d+) skipped", done.stdout)
    assert int(skipped[1] if skipped else 0) <= 1  # what needs root, and nothing else


def test_a_plain_users_sandboxes_are_put_up_by_the_program_in_c(own_bench: Bench) -> None:
    wanted = ["tests/guard/test_forks.py", "-k", "in_force or takes_it_up or others_could_change"]
    done = _as_plain_user(own_bench.folder.parent, "-m", "pytest", "-q", "-p", "no:cacheprovider", *wanted)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "7 passed" in done.stdout


def test_a_plain_users_daemon_runs_nobody_elses_commands(own_bench: Bench) -> None:
    code = (
        "from llmos.guard.identity import identity\nfrom llmos.messages import Caller\n"
        "from llmos.errors import SandboxUnavailable\n"
        "for uid in (0, 1):\n"
        "    try: print(identity(Caller(uid=uid, gid=uid)))\n"
        "    except SandboxUnavailable as error: print('refused')\n"
    )
    done = _as_plain_user(own_bench.folder.parent, "-c", code)
    assert done.stdout.split() == ["refused", "refused"], done.stderr


def test_roots_files_are_roots_after_an_edit_and_others_stay_closed(own_bench: Bench) -> None:
    own_bench.make("mine", "mine\n", mode=0o600)
    theirs = own_bench.make("theirs", "theirs\n", mode=0o600)
    os.chown(theirs, OTHER_UID, OTHER_UID)
    outcome = own_bench.shell(
        "cat mine theirs; echo edit >> mine; cp mine copy; stat -c %U mine copy; chown 1 mine"
    )
    assert outcome.stdout == "mine\nroot\nroot\n"
    for name in ("mine", "copy"):
        assert (own_bench.folder / name).read_text() == "mine\nedit\n"
        assert (own_bench.folder / name).stat().st_uid == 0


def test_a_mount_below_a_write_root_is_mapped_too(own_bench: Bench) -> None:
    below = own_bench.folder / "disk"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(below)], check=True)
    try:
        assert own_bench.shell("echo x > disk/new").exit_code == 0
        assert (below / "new").stat().st_uid == 0
    finally:
        subprocess.run(["umount", str(below)], check=True)


def test_a_callers_groups_are_his_own(own_bench: Bench) -> None:
    import pwd

    from llmos.guard.identity import identity
    from llmos.messages import Caller

    entry = pwd.getpwnam("daemon")
    who = identity(Caller(uid=entry.pw_uid, gid=entry.pw_gid))
    assert (who.host_uid, who.host_gid, who.id_mapped) == (entry.pw_uid, entry.pw_gid, False)
    assert 0 not in who.groups


_UNSEEN = """
import asyncio, subprocess, sys
from pathlib import Path
from llmos.config import SandboxSettings
from llmos.errors import LlmosError
from llmos.guard.spawn import Spawner
from llmos.messages import Run
from tests.guard.boxes import permit

folder = Path(sys.argv[1])
spawner = Spawner(SandboxSettings())
leave = permit(Run(argv=("/bin/touch", "made")), cwd=folder, write=(folder,))
write = lambda: asyncio.run(spawner.run(leave))
assert write().exit_code == 0
(folder / "made").unlink()
subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)
try:
    write()
except LlmosError as error:
    print(f"{type(error).__name__}: {error}. {error.next_step}")
subprocess.run(["umount", str(folder)], check=True)
assert write().exit_code == 0
spawner.close()
"""


def test_what_is_mounted_where_nobody_is_told_stops_a_call_instead_of_being_written_beneath(
    tmp_path: Path,
) -> None:
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", _UNSEEN, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "SandboxUnavailable" in done.stdout and "Restart the daemon" in done.stdout
    assert (tmp_path / "made").exists()
