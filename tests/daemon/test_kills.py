"""A short sample of `tests.bench.kills`: a daemon that is killed owes nobody an answer."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import kills

from . import support


@pytest.mark.sandbox
def test_every_accepted_request_has_an_outcome_or_is_told_as_interrupted(short_dir: Path) -> None:
    env, chance = kills.environment(short_dir), random.Random(7)
    rounds = kills.campaign(short_dir, env, chance, 3)
    assert [problem for found in rounds for problem in found.problems] == []
    assert sum(one.heard for found in rounds for one in found.asked) > 5


def test_what_only_waited_is_told_once_and_to_its_owner(start_daemon: Callable[..., support.Daemon]) -> None:
    slow = {"*": {"command": "true", "delay_s": 30}}
    first = start_daemon(slow)
    with first.connect() as client:
        client.send("ask", text="wait for it", cwd="/", id="waits")
        client.until("thinking")
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    for _ in range(2):
        again = start_daemon(slow)
        with again.connect() as client:
            (entry,) = client.result("history")["entries"]
            assert (entry["id"], entry["status"], entry["command"]) == ("waits", "interrupted", "wait for it")
        assert again.stop() == 0
    assert "1 requests were cut off" in again.log_text()
