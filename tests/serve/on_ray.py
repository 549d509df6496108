"""`llmos serve --ray`, and replicas of it killed: for test_replicas.py and the benchmark ray_serve."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil

PROMPT = "Write a story about the sea."


@dataclass(frozen=True)
class Served:
    address: str
    process: psutil.Popen
    log: Path

    def replicas(self) -> set[int]:
        """Those of a cluster of its own."""
        return replicas_below(self.process)

    def replayed(self) -> int:
        """How many attempts were lost with their replica."""
        return self.log.read_text().count("ended with its replica")


def replicas_below(parent: psutil.Process) -> set[int]:
    """The processes with an engine that `parent` or its children started, by number."""
    return {process.pid for process in parent.children(recursive=True) if _is_replica(process)}


def _is_replica(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "".join(process.cmdline()).startswith(
            "ray::ServeReplica"
        )
    except psutil.NoSuchProcess:
        return False


@contextmanager
def serving(log: Path, *words: str, env: Mapping[str, str] = os.environ) -> Iterator[Served]:
    """A server that is stopped afterwards by SIGTERM, which it must obey, leaving no process behind."""
    command = [sys.executable, "-m", "llmos", "serve", "--port", "0", *words]
    with log.open("wb") as said:
        process = psutil.Popen(command, stdout=said, stderr=said, env=dict(env))
    try:
        wait_for(lambda: "/v1" in log.read_text() or process.poll() is not None, 120, "the server")
        found = re.search(r"^llmos: \S+ at (http\S+/v1)$", log.read_text(), re.MULTILINE)
        assert found, log.read_text()
        yield Served(found[1], process, log)
    finally:
        family = process.children(recursive=True)
        process.terminate()
        try:
            assert process.wait(40) == -signal.SIGTERM, log.read_text()
            _, alive = psutil.wait_procs(family, timeout=20)
            assert not alive, alive
        finally:
            for each in (process, *family):
                if each.is_running():
                    each.kill()


def ask(client: openai.OpenAI, *, streamed: bool, tokens: int, **given: Any) -> str:
    """The reply's text. Raises what the client raises; it does not try again."""
    asked: dict[str, Any] = {
        "model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, **given,
    }  # fmt: skip
    if not streamed:
        return str(client.chat.completions.create(**asked).choices[0].message.content)
    chunks = client.chat.completions.create(**asked, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def wait_for(holds: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Seconds until it held."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() > started + timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - started
