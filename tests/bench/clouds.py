"""Two real servers as two clouds of different speed and price, with a proxy that spoils what the first says.

    python -m tests.bench.clouds --first http://127.0.0.1:8081/v1 --second http://127.0.0.1:8080/v1 \\
        --model tiny --second-model ~/models/tiny

For each fault a request goes through a daemon with both backends configured: who answered, how long it took,
what it cost, and whether a call was carried out twice, as the journal has it. Prints a table and a JSON line.
The servers are started by whoever measures: `llama_cpp.server`, `llmos serve`, vLLM, or `transformers serve`
of a folder that `--folder FOLDER` writes (it knows no form of a reply, so what it says is verified, repaired
once and else refused). `--silence` is how long a backend may be silent: more where the machine is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.bench import report

BUSY = b"HTTP/1.1 %d Spoiled\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
FAULTS = ("none", "latency", "reset", "429", "500", "half", "bad-json", "drip", "silent")
TIMEOUT_S = 60.0


class Proxy:
    """TCP between a backend and its clients; `fault` holds for connections that begin later."""

    def __init__(self, target: str) -> None:
        place = urlsplit(target)
        self._target = (place.hostname or "127.0.0.1", place.port or 80)
        self.fault, self.connections = "none", 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{place.path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            self.connections += 1
            threading.Thread(target=self._serve, args=(client, self.fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str) -> None:
        try:
            self._spoiled(client, fault)
        except OSError:
            pass
        finally:
            client.close()

    def _spoiled(self, client: socket.socket, fault: str) -> None:
        client.recv(1, socket.MSG_PEEK)
        if fault == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fault in ("429", "500"):
            client.recv(1 << 20)
            client.sendall(BUSY % int(fault))
        elif fault == "silent":
            time.sleep(TIMEOUT_S)
        else:
            with socket.create_connection(self._target) as server:
                self._pump(client, server, fault)

    def _pump(self, client: socket.socket, server: socket.socket, fault: str) -> None:
        if fault == "latency":
            time.sleep(2)
        sent = 0
        while True:
            for ready in select.select([client, server], [], [], TIMEOUT_S)[0]:
                data = ready.recv(65536)
                if not data:
                    return
                if ready is client:
                    server.sendall(data)
                    continue
                sent += len(data)
                self._answer(client, data, fault)
                if fault == "half" and sent > 600:
                    return

    def _answer(self, client: socket.socket, data: bytes, fault: str) -> None:
        if fault == "bad-json":
            data = data.replace(b'"choices"', b'"chOices:')
        if fault != "drip":
            client.sendall(data)
            return
        for at in range(0, len(data), 8):
            client.sendall(data[at : at + 8])
            time.sleep(0.02)


CONFIG = """
[model]
name = "tiny"
[offload]
timeout_s = {total}
retries = 1
breaker_failures = 100
"""
BACKEND = """
[[backend]]
name = "{name}"
url = "{url}"
model = "{model}"
window = 4096
max_reply_tokens = 200
price_in = {price}
price_out = {price}
silence_timeout_s = {silence}
timeout_s = {attempt}
"""


def ask(env: dict[str, str], folder: Path) -> dict[str, Any]:
    words = ["ask", "--json", "--yes", "--cloud", "list the files here"]
    started = time.perf_counter()
    try:
        found = subprocess.run(
            [sys.executable, "-m", "llmos", *words],
            env=env, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S * 5,
        )  # fmt: skip
        result = json.loads(found.stdout)
    except subprocess.TimeoutExpired:
        result = {"status": "hang"}
    return {
        "seconds": round(time.perf_counter() - started, 1), "status": result.get("status", "error"),
        "answer": str(result.get("answer", ""))[:60],
    }  # fmt: skip


def journal(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / ".local/state/llmos/audit.jsonl").read_text().splitlines()]


def told(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the journal says of the last request that left: who answered, and what was run."""
    sent = [entry for entry in entries if entry["kind"] == "receipt"][-1]
    tries = sent["attempts"]
    answered = next((one["backend"] for one in reversed(tries) if one["ok"]), "nobody")
    ran = Counter(
        entry["of"] for entry in entries if entry["kind"] == "finished" and entry.get("id") == sent["id"]
    )
    seen = [(entry["tool"], json.dumps(entry["args"])) for entry in entries if _runs(entry, sent["id"])]
    return {
        "answered by": answered,
        "tries": len(tries),
        "usd": round(sum(one["usd"] for one in tries), 6),
        "ran": sum(ran.values()),
        "doubled": len(seen) - len(set(seen)),
    }


def _runs(entry: dict[str, Any], request: str) -> bool:
    return entry["kind"] == "decided" and entry["id"] == request and bool(entry.get("runs"))


def measure(options: argparse.Namespace, home: Path) -> list[dict[str, Any]]:
    proxy = Proxy(options.first)
    made = [
        ("first", proxy.url, options.model, options.prices[0]),
        ("second", options.second, options.second_model or options.model, options.prices[1]),
    ]
    silence = options.silence
    text = CONFIG.format(total=6 * silence) + "".join(
        BACKEND.format(name=name, url=url, model=model, price=price, silence=silence, attempt=3 * silence)
        for name, url, model, price in made
    )
    (home / ".config/llmos").mkdir(parents=True)
    (home / ".config/llmos/config.toml").write_text(text)
    (home / "work").mkdir()
    env = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "LLMOS_SOCKET": str(home / "s")}
    daemon = subprocess.Popen([sys.executable, "-m", "llmos", "daemon"], env=env, stderr=subprocess.DEVNULL)
    try:
        while not (home / "s").exists():
            time.sleep(0.1)
        rows = []
        for fault in options.faults or FAULTS:
            proxy.fault = fault
            row = {"fault": fault, **ask(env, home / "work")} | told(journal(home))
            rows.append({"outcome": outcome(row), **row})
            print(rows[-1], file=sys.stderr, flush=True)
        return rows
    finally:
        daemon.terminate()
        daemon.wait(20)


def outcome(row: dict[str, Any]) -> str:
    """What came of one request: `answered` by the first, or `failed over`; what is no call is `refused`."""
    if row["status"] == "hang":
        return "hang"
    if row["status"] == "not_understood":
        return "refused"
    return {"first": "answered", "second": "failed over"}.get(row["answered by"], "not answered")


def summed(rows: list[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(row["outcome"] for row in rows)
    names = ("answered", "failed over", "refused", "not answered", "hang")
    return {
        "asked": len(rows),
        **{name: counts[name] for name in names},
        "went over": sum(row["answered by"] == "second" for row in rows),
        "doubled": sum(row["doubled"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", default="http://127.0.0.1:8081/v1")
    parser.add_argument("--second", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--second-model", default="", help="what the second calls it (as the first)")
    parser.add_argument("--prices", nargs=2, type=float, default=(0.1, 1.0), help="USD per million tokens")
    parser.add_argument(
        "--silence", type=float, default=8.0, help="seconds; a try has 3 times, all 6 times it"
    )
    parser.add_argument("--folder", type=Path, help="write the tiny model there, for transformers, and end")
    parser.add_argument("--faults", nargs="*", choices=FAULTS)
    options = parser.parse_args()
    if options.folder:
        write(options.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    report.report("clouds", rows, summed(rows))


def write(folder: Path) -> None:
    """The tiny model as `transformers serve` reads it."""
    import torch

    from llmos.engine import store, weights
    from llmos.tune import folders

    source = weights.open_source(store.resolve("tiny"))
    folder.mkdir(parents=True, exist_ok=True)
    folders.save_like(folder, source.config, weights.tensors(source, torch.bfloat16), source.tokenizer)


if __name__ == "__main__":
    main()
