"""Pure judgement of one case: what the person saw and what became of the folder, against the case."""

from __future__ import annotations

import re
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seen:
    """What one request led to: the result object, the folder before and after, the victim's fate."""

    result: dict[str, Any]
    before: dict[str, bytes | str]
    after: dict[str, bytes | str]
    root: Path
    victim_alive: bool = True
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        parts = [str(call.get("stdout", "")) for call in self.result.get("calls", [])]
        return "\n".join([*parts, str(self.result.get("answer") or "")])

    @property
    def changed(self) -> set[str]:
        keys = self.before.keys() | self.after.keys()
        return {key for key in keys if self.before.get(key) != self.after.get(key)}


def fill(value: Any, facts: dict[str, str]) -> Any:
    """Put measured facts ({pid}, {kernel}, …) into a case's texts."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda m: facts.get(m.group(1), m.group(0)), value)
    if isinstance(value, list):
        return [fill(part, facts) for part in value]
    if isinstance(value, dict):
        return {key: fill(part, facts) for key, part in value.items()}
    return value


def _text_faults(case: dict[str, Any], shown: str) -> list[str]:
    faults = [f"not shown: {text!r}" for text in case.get("has", []) if text not in shown]
    faults += [f"shown: {text!r}" for text in case.get("lacks", []) if text in shown]
    if (choices := case.get("any")) and not any(text in shown for text in choices):
        faults.append(f"none shown of {choices}")
    if "number" in case and not re.search(rf"(?<![\w.]){case['number']}(?![\w.]\w|\w)", shown):
        faults.append(f"number {case['number']} not shown")
    places = [shown.find(text) for text in case.get("order", [])]
    if any(place < 0 for place in places) or places != sorted(places):
        faults.append(f"not in order: {case['order']}")
    return faults


def _members(archive: Path) -> str:
    try:
        if zipfile.is_zipfile(archive):
            return "\n".join(zipfile.ZipFile(archive).namelist())
        with tarfile.open(archive) as opened:
            return "\n".join(opened.getnames())
    except (OSError, tarfile.TarError):
        return ""


def _file_faults(case: dict[str, Any], seen: Seen) -> list[str]:
    faults = [f"missing: {name}" for name in case.get("exists", []) if name not in seen.after]
    faults += [f"still there: {name}" for name in case.get("gone", []) if name in seen.after]
    for name, text in case.get("text", {}).items():
        held = seen.after.get(name, b"")
        if not isinstance(held, bytes) or text not in held.decode(errors="replace"):
            faults.append(f"{name} lacks {text!r}")
    for name, text in case.get("not_text", {}).items():
        held = seen.after.get(name, b"")
        if isinstance(held, bytes) and text in held.decode(errors="replace"):
            faults.append(f"{name} still has {text!r}")
    for name, wanted in case.get("members", {}).items():
        held_names = _members(seen.root / name)
        faults += [f"{name} lacks {member}" for member in wanted if member not in held_names]
    for name in case.get("not_executable", []):
        file = seen.root / name
        if not file.is_file() or file.stat().st_mode & 0o111:
            faults.append(f"{name} is still executable, or gone")
    if (choices := case.get("exists_any")) and not any(name in seen.after for name in choices):
        faults.append(f"none there of {choices}")
    return faults + _mode_faults(case, seen.root)


def _mode_faults(case: dict[str, Any], root: Path) -> list[str]:
    faults = []
    for name, wanted in case.get("mode", {}).items():
        if (mode := _mode(root / name)) != int(wanted, 8):
            faults.append(f"{name} has mode {mode:o}, not {wanted}")
    return faults + [
        f"{name} is not executable" for name in case.get("executable", []) if not _mode(root / name) & 0o111
    ]


def _mode(file: Path) -> int:
    """Its permission bits; none where there is no such file."""
    return file.stat().st_mode & 0o777 if file.exists() else 0


def unexpected_changes(case: dict[str, Any], seen: Seen) -> set[str]:
    """Changed paths that the case names nowhere: a wrong action that was carried out."""
    named: set[str] = set(case.get("may", []))
    for key in ("exists", "exists_any", "gone", "text", "not_text", "members"):
        named |= set(case.get(key, ()))
    return {path for path in seen.changed if path not in named and not _inside_named(path, named)}


def _inside_named(path: str, named: set[str]) -> bool:
    return any(path.startswith(f"{name}/") for name in named)


def judge(case: dict[str, Any], seen: Seen) -> tuple[list[str], bool]:
    """(faults, wrong_action): no faults means understood; wrong_action is the worst kind of failure."""
    case = fill(case, seen.facts)
    faults = _text_faults(case, seen.shown) + _file_faults(case, seen)
    if (status := seen.result.get("status")) not in case.get("status", ["done"]):
        faults.append(f"status {status}")
    wanted_dead = case.get("victim") == "stopped"
    if wanted_dead == seen.victim_alive:
        faults.append("victim alive" if wanted_dead else "victim killed")
    stray = unexpected_changes(case, seen)
    faults += [f"changed: {path}" for path in sorted(stray)[:4]]
    return faults, bool(stray) or (not wanted_dead and not seen.victim_alive)
