"""What a form of the weights costs and loses: `python -m tests.bench.forms [--tokens N] [--requests N]`.

    llmos tune data --out train.jsonl --valid valid.jsonl --count 20000
    llmos tune prune --rows train.jsonl --valid valid.jsonl --drop 2 --out shorter --max-seconds 1800 --mixed
    python -m tests.bench.forms --rows valid.jsonl --judged 100 --beside shorter --beside tiny

One model in bfloat16, with the file's own few bits (`packed`), and quantised to 7, 5 and 4 bits, the shipped
adapter in or beside each. For each: what is read for a token, the processor time of decoding one (one thread,
the best of some), the perplexity of the first tokens of the project's own documents and its change against
bfloat16, and of how many requests of `bench.understand` the calls are the very ones of bfloat16. With --rows:
the shares of these requests whose calls are exactly the rows', and that would change something wrong.
--beside: other models as they are used, and smaller ones that `llmos tune prune` or `distill` made.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
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
from llmos.paths import tool_dirs
from llmos.planner.loop import Loop
from llmos.toolbox import catalog
from llmos.tune.evaluate import ask, rows_about, summary
from tests.bench import calls
from tests.bench.report import ROOT, Value, report

CONTEXT_TOKENS = 4096
BITS = (7, 5, 4)
DECODED = 12  # tokens, of which the quickest counts


def forms(
    name: str, adapter: Adapter | None, folder: Path, beside: Sequence[str]
) -> Iterator[tuple[str, Engine]]:
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
        shutil.rmtree(made)
    for other in beside:
        own = adapters.chosen(True, store.sha256_of(other))
        other_path = store.resolve(other)
        yield f"{other_path.stem}, packed", Engine.load(other_path, dtype="auto", **common | {"adapter": own})  # type: ignore[arg-type]


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


def replies(engine: Engine, says: list[str]) -> list[str]:
    loop = Loop(engine, context_tokens=CONTEXT_TOKENS)
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


def calls_right(engine: Engine, file: Path, judged: int) -> dict[str, Value]:
    tools = catalog.load(tool_dirs()[:1])
    read_only = {name for name, tool in tools.tools.items() if tool.manifest.read_only}
    found = summary(ask(engine, tools, rows_about(tools, file)[:judged]), read_only)
    return {name: found[name] for name in ("rows", "exact", "tool", "wrong_action")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a name, a GGUF file")
    parser.add_argument("--tokens", type=int, default=2000, help="of the text that is foretold")
    parser.add_argument("--requests", type=int, default=20, help="whose calls are compared")
    parser.add_argument("--rows", type=Path, help="requests with their calls: llmos tune data --valid")
    parser.add_argument("--judged", type=int, default=100, help="of them, at most")
    parser.add_argument("--beside", action="append", default=[], metavar="MODEL", help="a name, a folder")
    options = parser.parse_args()
    sha256 = store.sha256_of(options.model)
    adapter = adapters.find(sha256) if sha256 else None
    text = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").glob("*.md")))
    says = calls.requests(options.requests)
    rows: list[dict[str, Value]] = []
    expected: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for form, engine in forms(options.model, adapter, Path(folder), options.beside):
            ids = engine.tokenizer.encode(text)[: options.tokens]
            value = perplexity(engine, ids)
            found = replies(engine, says)
            expected = expected or found
            row: dict[str, Value] = {
                "form": form,
                "read_mb": engine.model.bytes_per_token / 1e6,
                "decode_cpu_ms": decode_cpu_ms(engine),
                "perplexity": value,
                "change_percent": 100 * (value / float(rows[0]["perplexity"] or 1) - 1) if rows else 0.0,
                "same_calls": sum(one == other for one, other in zip(found, expected, strict=True)),
            }
            if options.rows:
                row |= calls_right(engine, options.rows, options.judged)
            rows.append(row)
            print(json.dumps(row), flush=True)
    summary = {"model": options.model, "adapter": bool(adapter), "tokens": len(ids), "requests": len(says)}
    report("forms", rows, summary)


if __name__ == "__main__":
    main()
