"""Local first against cloud only: what it costs and how much is understood, on a sample of the suite.

    python -m tests.bench.first --url http://127.0.0.1:8081/v1 --name NAME [--every N] [--prices 0.22 0.95]

Each sentence is asked in each way, in a fresh workspace and with the consent `yes`, through a daemon that has
the server at `--url` as its backend; whoever measures starts it (`llama_cpp.server`, `llmos serve`, vLLM).
`understood` and `wrong action` are the suite's own judgement; what it cost is the sum of the receipts, at the
prices given (US dollars for a million tokens). Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.report import report
from tests.bench.understand.__main__ import daemon, load_cases, run_case, share

WAYS = {"local only": "local", "local first": "auto", "cloud only": "cloud"}
CONFIG = """
[offload]
min_confidence = {least}
timeout_s = {timeout}
retries = 0
[[backend]]
name = "cloud"
url = "{url}"
model = "{model}"
dialect = "{dialect}"
max_reply_tokens = 200
price_in = {price_in}
price_out = {price_out}
silence_timeout_s = {timeout}
timeout_s = {timeout}
"""


def spent(folder: Path) -> dict[str, Any]:
    """What the journal's receipts sum up to so far."""
    file = folder / "state/llmos/audit.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    tries = [one for entry in entries if entry["kind"] == "receipt" for one in entry["attempts"]]
    tokens = sum(one["prompt_tokens"] + one["reply_tokens"] for one in tries)
    sent = sum(entry["kind"] == "offload" for entry in entries)
    return {"sent": sent, "tokens": tokens, "usd": round(sum(one["usd"] for one in tries), 6)}


def measure(way: str, cases: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    text = CONFIG.format(
        url=options.url, model=options.name, least=options.least, timeout=options.timeout,
        dialect=options.dialect, price_in=options.prices[0], price_out=options.prices[1],
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="first-", dir=Path.home()) as name,
        socket.socket() as listener,
        daemon(options.model, Path(name), threads=options.threads, more=text) as sock,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port, rows = listener.getsockname()[1], []
        for case in cases:
            rows.append(run_case(case, sock, Path(name), port, route=WAYS[way]))
            print(way, rows[-1]["ok"], rows[-1]["say"], rows[-1]["calls"], file=sys.stderr, flush=True)
        return {
            "way": way,
            "sentences": len(rows),
            "understood": share(rows),
            "wrong action": share(rows, "wrong_action"),
            "median s": round(statistics.median(row["seconds"] for row in rows), 1),
            **spent(Path(name)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8081/v1")
    parser.add_argument("--name", default="large", help="what the server calls its model")
    parser.add_argument("--model", default="default", help="of this machine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=40, help="a sample: every Nth sentence")
    parser.add_argument("--least", type=float, default=0.8, help="min_confidence of local first")
    parser.add_argument("--prices", nargs=2, type=float, default=(0.22, 0.95))
    parser.add_argument(
        "--dialect", default="auto", help="text is quick where a grammar of all tools is slow (llama.cpp)"
    )
    parser.add_argument("--timeout", type=float, default=170.0, help="seconds for an answer of the backend")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    cases = load_cases()[:: options.every]
    rows = [measure(way, cases, options) for way in options.ways]
    summary = {row["way"]: {"understood": row["understood"], "usd": row["usd"]} for row in rows}
    report("first", rows, {"cloud": options.name, "local": options.model, **summary})


if __name__ == "__main__":
    main()
