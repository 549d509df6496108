"""What every benchmark prints: a table for people, then one JSON line for programs.

The line names the machine and the commit, because a figure without them says nothing. It does not
judge: no thresholds here, and no history kept.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

Value = str | int | float | bool | None
ROOT = Path(__file__).resolve().parents[2]


def report(name: str, rows: Sequence[Mapping[str, Value]], summary: Mapping[str, object]) -> None:
    """Print `rows` as a table (columns in order of first appearance), then the JSON line."""
    console = Console(width=None if os.isatty(1) else 120)
    if rows:
        console.print(_table(name, rows))
    line = {"bench": name, "summary": dict(summary), "rows": [dict(row) for row in rows]}
    print(json.dumps(line | {"machine": machine(), "commit": commit()}, ensure_ascii=False), flush=True)


def _table(name: str, rows: Sequence[Mapping[str, Value]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=name)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Value) -> str:
    """Four significant digits are more than these measurements carry."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def machine() -> dict[str, str | int]:
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "llmos": _version("llmos"),
    }


def commit() -> str:
    """The checked-out commit, `+` where tracked files differ from it; empty outside a checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + "+" if head and _git("status", "--porcelain", "-uno") else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
