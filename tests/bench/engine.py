"""Load time, prefill and decode rates beside the peers: `python -m tests.bench.engine [--model M] [--quick]`.

The same weights through llmos, `transformers` and llama-cpp-python (if installed), each in a process of its
own that stays up; rounds are interleaved so that all see the same machine. What is compared differs in
number format and is named in the table: llmos packs the file's blocks where it has its kernels (else bf16),
transformers holds bf16, llama.cpp computes on the file's own quantised blocks. Medians; the last two columns
say how many times as fast llmos is. Nothing is judged.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.bench.report import ROOT, Value, report

SENTENCE = "The daemon reads a request, asks the policy, and writes what it did into the journal. "


class Peer(Protocol):
    """One implementation with the weights loaded."""

    numbers: str

    def decode(self, ids: list[int], count: int) -> tuple[float, float]:
        """Greedy, from an empty cache: (seconds to the first token, seconds of `count` - 1 further ones)."""


class Llmos:
    numbers = "packed where it can be"

    def __init__(self, file: Path, threads: int, context: int) -> None:
        from llmos.engine.engine import Engine

        self.engine = Engine.load(file, dtype="auto", threads=threads, context_tokens=context)
        self.engine.tokenizer.eos_ids = frozenset()  # all decode the same number of tokens

    def decode(self, ids: list[int], count: int) -> tuple[float, float]:
        from llmos.engine.engine import Engine

        old = self.engine
        self.engine = Engine(old.name, old.model, old.tokenizer, old.context_tokens)
        done = self.engine.generate(ids, max_tokens=count)
        assert done.generated_tokens == count
        return done.prefill_ms / 1e3, done.decode_ms / 1e3


class Transformers:
    numbers = "bf16"

    def __init__(self, file: Path, threads: int, context: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16
        ).eval()

    def decode(self, ids: list[int], count: int) -> tuple[float, float]:
        """Its forward with its own cache, without `generate`, whose overhead is another story."""
        import torch

        with torch.inference_mode():
            began = time.perf_counter()
            out = self.model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
            token = out.logits[0, -1].argmax()
            read = time.perf_counter()
            for _ in range(count - 1):
                out = self.model(token.view(1, 1), past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[0, -1].argmax()
            int(token)
        return read - began, time.perf_counter() - read


class LlamaCpp:
    numbers = "the file's"

    def __init__(self, file: Path, threads: int, context: int) -> None:
        from llama_cpp import Llama

        self.model = Llama(
            str(file), n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False
        )

    def decode(self, ids: list[int], count: int) -> tuple[float, float]:
        self.model.reset()
        began = time.perf_counter()
        self.model.eval(ids)
        token = self.model.sample(temp=0.0)
        read = time.perf_counter()
        for _ in range(count - 1):
            self.model.eval([token])
            token = self.model.sample(temp=0.0)
        return read - began, time.perf_counter() - read


PEERS: dict[str, tuple[type[Any], str]] = {
    "llmos": (Llmos, "torch"),
    "transformers": (Transformers, "transformers"),
    "llama-cpp-python": (LlamaCpp, "llama_cpp"),
}


# --- the peer's process -----------------------------------------------------------------------


def serve(name: str, file: Path, threads: int, context: int) -> None:
    """Load, say so, then answer each line `{"ids", "count"}` with its two times."""
    began = time.perf_counter()
    peer: Peer = PEERS[name][0](file, threads, context)
    _say({"load_s": time.perf_counter() - began, "numbers": peer.numbers})
    for line in sys.stdin:
        prefill_s, decode_s = peer.decode(**json.loads(line))
        _say({"prefill_s": prefill_s, "decode_s": decode_s, "resident": psutil.Process().memory_info().rss})


def _say(values: dict[str, Any]) -> None:
    print(json.dumps(values), file=sys.__stdout__, flush=True)


class Server:
    """A peer in a process of its own; its chatter goes nowhere."""

    def __init__(self, name: str, file: Path, threads: int, context: int, models_dir: Path) -> None:
        argv = [sys.executable, "-m", "tests.bench.engine", "--serve", name, "--model", str(file)]
        self.process = subprocess.Popen(
            [*argv, "--threads", str(threads), "--context", str(context)],
            cwd=ROOT,
            env=os.environ | {"LLMOS_MODELS_DIR": str(models_dir), "OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.loaded = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended with {self.process.wait()}")  # type: ignore[union-attr]
        return dict(json.loads(line))

    def decode(self, ids: list[int], count: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ids": ids, "count": count}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.communicate(timeout=60)


# --- the comparison ---------------------------------------------------------------------------


def compare(
    file: Path, *, threads: int, prompt_tokens: int, count: int, rounds: int
) -> list[dict[str, Value]]:
    from llmos.engine.weights import open_source

    tokenizer = open_source(file).tokenizer
    ids = tokenizer.encode(SENTENCE * (prompt_tokens // 8))[:prompt_tokens]
    context = prompt_tokens + count + 8
    names = [name for name, (_, module) in PEERS.items() if find_spec(module) is not None]
    with tempfile.TemporaryDirectory() as folder:
        first = Server("llmos", file, threads, context, Path(folder))  # unpacks and keeps the loaded form
        first.close()
        servers = {name: Server(name, file, threads, context, Path(folder)) for name in names}
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(rounds + 1):
            for name, server in servers.items():
                answer = server.decode(ids, count)
                if number:  # the first round warms up
                    taken[name].append(answer)
        rows = [_row(name, servers[name].loaded, taken[name], prompt_tokens, count) for name in names]
        for server in servers.values():
            server.close()
    rows[0]["first_s"] = first.loaded["load_s"]
    return [row | _ratios(row, rows[0]) for row in rows] + _left_out(names)


def _row(
    name: str, loaded: dict[str, Any], taken: list[dict[str, Any]], prompt_tokens: int, count: int
) -> dict[str, Value]:
    return {
        "engine": name,
        "numbers": loaded["numbers"],
        "load_s": loaded["load_s"],
        "first_s": None,
        "prefill_tps": prompt_tokens / statistics.median(a["prefill_s"] for a in taken),
        "decode_tps": (count - 1) / statistics.median(a["decode_s"] for a in taken),
        "rss_mib": taken[-1]["resident"] / (1 << 20),
    }


def _ratios(row: dict[str, Value], base: dict[str, Value]) -> dict[str, Value]:
    """How many times as fast llmos is."""
    return {
        f"x_{kind}": float(base[f"{kind}_tps"] or 0) / float(row[f"{kind}_tps"] or 1)
        for kind in ("prefill", "decode")
    }


def _left_out(names: list[str]) -> list[dict[str, Value]]:
    return [{"engine": name, "numbers": "not installed: left out"} for name in PEERS if name not in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a name, a GGUF file")
    parser.add_argument("--quick", action="store_true", help="a short prompt, one round")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--serve", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--context", type=int, default=512, help=argparse.SUPPRESS)
    options = parser.parse_args()
    from llmos.engine import store
    from llmos.engine.engine import default_threads

    file = store.resolve(options.model)
    threads = options.threads or default_threads()
    if options.serve:
        serve(options.serve, file, threads, options.context)
        return
    sizes = {"prompt_tokens": 64, "count": 16, "rounds": 1}
    if not options.quick:
        sizes = {"prompt_tokens": 256, "count": 64, "rounds": 5}
    rows = compare(file, threads=threads, **sizes)
    report("engine", rows, {"model": file.name, "threads": threads, **sizes})


if __name__ == "__main__":
    main()
