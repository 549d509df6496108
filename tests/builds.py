"""The program in C that puts up sandboxes, built once for all tests, measurements and homes."""

from __future__ import annotations

import os
from pathlib import Path

from llmos.guard import forks


def use_program() -> str:
    """Build it where there is a compiler and LLMOS_FORKS_DIR names no other folder (an empty one for Python);
    what puts up sandboxes then: C or Python."""
    if "LLMOS_FORKS_DIR" not in os.environ:
        folder = Path(f"/var/tmp/llmos-test-forks-{os.geteuid()}")  # other users' tests read it
        folder.mkdir(mode=0o755, exist_ok=True)
        os.environ["LLMOS_FORKS_DIR"] = str(folder)
        forks.prepare()
    return "Python" if forks.missing() else "C"
