"""`llmos doctor`'s view of the sandbox, on the real machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.guard.probe import Check, probe


@pytest.mark.sandbox
def test_where_the_sandbox_runs_every_check_is_good() -> None:
    checks = {check.name: check for check in probe()}
    assert list(checks) == [
        *("kernel", "user namespaces", "seccomp", "landlock", "cgroup", "forks"),
        *("sandbox", "canary", "ownership", "preview"),
    ]
    assert all(check.ok and check.detail and not check.mend for check in checks.values()), checks
    assert re.match(r"libseccomp 2\.\d+\.\d+, \d+ instructions", checks["seccomp"].detail)
    assert "overlayfs" in checks["preview"].detail
    if os.geteuid() == 0:
        assert "as uid 61000" in checks["ownership"].detail


def test_a_machine_without_a_layer_is_told_how_to_mend_it(tmp_path: Path) -> None:
    """A real one: a user namespace in which no further one may be made."""
    code = (
        "import os\nfrom pathlib import Path\nfrom llmos.guard import kernel\n"
        "from llmos.guard.probe import probe\n"
        "uid = os.geteuid()\nkernel.unshare(kernel.CLONE_NEWUSER)\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "Path('/proc/self/uid_map').write_text(f'1000 {uid} 1')\n"
        "for check in probe():\n    if not check.ok: print(check.name, '|', check.detail, '|', check.mend)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    lines = dict(line.split(" | ", 1) for line in done.stdout.splitlines())
    assert set(lines) == {"user namespaces", "sandbox"}, done.stdout + done.stderr
    assert all("sysctl" in line for line in lines.values())


def test_a_check_is_plain_data() -> None:
    assert Check("a", True, "b").mend == ""
