"""Load, prefill, decode and calls beside the peers: `python -m tests.bench.engine [--quick] [--calls N]`.

The same weights through llmos, `transformers` and llama-cpp-python (if installed), each in a process of its
own that stays up; rounds are interleaved so that all see the same machine. What is compared differs in
number format and is named in the table: llmos packs the file's blocks where it has its kernels (else bf16),
transformers holds bf16, llama.cpp computes on the file's own quantised blocks. Medians; the columns `x_…` say
how many times as fast llmos is. Nothing is judged.

A call is a request's prompt read and a tool call written under a grammar (`bench.calls`), each engine keeping
what it has read of the prompt before, as they all do when they serve; transformers has no grammar and is left
out there. llmos guesses by the manifests' examples, and the requests stand in none of them. `--calls 60`
takes minutes. `--beside N`: N more calls beside a busy loop for each processor, and how many times the quiet
time of the same engine they take (`x_busy`). Beside other work `--threads 1` and the column of CPU time still
say how much either computes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.bench import calls
from tests.bench.report import ROOT, Value, report

SENTENCE = "The daemon reads a request, asks the policy, and writes what it did into the journal. "


class Peer(Protocol):
    """One implementation with the weights loaded."""

    numbers: str

    def decode(self, ids: list[int], count: int) -> tuple[float, float]:
        """Greedy, from an empty cache: (seconds to the first token, seconds of `count` - 1 further ones)."""

    def call(self, ids: list[int], say: str) -> str:
        """One tool call under the grammar, with what is still known of earlier prompts."""


class Llmos:
    numbers = "packed where it can be"

    def __init__(self, file: Path, threads: int, context: int) -> None:
        from llmos.engine.engine import Engine

        self.engine = Engine.load(file, dtype="auto", threads=threads, context_tokens=context)
        self.eos_ids = self.engine.tokenizer.eos_ids

    def decode(self, ids: list[int], count: int) -> tuple[float, float]:
        from llmos.engine.engine import Engine

        own = self.engine
        fresh = Engine(own.name, own.model, own.tokenizer, own.context_tokens)
        fresh.guessing = False  # the text repeats itself, so every guess would be right
        own.tokenizer.eos_ids = frozenset()  # all decode the same number of tokens
        done = fresh.generate(ids, max_tokens=count)
        own.tokenizer.eos_ids = self.eos_ids
        assert done.generated_tokens == count
        return done.prefill_ms / 1e3, done.decode_ms / 1e3

    @cached_property
    def constraint(self) -> Any:
        from llmos.engine.grammar import CallConstraint

        return CallConstraint(self.engine.tokenizer, calls.specs(), max_calls=1)

    @cached_property
    def retriever(self) -> Any:
        from llmos.planner.retrieval import Retriever

        return Retriever(calls.specs())

    def call(self, ids: list[int], say: str) -> str:
        from llmos.planner import hints

        self.constraint.restart()
        likely = hints.tokens(self.engine.tokenizer.encode, self.retriever, say, ids[-2:])
        done = self.engine.generate(
            ids, max_tokens=calls.MAX_REPLY_TOKENS, constraint=self.constraint, hints=likely
        )
        return done.text


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

    def call(self, ids: list[int], say: str) -> str:
        raise NotImplementedError("transformers has no grammar")


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

    @cached_property
    def grammar(self) -> Any:
        from llama_cpp import LlamaGrammar

        return LlamaGrammar.from_string(calls.gbnf(calls.specs()), verbose=False)

    def call(self, ids: list[int], say: str) -> str:
        done = self.model.create_completion(
            ids, max_tokens=calls.MAX_REPLY_TOKENS, temperature=0.0, grammar=self.grammar
        )
        return str(done["choices"][0]["text"])


PEERS: dict[str, tuple[type[Any], str]] = {
    "llmos": (Llmos, "torch"),
    "transformers": (Transformers, "transformers"),
    "llama-cpp-python": (LlamaCpp, "llama_cpp"),
}


# --- the peer's process -----------------------------------------------------------------------


def serve(name: str, file: Path, threads: int, context: int) -> None:
    """Load, say so, then answer each line `{"ids", "count"}` with two times, `{"ids", "say"}` with a call."""
    began = time.perf_counter()
    peer: Peer = PEERS[name][0](file, threads, context)
    _say({"load_s": time.perf_counter() - began, "numbers": peer.numbers})
    for line in sys.stdin:
        wanted = json.loads(line)
        if "count" not in wanted:
            began, cpu_began = time.perf_counter(), time.process_time()
            text = peer.call(**wanted)
            _say(
                {
                    "call_s": time.perf_counter() - began,
                    "cpu_s": time.process_time() - cpu_began,
                    "text": text,
                }
            )
            continue
        prefill_s, decode_s = peer.decode(**wanted)
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

    def ask(self, **wanted: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.communicate(timeout=60)


# --- the comparison ---------------------------------------------------------------------------


def compare(
    file: Path,
    *,
    threads: int,
    prompt_tokens: int,
    count: int,
    rounds: int,
    num_calls: int,
    num_beside: int = 0,
    without: Sequence[str] = (),
) -> list[dict[str, Value]]:
    from llmos.engine.weights import open_source

    tools = calls.specs()

    tokenizer = open_source(file).tokenizer
    ids = tokenizer.encode(SENTENCE * (prompt_tokens // 8))[:prompt_tokens]
    says = calls.requests(num_calls + 1 + (num_beside + 1 if num_beside else 0))  # the first warm up
    random.Random(1).shuffle(says)  # quiet and busy calls of all kinds
    asked = dict(zip(says, calls.prompts(tokenizer, tools, says), strict=True))
    context = max(prompt_tokens + count, *(len(one) + calls.MAX_REPLY_TOKENS for one in asked.values())) + 8
    names = [name for name, (_, module) in PEERS.items() if find_spec(module) and name not in without]
    with tempfile.TemporaryDirectory() as folder:
        first = Server("llmos", file, threads, context, Path(folder))  # unpacks and keeps the loaded form
        first.close()
        servers = {name: Server(name, file, threads, context, Path(folder)) for name in names}
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(rounds + 1):
            for name, server in servers.items():
                answer = server.ask(ids=ids, count=count)
                if number:  # the first round warms up
                    taken[name].append(answer)
        callers = {name: servers[name] for name in names if name != "transformers"}
        call_s = _calls(callers, dict(islice(asked.items(), num_calls + 1)))
        with busy_loops((os.cpu_count() or 1) if num_beside else 0):
            beside_s = _calls(callers, dict(islice(asked.items(), num_calls + 1, None)))
        rows = [_row(name, servers[name].loaded, taken[name], prompt_tokens, count) for name in names]
        for server in servers.values():
            server.close()
    rows[0]["first_s"] = first.loaded["load_s"]
    return [
        row | _ratios(row, rows[0]) | _call_row(row, call_s) | _beside_row(row, call_s, beside_s)
        for row in rows
    ] + _left_out(names)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _calls(servers: dict[str, Server], asked: dict[str, list[int]]) -> dict[str, list[dict[str, Any]]]:
    """Each call's answer but the first, which warms up."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for number, (say, ids) in enumerate(asked.items()):
        for name, server in servers.items():
            answer = server.ask(ids=ids, say=say)
            if number:
                taken[name].append(answer)
    return taken


def _call_row(row: dict[str, Value], calls_of: dict[str, list[dict[str, Any]]]) -> dict[str, Value]:
    own, base = calls_of.get(str(row["engine"])), calls_of["llmos"]
    if not own:
        return {}
    wall, base_wall, cpu, base_cpu = (
        [answer[key] for answer in taken] for key in ("call_s", "cpu_s") for taken in (own, base)
    )
    return {
        "call_s": statistics.median(wall),
        "call_p95_s": _p95(wall),
        "x_call": statistics.median(wall) / statistics.median(base_wall),
        "x_call_p95": _p95(wall) / _p95(base_wall),
        "x_call_cpu": statistics.median(cpu) / statistics.median(base_cpu),
    }


def _beside_row(
    row: dict[str, Value], quiet: dict[str, list[dict[str, Any]]], beside: dict[str, list[dict[str, Any]]]
) -> dict[str, Value]:
    """How many times its own quiet time a call takes beside busy loops."""
    name = str(row["engine"])
    if not beside.get(name):
        return {}
    slow, quick = (statistics.median(a["call_s"] for a in taken[name]) for taken in (beside, quiet))
    return {"x_busy": slow / quick}


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


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
    return [{"engine": name, "numbers": "left out"} for name in PEERS if name not in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a name, a GGUF file")
    parser.add_argument("--quick", action="store_true", help="a short prompt, one round")
    parser.add_argument("--calls", type=int, default=10, help="requests that become calls")
    parser.add_argument(
        "--beside", type=int, default=0, help="as many more, beside a busy loop for each processor"
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--without", choices=PEERS, action="append", default=[], help="a peer to leave out")
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
    sizes = {"prompt_tokens": 64, "count": 16, "rounds": 1, "num_calls": options.calls}
    sizes["num_beside"] = options.beside
    if not options.quick:
        sizes |= {"prompt_tokens": 256, "count": 64, "rounds": 5}
    rows = compare(file, threads=threads, without=options.without, **sizes)
    report("engine", rows, {"model": file.name, "threads": threads, **sizes})


if __name__ == "__main__":
    main()
