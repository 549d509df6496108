"""Whether guessing changes a reply: `python -m tests.bench.guesses [--count N] [--minutes M] [--done FILE]`.

Each request is thought about twice, with guesses and without, each way with caches of its own, so that what
was read in many rows at once is compared with what was read without them. The same calls, the same number of
tokens and the same confidence to the last bit count as identical; what differs is listed. The requests are
those of `bench.understand` and the manifests' examples. With `--done` a run that was ended goes on there.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmos.engine import adapter as adapters
from llmos.engine import store
from llmos.engine.engine import Engine
from llmos.engine.generate import Generation
from llmos.errors import LlmosError
from llmos.messages import Think, ToolSpec
from llmos.planner.loop import Loop
from tests.bench import calls
from tests.bench.report import Value, report

CONTEXT_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Reply:
    """All that a person could tell two replies apart by, how likely each choice was, and what it took."""

    calls: str
    confidence: float
    num_tokens: int
    passes: int = field(compare=False)


class Counting(Engine):
    """Knows how often the model was run for the last reply."""

    passes = 0

    def generate(self, *args: Any, **options: Any) -> Generation:
        done = super().generate(*args, **options)
        self.passes = done.passes
        return done


class Pair:
    """One model behind two loops that share nothing else."""

    def __init__(self, base: Engine, tools: Sequence[ToolSpec]) -> None:
        self._sides = [_side(base, tools, guessing=guessing) for guessing in (True, False)]

    def replies(self, say: str) -> tuple[Reply, Reply]:
        with_guesses, without = (_reply(*side, say) for side in self._sides)
        return with_guesses, without


def _side(base: Engine, tools: Sequence[ToolSpec], *, guessing: bool) -> tuple[Counting, Loop]:
    engine = Counting(base.name, base.model, base.tokenizer, base.context_tokens)
    engine.guessing, engine.asked = guessing, base.asked
    loop = Loop(engine, context_tokens=base.context_tokens)
    loop.teach(tools)
    return engine, loop


def _reply(engine: Counting, loop: Loop, say: str) -> Reply:
    think = Think(id="bench", text=say, entries=calls.ENTRIES)
    try:
        thought = loop.think(think, cancel=threading.Event(), on_text=lambda text: None)
    except LlmosError as error:
        return Reply(str(error), 0.0, 0, 0)
    said = json.dumps([call.model_dump() for call in thought.calls])
    return Reply(said, thought.confidence, thought.timing.generated_tokens, engine.passes)


def requests(tools: Sequence[ToolSpec]) -> list[str]:
    examples = [example.say for spec in tools for example in spec.examples]
    return list(dict.fromkeys([*calls.requests(1000), *examples]))


@dataclass(frozen=True, slots=True)
class Result:
    """Of one request; the two counts are of passes of the model."""

    say: str
    same: bool
    tokens: int
    guessing: int
    plain: int


def _results(pair: Pair, says: Sequence[str], minutes: float, done: Path | None) -> Iterator[Result]:
    """Each request's, those of an earlier run first."""
    lines = done.read_text().splitlines() if done and done.exists() else []
    known = {result.say: result for result in (Result(**json.loads(line)) for line in lines)}
    yield from (known[say] for say in says if say in known)
    end = time.monotonic() + 60 * minutes
    for say in says:
        if say in known:
            continue
        if time.monotonic() > end:
            return
        one, other = pair.replies(say)
        result = Result(say, one == other, other.num_tokens, one.passes, other.passes)
        if done:
            with done.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
        yield result


def _row(results: Sequence[Result]) -> dict[str, Value]:
    count = max(1, len(results))
    return {
        "requests": len(results),
        "identical": sum(result.same for result in results),
        "tokens": sum(result.tokens for result in results) / count,
        "passes": sum(result.plain for result in results) / count,
        "passes_guessing": sum(result.guessing for result in results) / count,
        "different": "; ".join(result.say for result in results if not result.same),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a name, a GGUF file")
    parser.add_argument("--count", type=int, default=500, help="requests")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--done", type=Path, help="where results are kept, to go on later")
    options = parser.parse_args()
    tools = calls.specs()
    sha256 = store.sha256_of(options.model)
    adapter = adapters.find(sha256) if sha256 else None
    engine = Engine.load(
        store.resolve(options.model), dtype="auto", context_tokens=CONTEXT_TOKENS, adapter=adapter
    )
    pair = Pair(engine, tools)
    results = list(_results(pair, requests(tools)[: options.count], options.minutes, options.done))
    report(
        "guesses", [_row(results)], {"model": engine.name, "weights": engine.form, "adapter": bool(adapter)}
    )


if __name__ == "__main__":
    main()
