"""What a form of the weights costs and loses: `python -m tests.bench.forms [--tokens N] [--requests N]`.

One model in bfloat16, with the file's own few bits (`packed`), and quantised to 7, 5 and 4 bits, the shipped
adapter in or beside each. For each: what is read for a token, the processor time of decoding one (one thread,
the best of some), the perplexity of the first tokens of the project's own documents and its change against
bfloat16, and of how many requests of `bench.understand` the calls are the very ones of bfloat16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from llmos.engine import adapter as adapters
from llmos.engine import quantised, store
from llmos.engine.adapter import Adapter
from llmos.engine.engine import Engine
from llmos.engine.localfile import Origin
from llmos.engine.perplexity import perplexity
from llmos.errors import LlmosError
from llmos.messages import Think
from llmos.planner.loop import Loop
from tests.bench import calls
from tests.bench.report import ROOT, Value, report

CONTEXT_TOKENS = 2048
BITS = (7, 5, 4)
DECODED = 12  # tokens, of which the quickest counts


def forms(name: str, adapter: Adapter | None, folder: Path) -> Iterator[tuple[str, Engine]]:
    """One after the other: only one is held at a time."""
    path = store.resolve(name)
    common = {"threads": 1, "context_tokens": CONTEXT_TOKENS, "adapter": adapter}
    for form in ("bfloat16", "packed"):
        yield form, Engine.load(path, dtype=form, **common)  # type: ignore[arg-type]
    for bits in BITS:
        origin = Origin(path.stem, store.sha256_of(name), bits, adapter.sha256 if adapter else None)
        made = folder / f"int{bits}"
        quantised.write(path, made, origin, bits=bits, adapter=adapter)
        yield f"int{bits}", Engine.load(made, dtype="auto", **common)  # type: ignore[arg-type]


@torch.inference_mode()
def decode_cpu_ms(engine: Engine) -> float:
    cache = engine.model.new_cache(1, 256)
    engine.model.states(torch.arange(1000, 1100).unsqueeze(0), cache)
    taken = []
    for token in range(DECODED):
        began = time.process_time()
        engine.model(torch.tensor([[1000 + token]]), cache)
        taken.append(1e3 * (time.process_time() - began))
    return min(taken)


def replies(engine: Engine, adapter: Adapter | None, says: list[str]) -> list[str]:
    loop = Loop(engine, context_tokens=CONTEXT_TOKENS, adapter=adapter)
    loop.teach(calls.specs())
    found = []
    for say in says:
        think = Think(id="bench", text=say, entries=calls.ENTRIES)
        try:
            thought = loop.think(think, cancel=threading.Event(), on_text=lambda text: None)
            found.append(json.dumps([call.model_dump() for call in thought.calls]))
        except LlmosError as error:
            found.append(str(error))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a name, a GGUF file")
    parser.add_argument("--tokens", type=int, default=2000, help="of the text that is foretold")
    parser.add_argument("--requests", type=int, default=20, help="whose calls are compared")
    options = parser.parse_args()
    sha256 = store.sha256_of(options.model)
    adapter = adapters.find(sha256) if sha256 else None
    text = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").glob("*.md")))
    says = calls.requests(options.requests)
    rows: list[dict[str, Value]] = []
    expected: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for form, engine in forms(options.model, adapter, Path(folder)):
            ids = engine.tokenizer.encode(text)[: options.tokens]
            value = perplexity(engine, ids)
            found = replies(engine, adapter, says)
            expected = expected or found
            row: dict[str, Value] = {
                "form": form,
                "read_mb": engine.model.bytes_per_token / 1e6,
                "decode_cpu_ms": decode_cpu_ms(engine),
                "perplexity": value,
                "change_percent": 100 * (value / float(rows[0]["perplexity"] or 1) - 1) if rows else 0.0,
                "same_calls": sum(one == other for one, other in zip(found, expected, strict=True)),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    summary = {"model": options.model, "adapter": bool(adapter), "tokens": len(ids), "requests": len(says)}
    report("forms", rows, summary)


if __name__ == "__main__":
    main()
