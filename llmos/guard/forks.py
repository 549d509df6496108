"""The program of `native/`, in C: the nursery, its forks, and the init of a sandbox in one.

Built by the machine's own compiler, never while a request waits: by the daemon after its start, or by
`python -m llmos.guard.forks`. Until then, and where there is no compiler, the same is done in Python
(`nursery`, `carry`, `init`), slower.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from llmos import compiled, paths
from llmos.guard.nursery import HELLO

log = logging.getLogger(__name__)

SOURCES = Path(__file__).with_name("native")
FILES = ("main.c", "part.c", "program.c", "script.c", "init.c")
WARNINGS = ("-Wall", "-Wextra", "-Wshadow")
_FLAGS = (
    "-O2",
    "-std=gnu11",
    "-fstack-protector-strong",
    "-D_FORTIFY_SOURCE=2",
    "-fPIE",
    "-pie",
    "-Wl,-z,relro,-z,now",
)
RECIPE = compiled.Recipe(SOURCES, FILES, (*_FLAGS, *WARNINGS), mode=0o755)
_CHECK_S = 5


def place() -> Path:
    """Where the program is, or would be."""
    return RECIPE.place(paths.forks_dir())


def build() -> Path:
    """The program, built if need be. Raises OSError."""
    return compiled.built(RECIPE, paths.forks_dir())


def prepare() -> None:
    """Build it where that can be; Python stands in where it cannot."""
    try:
        build()
    except OSError as error:
        log.info("sandboxes are put up in Python: %s", error)


def missing() -> str:
    """Why the program is not in force; empty where it is."""
    program = place()
    try:
        if not program.exists():
            return "not built yet" if compiled.compiler() else "there is no C compiler"
        paths.refuse_unless_private(program.parent)
        paths.refuse_unless_private(program)
        done = subprocess.run([program, "--version"], capture_output=True, timeout=_CHECK_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.stdout.strip() == HELLO else f"{program} does not start"


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
