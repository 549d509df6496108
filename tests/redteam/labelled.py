"""The labelled command lines: strings/hostile (none may be allowed) and strings/everyday (most must be).

One file for each class, one command a line. `␤` and `␉` stand for a newline and a tab, `\\uXXXX` and
`\\UXXXXXXXX` for any other character that is better not written plainly.
"""

from __future__ import annotations

import re
from pathlib import Path

STRINGS = Path(__file__).parent / "strings"
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})|([␤␉])")


def commands(label: str) -> dict[str, list[str]]:
    """Class to commands, of `hostile` or `everyday`."""
    files = sorted((STRINGS / label).glob("*.txt"))
    return {file.stem: list(map(_plain, file.read_text("utf-8").split("\n")[:-1])) for file in files}


def _plain(line: str) -> str:
    return _ESCAPE.sub(_character, line)


def _character(found: re.Match[str]) -> str:
    if found[3]:
        return {"␤": "\n", "␉": "\t"}[found[3]]
    return chr(int(found[1] or found[2], 16))
