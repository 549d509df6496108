"""`llmos metrics`: what the daemon says of itself, in Prometheus' text format (0.0.4), on stdout.

For node_exporter's textfile collector or any scraper of a command. Counters begin with the daemon (the
journal reaches further back: `llmos audit export`) and are told to root and to the daemon's own user alone,
because they are of everybody's requests.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from llmos.cli_requests import connected
from llmos.console import screen

JsonObject = dict[str, Any]
_STATES = ("ready", "loading", "broken", "stopping")
_PLANNER_STATES = ("unloaded", "loading", "ready", "thinking")


def metrics(options: argparse.Namespace) -> int:
    """The daemon is not started for that: exit 7 when none runs."""
    with connected(start=False) as daemon:
        found = daemon.call("status")
    screen.write(sys.stdout, "".join(_lines(found, str(daemon.hello.get("version", "")))))
    return 0


def _lines(found: JsonObject, version: str) -> Iterator[str]:
    planner, audit = found["planner"], found["audit"] or {}
    yield from _gauge("info", "The version of the daemon.", {f'{{version="{version}"}}': 1})
    yield from _gauge("uptime_seconds", "Since it was started.", {"": found["uptime_s"]})
    yield from _gauge("resident_bytes", "Memory of the daemon itself.", {"": found["resident_bytes"]})
    yield from _gauge("state", "1 for the state it is in.", _one_of(found["state"], _STATES))
    yield from _gauge("requests_running", "Requests that run or wait, as far as you may see them.",
                      {"": len(found["requests"])})  # fmt: skip
    yield from _gauge("requests_max", "More than that are refused.", {"": found["max_queued"]})
    yield from _gauge("files_broken", "1 when newer settings, tools or policies are not in force.",
                      {"": int(found["error"] is not None)})  # fmt: skip
    yield from _gauge("tools", "Tools that can be called.", {"": found["tools"]})
    yield from _gauge("audit_bytes", "Size of the journal's newest file.", {"": audit.get("bytes", 0)})
    yield from _gauge(
        "planner_state", "1 for the state it is in.", _one_of(planner["state"], _PLANNER_STATES)
    )
    yield from _gauge("planner_resident_bytes", "Memory when it was loaded.", {"": planner["resident_bytes"]})
    yield from _gauge("planner_waiting", "Requests that wait for it.", {"": planner["waiting"]})
    yield from _gauge("planner_crashes_in_a_row", "0 after one that went well.",
                      {"": planner["crashes_in_a_row"]})  # fmt: skip
    if counts := found.get("counts"):
        yield from _counts(counts)


def _counts(found: JsonObject) -> Iterator[str]:
    ended = {f'{{status="{name}"}}': count for name, count in found["ended"].items()}
    judged = {f'{{verdict="{name}"}}': count for name, count in found["judged"].items()}
    yield from _metric("counter", "requests_total", "Requests that have ended, by status.", ended)
    yield from _metric("counter", "calls_judged_total", "Calls, by what the policy said.", judged)
    total = sum(found["ended"].values())
    durations = {f'_bucket{{le="{most:g}"}}': count for most, count in found["within"]}
    durations |= {'_bucket{le="+Inf"}': total, "_sum": found["seconds"], "_count": total}
    yield from _metric("histogram", "request_seconds", "From acceptance to the end.", durations)


def _gauge(name: str, told: str, values: dict[str, float]) -> Iterator[str]:
    yield from _metric("gauge", name, told, values)


def _metric(kind: str, name: str, told: str, values: dict[str, float]) -> Iterator[str]:
    yield f"# HELP llmos_{name} {told}\n# TYPE llmos_{name} {kind}\n"
    for labels, value in values.items():
        yield f"llmos_{name}{labels} {value}\n"


def _one_of(state: str, known: tuple[str, ...]) -> dict[str, float]:
    return {f'{{state="{name}"}}': float(name == state) for name in known}


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"metrics": metrics}
