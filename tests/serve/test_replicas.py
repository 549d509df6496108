"""Replicas on Ray, as clients meet them: a real cluster on loopback, real engines, and one of them killed."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from llmos.engine.generate import Generation
from llmos.serve.asked import ChatAsked, read
from llmos.serve.retold import Told, repeatable
from llmos.serve.told import ApiError, busy
from llmos.serve.working import Began
from tests.serve import on_ray

KEY = "first-key-of-24-characters"
GENERATION = Generation((1,), "to sea", (), "stop", 3, 0, 0, 1.0, 1.0)


def asked(**given: object) -> ChatAsked:
    return read({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **given})


def test_a_second_telling_goes_on_where_the_first_broke_off() -> None:
    told = Told(streamed=True)
    assert [told.fresh(event) for event in (Began(3), "to", " s")] == [[Began(3)], ["to"], [" s"]]
    told.again()
    events = (Began(3), "t", "o se", "a", GENERATION)
    assert [told.fresh(event) for event in events] == [[], [], ["e"], ["a"], [GENERATION]]


def test_what_was_streamed_is_not_contradicted_and_what_was_not_may_come_out_otherwise() -> None:
    for streamed in (True, False):
        told = Told(streamed=streamed)
        told.fresh("to sea")
        told.again()
        if streamed:
            with pytest.raises(ApiError, match="ask again"):
                told.fresh("to land")
        else:
            assert told.fresh("to land") == ["to land"]


def test_a_request_gets_a_seed_unless_it_has_one() -> None:
    assert repeatable(asked(seed=0)).seed == 0
    assert repeatable(asked()).seed is not None


def test_an_error_travels_between_processes_whole() -> None:
    error = busy(503, "try again", "overloaded", 2)
    found = pickle.loads(pickle.dumps(error))
    assert (found.status, found.body(), found.headers) == (503, error.body(), {"Retry-After": "2"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--replicas", "2"], "with --ray"),
        (["--ray", "--replicas", "2:1"], "--replicas"),
        (["--ray", "--replicas", "0"], "--replicas"),
        (["--ray", "--target", "0"], "--target"),
        (["--ray", "--host", "0.0.0.0"], "there are no keys"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(words: list[str], said: str) -> None:
    if importlib.util.find_spec("ray") is None and said == "there are no keys":
        said = "pip install 'llmos[serve,ray]'"
    found = subprocess.run(
        [sys.executable, "-m", "llmos", "serve", *words], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 2 and said in found.stderr, found.stderr


if importlib.util.find_spec("ray") is not None:  # an extra of its own

    def test_a_killed_replica_loses_no_request_and_comes_back(tiny_model: Path, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text(f"ann {KEY}\n")
        (tmp_path / "keys").chmod(0o600)
        words = f"--model {tiny_model} --name tiny --context 1024 --ray --replicas 2".split()
        with on_ray.serving(tmp_path / "log", *words, "--keys", str(tmp_path / "keys")) as server:
            client = openai.OpenAI(base_url=server.address, api_key=KEY, max_retries=0, timeout=120)
            with pytest.raises(openai.AuthenticationError):
                on_ray.ask(client.with_options(api_key="x" * 24), streamed=False, tokens=1)
            with pytest.raises(openai.BadRequestError, match="context is 1024 tokens"):
                on_ray.ask(client, streamed=True, tokens=5000)
            lose_one_under_load(server, client)


def lose_one_under_load(server: on_ray.Served, client: openai.OpenAI) -> None:
    """Whole and streamed, greedy and sampled: every reply is word for word what it is without the loss."""
    before = server.replicas()
    assert len(before) == 2
    kinds = [
        {"streamed": streamed, "temperature": heat, "seed": 7}
        for streamed in (True, False)
        for heat in (0, 1)
    ]
    wanted = [on_ray.ask(client, tokens=40, **kind) for kind in kinds]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(on_ray.ask, client, tokens=40, **kind) for kind in kinds * 3]
        on_ray.wait_for(lambda: any(job.done() for job in jobs), 60, "the first reply")
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        found = [job.result(120) for job in jobs]
    assert found == wanted * 3 and server.replayed() >= 1
    on_ray.wait_for(lambda: len(server.replicas() - {killed}) == 2, 60, "the new replica")
