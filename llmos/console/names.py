"""Names of this machine for completion: processes, systemd's units, containers. Only read, soon given up.

What the person may not see is not offered: files are read with their own rights, and containers are asked
of the daemon, which is the engine's only client. Names that a terminal should not be shown are left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Source = Callable[[], Iterable[str]]
_UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_UNIT_KINDS = (".service", ".timer", ".socket")
_FRESH_S = 5.0  # Tab is pressed several times in a row

# The words of a sentence or command after which such a name may follow.
_WORDS = {
    "processes": "process|processes|kill|pkill|pgrep|killall|stop|suspend|resume|limit|slow|priority|of",
    "units": "services?|units?|systemctl|journalctl|restart|start|stop|reload|enable|disable|status|logs",
    "containers": "container|containers|docker|podman|exec|logs|stop|start|restart|remove|limit",
}
_PATTERNS = {kind: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for kind, words in _WORDS.items()}


class Names:
    """The names of each kind, kept for a few seconds."""

    def __init__(self, containers: Source) -> None:
        self._sources = {**_OWN_SOURCES, "containers": containers}
        self._kept: dict[str, tuple[float, list[str]]] = {}

    def after(self, text: str) -> list[str]:
        """What may follow `text`, the line before the word that is being typed."""
        kinds = [kind for kind, pattern in _PATTERNS.items() if pattern.search(text)]
        return list(dict.fromkeys(name for kind in kinds for name in self._of(kind)))

    def _of(self, kind: str) -> list[str]:
        looked, names = self._kept.get(kind, (-_FRESH_S, []))
        if time.monotonic() - looked >= _FRESH_S:
            names = sorted({name for name in self._sources[kind]() if name.isprintable() and " " not in name})
            self._kept[kind] = (time.monotonic(), names)
        return names


def processes() -> Iterable[str]:
    """Names of what runs, without the kernel's own threads, which have no command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes():
                yield (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue  # it has ended, or is not ours to see


def units() -> Iterable[str]:
    for folder in (*map(Path, _UNIT_FOLDERS), Path.home() / ".config/systemd/user"):
        try:
            yield from (file.name for file in folder.iterdir() if file.suffix in _UNIT_KINDS)
        except OSError:
            continue


_OWN_SOURCES: Mapping[str, Source] = {"processes": processes, "units": units}


def listed(result: dict[str, Any]) -> list[str]:
    """The first column of what a list tool printed, without its heading."""
    lines = "".join(call["stdout"] for call in result["calls"]).splitlines()
    return [line.split()[0] for line in lines[1:] if line.strip()]
