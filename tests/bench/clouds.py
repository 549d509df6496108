"""Two real servers as two clouds, and a proxy before the first that spoils what it answers.

    python -m tests.bench.clouds --first http://127.0.0.1:8081/v1 --second http://127.0.0.1:8080/v1 \\
        --model tiny

For each fault a request goes through a daemon with both backends configured: which of them answered, how long
it took, and whether what was carried out was carried out once. Prints a table and one JSON line.
The servers are started by whoever measures: `llama_cpp.server`, `transformers serve`, vLLM, `llmos serve`.
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
timeout_s = 40
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
silence_timeout_s = 8
timeout_s = 20
"""


def ask(env: dict[str, str], folder: Path) -> dict[str, Any]:
    words = ["ask", "--json", "--yes", "--cloud", "list the files here"]
    started = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-m", "llmos", *words],
        env=env, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S * 3,
    )  # fmt: skip
    result = json.loads(found.stdout)
    return {
        "seconds": round(time.perf_counter() - started, 1), "status": result.get("status", "error"),
        "route": result.get("route", ""), "calls": len(result.get("calls", ())),
        "request": result.get("id", ""), "answer": str(result.get("answer", ""))[:60],
    }  # fmt: skip


def ran(home: Path, request: str) -> int:
    """How many calls the journal says were carried out for this request."""
    entries = map(json.loads, (home / ".local/state/llmos/audit.jsonl").read_text().splitlines())
    return sum(1 for entry in entries if entry["kind"] == "finished" and entry.get("id") == request)


def measure(options: argparse.Namespace, home: Path) -> list[dict[str, Any]]:
    proxy = Proxy(options.first)
    made = [("first", proxy.url, 0.0), ("second", options.second, 1.0)]
    text = CONFIG + "".join(
        BACKEND.format(name=name, url=url, model=options.model, price=price) for name, url, price in made
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
            proxy.fault, before = fault, proxy.connections
            row = {"fault": fault, **ask(env, home / "work")}
            rows.append({**row, "tries": proxy.connections - before, "ran": ran(home, row["request"])})
        return rows
    finally:
        daemon.terminate()
        daemon.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", required=True)
    parser.add_argument("--second", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--faults", nargs="*", choices=FAULTS)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(parser.parse_args(), Path(folder))
    done = sum(row["status"] in ("done", "failed") for row in rows)
    report.report("clouds", rows, {"answered": done, "asked": len(rows)})


if __name__ == "__main__":
    main()
