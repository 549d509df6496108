"""Requests of the shell that go on in the background, each in a thread with a connection of its own.

Nobody is there to answer for them: what the policy asks about waits in the inbox. Leaving the shell cancels
what is still at work, as the daemon does when a client goes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmos.console import safetext
from llmos.console.words import tr
from llmos.errors import LlmosError

JsonObject = dict[str, Any]
STATES = (
    "running",
    "waits for you",
    "done",
    "denied",
    "failed",
    "needs_approval",
    "needs_input",
    "not_understood",
)


@dataclass
class Job:
    number: int
    text: str
    result: JsonObject | None = None
    item: str = ""  # of the inbox, where it needs a word
    error: LlmosError | None = None
    told: bool = False

    @property
    def ended(self) -> bool:
        return self.result is not None or self.error is not None

    @property
    def state(self) -> str:
        if self.error is not None:
            return "failed"
        if self.item:
            return "waits for you"
        return "running" if self.result is None else str(self.result.get("status"))


class Jobs:
    def __init__(self, work: Callable[[JsonObject], JsonObject], ended: Callable[[], None]) -> None:
        """`work` makes a request (`text`, or `tool` and `args`) unattended and returns `{"result", "item"}`.
        It raises LlmosError.

        `ended` is called, in a thread, when one has.
        """
        self._work, self._ended = work, ended
        self.all: list[Job] = []

    def start(self, line: str, asked: JsonObject) -> Job:
        """Do `asked`, which the person typed as `line`."""
        job = Job(len(self.all) + 1, line)
        self.all.append(job)
        threading.Thread(target=self._run, args=(job, asked), daemon=True).start()
        return job

    def running(self) -> int:
        return sum(not job.ended for job in self.all)

    def has_news(self) -> bool:
        return any(job.ended and not job.told for job in self.all)

    def news(self) -> list[Job]:
        """What has ended since it was last asked for."""
        found = [job for job in self.all if job.ended and not job.told]
        for job in found:
            job.told = True
        return found

    def _run(self, job: Job, asked: JsonObject) -> None:
        try:
            self._do(job, asked)
        finally:
            self._ended()

    def _do(self, job: Job, asked: JsonObject) -> None:
        try:
            found = self._work(asked)
        except LlmosError as error:
            job.error = error
            return
        item = found.get("item") or {}
        job.item = str(item.get("id") if isinstance(item, dict) else item) if item else ""
        job.result = found.get("result") or {}


def told(job: Job) -> str:
    """A line about it."""
    return f"[{job.number}] {tr(job.state).replace('_', ' ')}: {safetext.one_line(job.text)}\n"
