"""`python -I -S -B .../inside/__main__.py PROGRAM JSON`: run one of them; its complaint is one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Program = Callable[[dict[str, Any]], int]


def _program(name: str) -> Program:
    """Imported by name, so that each pays for its own modules alone."""
    match name:
        case "archive":
            from llmos.toolbox.inside.archive import main
        case "transfer":
            from llmos.toolbox.inside.transfer import main
        case "rename":
            from llmos.toolbox.inside.rename import main
        case "duplicates":
            from llmos.toolbox.inside.duplicates import main
        case "columns":
            from llmos.toolbox.inside.columns import main
        case "query":
            from llmos.toolbox.inside.query import main
        case "export":
            from llmos.toolbox.inside.export import main
        case "update":
            from llmos.toolbox.inside.update import main
        case "lines":
            from llmos.toolbox.inside.lines import main
        case "settings":
            from llmos.toolbox.inside.settings import main
        case "trash":
            from llmos.toolbox.inside.trash import main
        case _:
            raise SystemExit(f"there is no program {name}")
    return main


def main() -> int:
    sys.path.insert(0, str(Path(__file__).parents[3]))
    from llmos.toolbox.inside.told import Refused, shown

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _program(sys.argv[1])(json.loads(sys.argv[2]))
    except Refused as refused:
        problem = str(refused)
    except OSError as error:
        where = f"{shown(str(error.filename))}: " if error.filename is not None else ""
        problem = f"{where}{error.strerror or error}"
    except (EOFError, ValueError, MemoryError) as error:
        problem = str(error) or type(error).__name__
    sys.stdout.flush()
    sys.stderr.write(f"{problem}\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
