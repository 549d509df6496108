"""A probe: one way out of a sandbox, as a payload in sh or Python. Data, in probes/*.toml.

What it must not manage is not said here: every probe is judged by all canaries of the world at once
(world.py). A probe is worth counting only where the same payload, run without a sandbox, does harm.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llmos.guard.sandbox import PATH

FOLDER = Path(__file__).parent / "probes"
PYTHON = shutil.which("python3", path=PATH) or "python3"
SH_PRELUDE = "proof() { printf '%s%s\\n' PRO OF-@TOKEN@; }\n"
WHO = ("root", "plain", "service")  # root's own; a plain user's own; root's, for a plain user


@dataclass(frozen=True, slots=True)
class Probe:
    id: str
    group: str  # the class of escape
    what: str  # one line: what it tries
    sh: str = ""
    python: str = ""
    where: str = "work"  # the folder of the call and its write root: work, or the whole home
    timeout_s: float = 10.0
    data: str = ""  # stdin
    who: tuple[str, ...] = WHO
    control: bool = True  # run unsandboxed too, to show that it bites
    max_rss_mb: int = 0  # harm if its processes together hold more
    max_processes: int = 0
    max_disk_mb: int = 0
    alone: bool = False  # in a sandbox of its own, never one of many (batch.py)

    def __post_init__(self) -> None:
        assert bool(self.sh) != bool(self.python), f"{self.id}: one payload, in sh or in Python"

    @property
    def goes_alone(self) -> bool:
        special = (self.data, self.max_rss_mb, self.max_processes, self.max_disk_mb, self.where != "work")
        return self.alone or any(special) or self.timeout_s != 10.0

    def argv(self, places: Mapping[str, str]) -> tuple[str, ...]:
        """The payload as a command; names in @CAPITALS@ are the world's places."""
        if self.python:
            prelude = _prelude()
            return (PYTHON, "-I", "-c", _filled(prelude + self.python, places))
        return ("/bin/sh", "-c", _filled(SH_PRELUDE + self.sh, places))


@cache
def _prelude() -> str:
    text = (Path(__file__).parent / "prelude.py").read_text(encoding="utf-8")
    return text.partition('"""\n\n')[2]  # without its docstring


def _filled(text: str, places: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda found: places[found[1]], text)


def load(folder: Path = FOLDER) -> list[Probe]:
    """Every probe, in the order of the files."""
    probes = []
    for file in sorted(folder.glob("*.toml")):
        groups = tomllib.loads(file.read_text(encoding="utf-8"))
        for entry in groups["probe"]:
            fields = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
            probes.append(Probe(**{"group": groups["group"]} | fields))
    return probes
