"""Starting programs of our own inside the sandbox: which interpreter, and how they get their arguments.

They run as the caller, so interpreter and package must be where he can read them; that is looked at when
the call is planned. Not protected against: an installation that the caller can write. It is his own then.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmos.errors import CallFailed
from llmos.messages import Run
from llmos.paths import PACKAGE_DIR
from llmos.toolbox.context import program

_MAIN = PACKAGE_DIR / "toolbox" / "inside" / "__main__.py"


def argv(name: str, args: Mapping[str, Any]) -> tuple[str, ...]:
    """The words that run the program `name` with these arguments. Raises CallFailed where it cannot run."""
    # -B: nothing is cached where a write root may lie; -X utf8: names are text whatever the locale.
    return (_interpreter(), "-I", "-S", "-B", "-X", "utf8", str(_main()), name, json.dumps(dict(args)))


def run(name: str, args: Mapping[str, Any], **options: Any) -> Run:
    return Run(argv=argv(name, args), **options)


def command(tool: str, args: Mapping[str, Any]) -> str:
    """What a person is shown in place of an interpreter's argv: the tool and what it was told."""
    told = (
        f"{key}={_text(value)}" for key, value in args.items() if value is not None and value is not False
    )
    return shlex.join([tool, *told])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _main() -> Path:
    if not _is_reachable(_MAIN):
        raise CallFailed(
            f"llmos lies in {PACKAGE_DIR}, where you may not read",
            "Have it installed where everybody can read it, such as /opt.",
        )
    return _MAIN


def _interpreter() -> str:
    """Ours where the caller can reach it, else the system's."""
    for found in (_own(), program("python3")):
        if _is_reachable(Path(found)):
            return found
    raise CallFailed("there is no Python that you may run", "Have python3 installed.")


def _is_reachable(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


@functools.cache
def _own() -> str:
    """The interpreter itself: a virtual environment's link would be followed to its site-packages."""
    return str(Path(sys.executable).resolve())
