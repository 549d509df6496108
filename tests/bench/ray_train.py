"""A training run as a job of a Ray cluster of two nodes on loopback, and one of its processes killed.

    pip install 'llmos[ray]'
    python -m tests.bench.ray_train [--model NAME --mode lora] [--steps N]

The cluster is started and stopped here. The job must show its log here, start again from its last state after
the kill, fetch what came out, and end with the losses that one process alone has. By default the model is a
folder of random weights, made here with SmolLM2's vocabulary; with a model of the catalogue it takes long.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from llmos.engine import store, weights
from llmos.paths import PACKAGE_DIR
from llmos.tune import folders
from llmos.tune.pretrain import start
from tests.bench.report import report

TIMEOUT_S = 300
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(PACKAGE_DIR.parent),
    "RAY_USAGE_STATS_ENABLED": "0",
}


def run(*words: object, timeout_s: float = TIMEOUT_S) -> str:
    done = subprocess.run(
        [str(word) for word in words], env=ENVIRONMENT, timeout=timeout_s,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: {done.stdout}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cluster(folder: Path, nodes: list[subprocess.Popen[bytes]]) -> str:
    """Two nodes of one processor each, added to `nodes` as they start; the dashboard's address."""
    port, dashboard = free_port(), free_port()
    common = ["--num-cpus=1", "--object-store-memory=100000000", "--block", "--disable-usage-stats"]
    head = [
        "ray", "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}",
        f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", *common,
    ]  # fmt: skip
    other = ["ray", "start", f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.2", *common]
    for number, command in enumerate((head, other), start=1):
        with (folder / f"node-{number}.log").open("wb") as log:
            nodes.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log))
        if number == 1:
            wait_for(lambda: answers(port), 120)
    wait_for(lambda: status(port).count(" node_") == 2, 120)
    return f"http://127.0.0.1:{dashboard}"


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status(port: int) -> str:
    done = subprocess.run(
        ["ray", "status", "--address", f"127.0.0.1:{port}"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def wait_for(holds: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("the cluster did not come up")
        time.sleep(1)


def small_model(folder: Path) -> Path:
    source = weights.open_source(store.resolve("tiny"))
    shape = replace(
        source.config,
        num_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
    )
    torch.manual_seed(0)
    folders.save_like(folder, shape, start(shape), source.tokenizer)
    return folder


def kill_one(job: subprocess.Popen[str], before: set[int]) -> float:
    """Kills an actor of the job once the run has kept its state; when that was."""
    seen = time.monotonic()
    while job.poll() is None and time.monotonic() - seen < TIMEOUT_S:
        kept = list(Path(tempfile.gettempdir()).glob("llmos-*/state/state.pt"))
        actors = [
            p.pid
            for p in psutil.process_iter(["cmdline"])
            if "ray::Member.train" in " ".join(p.info["cmdline"] or [])
        ]
        fresh = [file for file in kept if file.stat().st_ino not in before]
        if fresh and actors:
            os.kill(max(actors), signal.SIGKILL)
            return time.monotonic()
        time.sleep(0.1)
    sys.exit("no actor to kill: " + (job.communicate()[0] if job.poll() is not None else ""))


def losses(folder: Path) -> list[float]:
    """Of the steps, and of what was judged on the way."""
    curve = json.loads((folder / "curve.json").read_text())
    return [line["loss"] for line in curve["steps"]] + [
        line["calls"]["loss"] for line in curve["validations"]
    ]


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rows, valid = folder / "rows.jsonl", folder / "valid.jsonl"
    run(sys.executable, "-m", "llmos", "tune", "data", "--out", rows, "--valid", valid, "--count", 60)
    for file, count in ((rows, 60), (valid, 20)):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:count]))
    model = given.model or small_model(folder / "model")
    words = [
        sys.executable, "-m", "llmos", "tune", "train", "--rows", rows, "--valid", valid, "--model", model,
        "--mode", given.mode, "--judged", 2, "--validations", 1, "--batch-tokens", 2000,
        "--max-steps", given.steps, "--keep-every-s", 2,
    ]  # fmt: skip
    print("one process alone", flush=True)
    run(*words, "--out", folder / "alone")
    print("a cluster of two nodes", flush=True)
    (folder / "ray").mkdir()
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        address = cluster(folder / "ray", nodes)
        before = {file.stat().st_ino for file in Path(tempfile.gettempdir()).glob("llmos-*/state/state.pt")}
        job = subprocess.Popen(
            [*map(str, words), "--out", str(folder / "fetched"), "--launch", "ray", "--ray", address,
             "--processes", "2", "--max-restarts", "2"],
            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        killed = kill_one(job, before)
        said, _ = job.communicate(timeout=TIMEOUT_S)
        ended = time.monotonic()
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(60)
    if job.returncode:
        sys.exit(said)
    ours, theirs = losses(folder / "fetched"), losses(folder / "alone")
    return {
        "steps": given.steps,
        "losses alone": theirs,
        "losses of two, one killed": ours,
        "largest difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "started again": said.count("restart 1 of 2"),
        "went on": "goes on at step" in said,
        "log lines here": len(said.splitlines()),
        "fetched": sorted(file.name for file in (folder / "fetched").iterdir()),
        "seconds from the kill to the end": round(ended - killed, 1),
    }


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default="")
    made.add_argument("--mode", default="full")
    made.add_argument("--steps", type=int, default=16)
    given = made.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is stopped then, too
    with tempfile.TemporaryDirectory(prefix="ray-train-") as folder:
        found = measure(given, Path(folder))
    report("ray_train", [{"what": name, "found": str(value)} for name, value in found.items()], found)
    sys.exit(0 if found["went on"] and found["largest difference"] < 0.001 else 1)


if __name__ == "__main__":
    main()
