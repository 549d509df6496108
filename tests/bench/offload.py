"""Time that routing and redaction add before anything is sent: `python -m tests.bench.offload [--rounds N]`.

The courier's own finders (the journal's table, detect-secrets, the small head) over texts of 1, 4 and 16 kB:
a log, source code, and a configuration that is full of secrets; each text is new to the redactor, as in use.
Beside it the choice of where to send it. Not in it: the network, the backend, and the daemon's two frames to
the courier and back. One process, one thread; medians and the 95th percentile, by the clock and in processor
time: the latter is what counts where others keep the machine busy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from llmos import hints
from llmos.cloud import detect
from llmos.cloud.redact import Redactor
from llmos.guard import redaction
from llmos.planner import route
from tests.bench.report import report

FINDERS = (redaction.secrets_in, detect.secrets_in, hints.secrets_in)


def log(n: int) -> str:
    day, minute = n % 28 + 1, n % 60
    return f"2026-03-{day:02d} 12:{minute:02d}:07 web{n % 3} GET /item/{n * 37} 200 {n * 91} 10.0.{n % 9}.4\n"


def code(n: int) -> str:
    return f"def step_{n}(left, right={n}):\n    return join(left, '/usr/lib/part{n}', str(right * {n}))\n"


def config(n: int) -> str:
    return (
        f"user{n} = mail{n}@example.org\npassword{n} = Tr0ub4dor-{n}-x!\nurl{n} = https://srv{n}.corp/v{n}\n"
    )


def text_of(line: Callable[[int], str], size: int, start: int) -> str:
    made, n = "", start
    while len(made) < size:
        made, n = made + line(n), n + 1
    return made[:size]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds by the clock, and of the processor."""
    began, busy = time.perf_counter(), time.thread_time()
    work()
    return 1000 * (time.perf_counter() - began), 1000 * (time.thread_time() - busy)


def choice(text: str) -> route.Choice:
    kind = route.kind_of(text, has_data=True)
    backend = route.BackendFacts("cloud", fits=True, window=32_768, ceiling_usd=0.01)
    facts = route.Facts(kind, len(text) // 4, 192, 2048, consent="given", backends=(backend,))
    return route.choose(facts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    detect.load()
    for line in (log, code, config):  # patterns are compiled once, by the courier before its first request
        Redactor(FINDERS).hide(text_of(line, 1000, 0))
    rows = []
    for line in (log, code, config):
        for size in (1_000, 4_000, 16_000):
            texts = [text_of(line, size, 1000 * n) for n in range(rounds)]
            took = [timed(lambda text=text: Redactor(FINDERS).hide(text)) for text in texts]  # type: ignore[misc]
            chosen = [timed(lambda text=text: choice(text)) for text in texts]  # type: ignore[misc]
            clock, busy = (sorted(column) for column in zip(*took, strict=True))
            rows.append(
                {
                    "text": line.__name__,
                    "bytes": size,
                    "redaction ms": round(statistics.median(clock), 2),
                    "p95 ms": round(clock[int(0.95 * (rounds - 1))], 2),
                    "routing ms": round(statistics.median(wall for wall, _ in chosen), 3),
                    "cpu ms": round(statistics.median(busy) + statistics.median(c for _, c in chosen), 2),
                }
            )
    four = [row for row in rows if row["bytes"] == 4_000]
    by_clock = max(row["redaction ms"] + row["routing ms"] for row in four)  # type: ignore[operator, type-var]
    cpu = max(row["cpu ms"] for row in four)  # type: ignore[type-var]
    report("offload", rows, {"slowest median of 4 kB, ms": by_clock, "its processor time, ms": cpu})


if __name__ == "__main__":
    main()
