"""The planner's supervision against real worker processes that crash, hang, babble or just work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from llmos.config import THINK_AT_ONCE, ModelSettings
from llmos.daemon import supervisor
from llmos.daemon.thinking import Planner
from llmos.errors import Cancelled, ModelError, PlannerDied
from llmos.messages import Example, Think, Thought, ToolSpec

from .support import SCRIPTED

ANSWER = {"calls": [{"tool": "answer", "args": {"text": "fine"}}]}


class Bench:
    """A planner under test, and the events it told of."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.cancel = asyncio.Event()
        self.deltas: list[str] = []
        self.starts = 0

    def _started(self) -> None:
        self.starts += 1

    async def think(self, text: str, think_id: str = "one") -> Thought:
        think = Think(id=think_id, text=text)
        return await self.planner.think(
            think, cancel=self.cancel, on_start=self._started, on_delta=self.deltas.append
        )

    def pid(self) -> int:
        pid = self.planner.status()["pid"]
        assert isinstance(pid, int)
        return pid


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Run `test(bench)` with a planner that follows `script`, and stop the planner afterwards."""

    def go(
        script: dict[str, Any],
        test: Callable[[Bench], Coroutine[Any, Any, Any]],
        argv: list[str] | None = None,
        *,
        taught: bool = True,
        **model: Any,
    ) -> Any:
        file = tmp_path / "script.json"
        file.write_text(json.dumps(script), encoding="utf-8")

        async def main() -> Any:
            bench = Bench(Planner(ModelSettings(**model), worker_argv=argv or [*SCRIPTED, str(file)]))
            if taught:
                bench.planner.teach(())
            try:
                return await test(bench)
            finally:
                await bench.planner.stop()

        return asyncio.run(main())

    return go


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_thought_comes_back_typed_with_its_streamed_text(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        assert bench.planner.status()["state"] == "unloaded"
        thought = await bench.think("hello")
        assert thought.calls[0].tool == "answer"
        assert "".join(bench.deltas) == "one two "
        assert bench.planner.status() | {"pid": 0} == {
            "state": "ready",
            "pid": 0,
            "model": "scripted",
            "load_ms": 0.0,
            "resident_bytes": 0,
            "unconfined": [],
            "crashes_in_a_row": 0,
            "waiting": 0,
        }

    run({"hello": {**ANSWER, "text": "one two"}}, test)


def test_stopping_leaves_no_worker_behind(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> int:
        await bench.think("hello")
        return bench.pid()

    assert gone(run({"*": ANSWER}, test))


def test_a_long_request_keeps_no_short_one_waiting(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        order: list[str] = []

        async def one(name: str) -> None:
            await bench.think("slow" if name == "a" else "fast", name)
            order.append(name)

        await asyncio.gather(*(one(name) for name in "abcd"))
        assert order == ["b", "c", "d", "a"]
        assert bench.starts == 4

    run({"slow": {**ANSWER, "delay_s": 1.0}, "fast": ANSWER}, test)


def test_of_many_requests_a_few_are_on_the_worker_at_a_time(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        many = [asyncio.create_task(bench.think("slow", str(number))) for number in range(THINK_AT_ONCE + 2)]
        while bench.starts < THINK_AT_ONCE:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert bench.starts == THINK_AT_ONCE
        assert bench.planner.status()["waiting"] == len(many)
        await asyncio.gather(*many)
        assert bench.starts == len(many)

    run({"slow": {**ANSWER, "delay_s": 0.5}}, test)


def test_what_kills_the_worker_costs_the_requests_beside_it_one_retry(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        beside = asyncio.create_task(bench.think("slow", "beside"))
        with pytest.raises(PlannerDied):
            await bench.think("die", "deadly")
        assert (await beside).understood
        assert bench.planner.status()["crashes_in_a_row"] == 0

    run({"slow": {**ANSWER, "delay_s": 0.5}, "die": {"die": "kill", "delay_s": 0.1}}, test)


def test_new_settings_wait_for_what_is_being_thought_about(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        thinking = asyncio.create_task(bench.think("slow", "one"))
        while not bench.starts:
            await asyncio.sleep(0.01)
        first = bench.pid()
        bench.planner.configure(ModelSettings(name="other"))
        after = asyncio.create_task(bench.think("fast", "two"))
        assert (await thinking).understood
        assert (await after).understood
        assert bench.pid() != first
        assert gone(first)

    run({"slow": {**ANSWER, "delay_s": 0.3}, "fast": ANSWER}, test)


def test_a_worker_is_woken_before_anybody_asks_and_before_the_tools_are_known(
    run: Callable[..., Any],
) -> None:
    async def test(bench: Bench) -> None:
        bench.planner.wake()
        bench.planner.wake()
        while bench.planner.status()["state"] == "unloaded":
            await asyncio.sleep(0.01)
        first = bench.pid()
        bench.planner.teach(())
        assert (await bench.think("fast")).understood
        bench.planner.wake()
        assert bench.pid() == first
        assert bench.planner.status()["crashes_in_a_row"] == 0

    run({"fast": ANSWER}, test, taught=False)


def test_who_was_woken_for_nothing_leaves_again(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        bench.planner.configure(ModelSettings(idle_unload_s=0.2))
        bench.planner.wake()
        while bench.planner.status()["state"] != "ready":
            await asyncio.sleep(0.01)
        first = bench.pid()
        async with asyncio.timeout(20):
            while not gone(first):
                await asyncio.sleep(0.01)
        assert bench.planner.status()["state"] == "unloaded"

    run({"fast": ANSWER}, test)


def test_another_adapter_needs_no_other_worker(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        await bench.think("fast")
        first = bench.pid()
        bench.planner.configure(ModelSettings(adapter=False))
        assert (await bench.think("fast")).understood
        assert bench.pid() == first
        bench.planner.configure(ModelSettings(adapter="mine"))  # this one it cannot have beside its weights
        assert (await bench.think("fast")).understood
        assert bench.pid() != first
        assert bench.planner.status()["crashes_in_a_row"] == 0

    run({"fast": ANSWER, "adapter mine": {"die": "exit"}}, test)


def test_a_worker_killed_in_the_middle_costs_one_retry_and_nothing_else(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    async def test(bench: Bench) -> None:
        thought = await bench.think("once")
        assert thought.calls[0].args == {"text": "fine"}
        assert bench.starts == 2
        assert bench.planner.status()["crashes_in_a_row"] == 0

    run({"once": {**ANSWER, "die": f"once:{tmp_path / 'died'}"}}, test)


def test_sigkill_from_outside_is_survived_too(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        thinking = asyncio.create_task(bench.think("slow"))
        while not bench.starts:
            await asyncio.sleep(0.01)
        first = bench.pid()
        os.kill(first, signal.SIGKILL)
        assert (await thinking).understood
        assert bench.pid() != first

    run({"slow": {**ANSWER, "delay_s": 0.3}}, test)


@pytest.mark.parametrize(("how", "says"), [("kill", "SIGKILL"), ("exit", "exit code 3")])
def test_a_worker_that_dies_twice_ends_the_request_with_the_reason(
    run: Callable[..., Any], how: str, says: str
) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(PlannerDied, match=says) as caught:
            await bench.think("die")
        assert "smaller model" in caught.value.next_step
        assert (await bench.think("hello")).understood  # and the next request is served

    run({"die": {"die": how}, "hello": ANSWER}, test)


def test_a_crash_loop_is_slowed_down(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(2):
            with pytest.raises(PlannerDied):
                await bench.think("die")
        began = time.monotonic()
        with pytest.raises(PlannerDied, match="in a row") as caught:
            await bench.think("hello")
        assert "started again in" in caught.value.next_step
        assert time.monotonic() - began < 0.5
        await asyncio.sleep(2.1)
        assert (await bench.think("hello")).understood

    run({"die": {"die": "exit"}, "hello": ANSWER}, test)


@pytest.mark.parametrize("raw", ["no json\n", '{"type":"permit","id":"one"}\n', "[1]\n", "\x00\xff\n"])
def test_garbage_from_the_worker_is_not_guessed_at(run: Callable[..., Any], raw: str) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(PlannerDied, match="no frame"):
            await bench.think("babble")
        assert (await bench.think("hello")).understood

    run({"babble": {"raw": raw}, "hello": ANSWER}, test)


def test_cancel_answers_at_once_and_the_worker_goes_on_living(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        await bench.think("hello", "zero")
        first = bench.pid()
        thinking = asyncio.create_task(bench.think("slow"))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        bench.cancel.set()
        with pytest.raises(Cancelled):
            await thinking
        assert time.monotonic() - began < 0.2
        bench.cancel = asyncio.Event()
        assert (await bench.think("hello", "two")).understood
        assert bench.pid() == first

    run({"slow": {**ANSWER, "delay_s": 30}, "hello": ANSWER}, test)


def test_a_worker_deaf_to_cancel_is_killed(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        thinking = asyncio.create_task(bench.think("deaf"))
        while not bench.starts:
            await asyncio.sleep(0.01)
        first = bench.pid()
        bench.cancel.set()
        with pytest.raises(Cancelled):
            await thinking
        bench.cancel = asyncio.Event()
        while bench.planner.status()["pid"] == first:
            await asyncio.sleep(0.05)
        assert (await bench.think("hello", "two")).understood
        assert bench.pid() != first
        assert gone(first)

    run({"deaf": {"delay_s": 60, "deaf": True}, "hello": ANSWER}, test)


def test_a_worker_that_hangs_is_given_up_after_the_time_limit(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(PlannerDied, match=r"within 0\.3 s") as caught:
            await bench.think("hang")
        assert "think_timeout_s" in caught.value.next_step

    run({"hang": {"delay_s": 60}}, test, think_timeout_s=0.3)


def test_an_error_the_worker_reports_arrives_as_itself(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(ModelError, match="no weights") as caught:
            await bench.think("broken")
        assert caught.value.next_step == "Pull them."

    error = {"kind": "ModelError", "message": "no weights", "next_step": "Pull them."}
    run({"broken": {"error": error}}, test)


def test_an_idle_worker_is_unloaded_and_comes_back(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        await bench.think("hello")
        first = bench.pid()
        await asyncio.sleep(0.8)
        assert bench.planner.status()["state"] == "unloaded"
        assert gone(first)
        assert (await bench.think("hello", "two")).understood

    run({"*": ANSWER}, test, idle_unload_s=0.2)


def test_a_missing_worker_program_is_a_clear_error(run: Callable[..., Any]) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(PlannerDied, match="cannot be started"):
            await bench.think("hello")

    run({}, test, argv=["/nonexistent/python"])


def test_the_worker_gets_a_clean_environment_its_own_session_and_dies_first_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD_LIKE", "x")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    program = "import time; time.sleep(30)"
    worker = supervisor.start_worker([sys.executable, "-c", program])
    try:
        proc = Path(f"/proc/{worker.pid}")
        while not (text := (proc / "environ").read_text()):  # empty for a moment while it starts
            time.sleep(0.01)
        entries = text.strip("\0").split("\0")
        names = {entry.partition("=")[0] for entry in entries}
        assert names <= supervisor.KEPT_VARIABLES | set(supervisor.EXTRA_VARIABLES)
        assert os.getsid(worker.pid) == worker.pid
        assert (proc / "oom_score_adj").read_text().strip() == str(supervisor.PLANNER_OOM_SCORE)
    finally:
        worker.kill()
        assert worker.reap() == -signal.SIGKILL
        worker.sock.close()


# --- the real worker, with real weights --------------------------------------------------------

TOOLS = (
    ToolSpec(
        name="answer",
        summary="Answer in words.",
        parameters={
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
        raw="text",
        examples=(Example(say="what is the capital of Italy?", args={"text": "Rome."}),),
    ),
)


@pytest.mark.weights
def test_the_real_worker_thinks_is_killed_in_the_middle_and_thinks_again(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_MODEL", str(tiny_model))

    async def main() -> None:
        bench = Bench(Planner(ModelSettings()))
        bench.planner.teach(TOOLS)
        try:
            thinking = asyncio.create_task(bench.think("what is the capital of France?", "first"))
            while not bench.starts and not thinking.done():
                await asyncio.sleep(0.02)
            first = bench.pid()
            os.kill(first, signal.SIGKILL)  # as the kernel does when memory runs out
            thought = await thinking
            assert bench.starts == 2
            assert bench.pid() != first
            assert [call.tool for call in thought.calls] == ["answer"]
            again = await bench.think("what is the capital of France?", "second")
            assert again.calls == thought.calls
            assert again.timing.cached_tokens > 0
            assert "smol" in bench.planner.status()["model"].lower()
        finally:
            await bench.planner.stop()

    asyncio.run(main())
