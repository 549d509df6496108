"""`llmos model bench|perplexity|quantize`: how fast and how good a model is here, and a smaller one.

Runs in the client's own process, beside whatever the daemon does: figures are of this machine as busy as it
is now. Nothing is judged.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from llmos.engine import adapter as adapters
from llmos.engine import store
from llmos.engine.adapter import Adapter
from llmos.engine.localfile import Origin
from llmos.errors import UsageError

if TYPE_CHECKING:
    from llmos.engine.engine import Engine
    from llmos.engine.weights import Bits

_NUMBERS = ("auto", "packed", "bfloat16", "float32")
_BENCH_TEXT = "The daemon reads a request, asks the policy, and writes what it did into the journal. "

_Share = Callable[[float], None]


def add_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    bench = add("bench", "how fast a model is on this machine", "llmos model bench default", "NAME|PATH")
    bench.add_argument("--prompt", type=_tokens, default=256, metavar="N", help="tokens to read (256)")
    bench.add_argument("--reply", type=_tokens, default=64, metavar="N", help="tokens to write (64)")
    bench.add_argument("--rounds", type=_tokens, default=3, metavar="N", help="medians of so many (3)")
    told = add(
        "perplexity",
        "how well a model foretells a text: lower is better; compares number formats of one model",
        "llmos model perplexity default notes.txt --numbers bfloat16 --numbers packed",
        "NAME|PATH",
    )
    told.add_argument("text", metavar="FILE", help="a text file of a few hundred words or more")
    told.add_argument("--window", type=_tokens, default=512, metavar="N", help="tokens read together (512)")
    smaller = add(
        "quantize",
        "write a smaller model into a folder of its own",
        "llmos model quantize default --bits 4 && llmos model use ./default-int4",
        "NAME|PATH",
    )
    smaller.add_argument("--bits", type=int, choices=(4, 5, 7), default=4, help="of each weight (4)")
    smaller.add_argument("--out", default="", metavar="FOLDER", help="a new folder (./NAME-intBITS)")
    for verb in (bench, told):
        verb.add_argument("--numbers", choices=_NUMBERS, action="append", help="several may be given (auto)")
        verb.add_argument("--threads", type=int, default=0, metavar="N", help="as many as there are cores")
        verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it computes (cpu)")
    for verb in (bench, told, smaller):
        verb.add_argument("--no-adapter", action="store_true", help="without the shipped adapter")
        verb.add_argument("--json", action="store_true", help="print one JSON object")


def _tokens(text: str) -> int:
    number = int(text)
    if not 0 < number <= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {1 << 16}")
    return number


# --- the verbs ---------------------------------------------------------------------------------


def bench(options: argparse.Namespace) -> None:
    rows = [_bench(options, numbers) for numbers in options.numbers or ["auto"]]
    if options.json:
        print(json.dumps({"model": options.name, "rows": rows}))
        return
    for row in rows:
        print(
            f"{row['numbers']:9} load {row['load_s']:.2f} s   read {row['prefill_tps']:.0f} tokens/s"
            f"   write {row['decode_tps']:.1f} tokens/s   {row['weight_mb']:.0f} MB a token:"
            f" {row['decode_gbps']:.1f} of {row['memory_gbps']:.1f} GB/s that memory gives"
        )


def perplexity(options: argparse.Namespace) -> None:
    text = _read(Path(options.text))
    rows: list[dict[str, Any]] = []
    for numbers in options.numbers or ["auto"]:
        engine = _load(options, numbers, options.window + 1)
        from llmos.engine.perplexity import perplexity as measured  # torch has been set up by now

        ids = engine.tokenizer.encode(text)
        with _bar(f"{options.name} {engine.form}") as share:
            value = measured(engine, ids, window=options.window, on_progress=share)
        change = value / rows[0]["perplexity"] - 1 if rows else 0.0
        rows.append({"numbers": engine.form, "tokens": len(ids), "perplexity": value, "change": change})
    if options.json:
        print(json.dumps({"model": options.name, "text": options.text, "rows": rows}))
        return
    for row in rows:
        print(
            f"{row['numbers']:9} perplexity {row['perplexity']:.4f}  {row['change']:+.2%}"
            f"  over {row['tokens']} tokens"
        )


def quantize(options: argparse.Namespace) -> None:
    from llmos.engine import quantised

    bits = cast("Bits", options.bits)
    path, adapter = _found(options)
    base = path.stem if path.is_file() else path.name
    out = Path(options.out).expanduser() if options.out else Path(f"{Path(options.name).stem}-int{bits}")
    origin = Origin(base, store.sha256_of(options.name), bits, adapter.sha256 if adapter else None)
    with _bar(f"{options.name} to {bits} bits") as share:
        num_bytes = quantised.write(path, out, origin, bits=bits, adapter=adapter, on_progress=share)
    if options.json:
        print(json.dumps({"path": str(out), "bits": bits, "num_bytes": num_bytes}))
        return
    print(f"{out}: {num_bytes / 1e6:.0f} MB of weights. Use it with: llmos model use {out.resolve()}")


VERBS = {"bench": bench, "perplexity": perplexity, "quantize": quantize}


# --- what they share ---------------------------------------------------------------------------


def _read(file: Path) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "Give a text file in UTF-8.") from error


def _found(options: argparse.Namespace) -> tuple[Path, Adapter | None]:
    path = store.resolve(options.name)
    return path, adapters.chosen(not options.no_adapter, store.sha256_of(options.name))


def _load(options: argparse.Namespace, numbers: str, context_tokens: int) -> Engine:
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # as the daemon's planner: torch reads it when imported
    from llmos.engine.engine import Engine

    path, adapter = _found(options)
    with _bar(f"{options.name}: loading") as share:
        return Engine.load(
            path,
            dtype=cast('Literal["auto", "packed", "bfloat16", "float32"]', numbers),
            threads=options.threads,
            context_tokens=context_tokens,
            adapter=adapter,
            device=options.device,
            on_progress=share,
        )


def _bench(options: argparse.Namespace, numbers: str) -> dict[str, Any]:
    began = time.perf_counter()
    engine = _load(options, numbers, options.prompt + options.reply)
    load_s = time.perf_counter() - began
    from llmos.engine.bandwidth import memory_gbps

    engine.tokenizer.eos_ids = frozenset()  # the reply is to be as long as was asked for
    engine.guessing = False  # the text repeats itself, so every guess would be right
    ids = engine.tokenizer.encode(_BENCH_TEXT * (options.prompt // 8 + 1))[: options.prompt]
    taken = []
    with _bar(f"{options.name}: {engine.form}") as share:
        for number in range(options.rounds):
            engine.forget()
            taken.append(engine.generate(ids, max_tokens=options.reply))
            share((number + 1) / options.rounds)
    decode_ms = statistics.median(done.decode_ms for done in taken)
    decode_tps = 1e3 * max(1, options.reply - 1) / max(decode_ms, 1e-3)
    weight_bytes = engine.model.bytes_per_token
    return {
        "numbers": engine.form,
        "load_s": load_s,
        "prefill_tps": 1e3 * len(ids) / statistics.median(done.prefill_ms for done in taken),
        "decode_tps": decode_tps,
        "weight_mb": weight_bytes / 1e6,
        "decode_gbps": weight_bytes * decode_tps / 1e9,
        "memory_gbps": memory_gbps(engine.model.device),
    }


@contextmanager
def _bar(name: str) -> Iterator[_Share]:
    """A bar at a terminal; elsewhere a line for each fifth of the way."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(name)
        return
    with Bars(console=console, transient=True) as bars:
        task = bars.add_task(name, total=1.0)
        yield lambda share: bars.update(task, completed=share)


def _lines(name: str) -> _Share:
    told = 0

    def share(done: float) -> None:
        nonlocal told
        if int(5 * done) > told:
            told = int(5 * done)
            print(f"{name}: {20 * told}%", file=sys.stderr, flush=True)

    return share
