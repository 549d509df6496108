"""Where the first request's time goes after an idle unload: `python -m tests.bench.cold [--model NAME]`.

The stages of the planner's start and its first two requests, in this process, in the order in which the
planner goes through them; without the start of Python itself, the broker and the sandbox. CPU time is that
of all threads and says more than the clock where other programs run. `cached` are prompt tokens that were not
read: in the first request they come from disk (`engine.prefix`), so a machine's very first run has none.
"""

from __future__ import annotations

import argparse
import gc
import threading
import time

from tests.bench.report import Value, report


class Stages:
    def __init__(self) -> None:
        self.rows: list[dict[str, Value]] = []
        self._restart()

    def _restart(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def end(self, name: str, cached: int | None = None) -> None:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self.rows.append({"stage": name, "wall_ms": 1e3 * wall, "cpu_ms": 1e3 * cpu, "cached": cached})
        self._restart()


def run(model: str) -> list[dict[str, Value]]:
    stages = Stages()
    gc.disable()  # as the planner does while it loads
    import torch  # noqa: F401

    stages.end("import torch")
    from llmos.engine import adapter as adapters
    from llmos.engine import store
    from llmos.engine.engine import Engine
    from llmos.messages import Think
    from llmos.planner.loop import Loop

    stages.end("import engine and planner")
    sha256 = store.sha256_of(model)
    adapter = adapters.find(sha256) if sha256 else None
    engine = Engine.load(store.resolve(model), dtype="auto", adapter=adapter)
    stages.end("weights and tokenizer")
    loop = Loop(engine, context_tokens=4096)
    stages.end("vocabulary of the grammar")
    from tests.bench import calls

    tools = calls.specs()
    stages.end("(manifests: the broker's work)")
    loop.teach(tools)
    gc.freeze()
    gc.enable()
    stages.end("tools: grammar, index of examples")
    for number, say in (("first", "the five biggest files here"), ("second", "delete old.log")):
        think = Think(id=number, text=say, entries=calls.ENTRIES)
        timing = loop.think(think, cancel=threading.Event(), on_text=lambda text: None).timing
        stages.end(f"{number} request", timing.cached_tokens)
    return stages.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a name, a GGUF file")
    options = parser.parse_args()
    report("cold", run(options.model), {"model": options.model})


if __name__ == "__main__":
    main()
