"""From sentence to judged call: the planner's cold start, then warm requests, and what memory they take.

    python -m tests.bench.request [--model NAME] [--repeat N]

Requests are made in `plan` mode, so that no sandbox time is inside. Times are of a whole socket
round trip. Prints a table and one JSON line; llama.cpp on the same weights stands in bench/engine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench.report import report
from tests.bench.understand.__main__ import daemon, request
from tests.bench.understand.workspace import build

SENTENCES = (
    "what are the three largest files in this folder?",
    "show notes.txt",
    "how many lines has access.log",
    "rename util.py to tools.py",
    "find all python files",
    "replace 8080 with 9090 in config.yaml",
    "how much memory is free?",
    "delete old.log",
    "这里最大的两个文件是什么",
    "which ports are open",
)


def resident_mb(model_loaded: bool) -> dict[str, float]:
    """Resident memory of the broker and of its planner, found among our own children."""
    broker = psutil.Process().children()[0]
    sizes = {"broker": broker.memory_info().rss / 1e6}
    if model_loaded:
        sizes["planner"] = max(child.memory_info().rss for child in broker.children(recursive=True)) / 1e6
    return sizes


def timed(sock: Path, text: str, cwd: Path) -> tuple[float, dict[str, Any]]:
    started = time.perf_counter()
    result = request(sock, {"text": text, "cwd": str(cwd), "mode": "plan"})
    return (time.perf_counter() - started) * 1e3, result["timing"]


def row(name: str, samples: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    def median(key: str) -> float:
        return statistics.median(timing[key] for _, timing in samples)

    totals = sorted(total for total, _ in samples)
    return {
        "what": name,
        "requests": len(samples),
        "median ms": round(statistics.median(totals)),
        "p95 ms": round(totals[int(0.95 * (len(totals) - 1))]),
        "prefill ms": round(median("prefill_ms")),
        "decode ms": round(median("decode_ms")),
        "policy ms": round(median("policy_ms"), 2),
        "prompt tokens": median("prompt_tokens"),
        "cached": median("cached_tokens"),
        "generated": median("generated_tokens"),
        "forced": median("forced_tokens"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="request-", dir=Path.home()) as name:
        root = Path(name) / "work"
        root.mkdir()
        build(root)
        with daemon(options.model, Path(name)) as sock:
            before = resident_mb(model_loaded=False)
            cold = timed(sock, SENTENCES[0], root)
            warm = [timed(sock, text, root) for _ in range(options.repeat) for text in SENTENCES]
            after = resident_mb(model_loaded=True)
    rows = [row("cold: planner start, weights, first call", [cold]), row("warm", warm)]
    memory = {
        "broker_mb_idle": before["broker"],
        "broker_mb": after["broker"],
        "planner_mb": after["planner"],
    }
    memory = {key: round(value) for key, value in memory.items()}
    ratio = round(rows[0]["median ms"] / rows[1]["median ms"], 1)
    report("request", rows, {"model": options.model, "cold_over_warm": ratio} | memory)


if __name__ == "__main__":
    main()
