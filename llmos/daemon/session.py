"""One request from its words to its result; the order of this file is the order of the work.

    think -> judge every call -> show -> consent -> (judge again) -> run, stopping at the first failure

All calls are judged before the first one runs: a request with one denied call runs nothing, and a
person sees the whole before saying yes. What the planner returns is a proposal; nothing in it can
approve, widen or skip anything. Consent comes from the client that asked, through `approve`.
The session runs nothing itself: `Hands` (catalog, gate and spawner) does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeVar

from llmos.daemon import request, telling
from llmos.daemon.clock import Clock
from llmos.daemon.hands import Hands, Judged, failure
from llmos.daemon.request import Job
from llmos.daemon.thinking import Planner
from llmos.daemon.waiting import done_or_set
from llmos.errors import Cancelled, Denied, LlmosError, NeedsApproval, NotUnderstood, UsageError
from llmos.messages import (
    Decision,
    Event,
    Outcome,
    Result,
    Status,
    Think,
    Thought,
    ToolCall,
)

_T = TypeVar("_T")
Answer = Literal["yes", "no", "always", "edit"]


@dataclass(slots=True)
class _Item:
    """One call on its way through the session."""

    judged: Judged
    approved: bool = False
    outcome: Outcome | None = None


@dataclass(slots=True)
class _Question:
    """What the person is being asked: which call, and where their answer arrives."""

    index: int
    answered: asyncio.Future[tuple[Answer, Judged | None]]


class _Ended(Exception):
    """The request is over before its end: the status, and what to tell the person."""

    def __init__(self, status: Status, answer: str) -> None:
        super().__init__(answer)
        self.status, self.answer = status, answer


class Session:
    """`run` it once; `cancel` and `approve` come from outside while it runs."""

    def __init__(self, job: Job, hands: Hands, planner: Planner, emit: Callable[[Event], None]) -> None:
        self.job = job
        self._hands, self._planner, self._emit = hands, planner, emit
        self._cancelled = asyncio.Event()
        self._question: _Question | None = None
        self._items: list[_Item] = []
        self._clock = Clock()
        self._route = "local"

    async def run(self) -> Result:
        """The result, whatever the verdicts; raises LlmosError for what kept it from getting that far."""
        try:
            result = await self._to_the_end()
        except LlmosError:
            self._send("finished", status="failed")
            raise
        self._send("finished", status=result.status)
        return result

    async def _to_the_end(self) -> Result:
        try:
            return self._result("done", await self._work())
        except _Ended as ended:
            return self._result(ended.status, ended.answer)
        except Denied as error:  # the gate had the last word, between judging and running
            return self._result("denied", telling.sentences(error))
        except NeedsApproval as error:
            return self._result("needs_approval", telling.sentences(error))
        except NotUnderstood as error:
            return self._result("not_understood", telling.sentences(error))
        except Cancelled:
            if not any(item.outcome for item in self._items):
                raise
            return self._result("failed", "Cancelled; what had run before stands.")

    async def translate(self) -> Thought:
        """The shell command that would do it; nothing is judged and nothing runs."""
        thought = await self._think("translate")
        if not thought.understood or not thought.command:
            raise NotUnderstood("the model found no shell command for that", "Say it in other words.")
        return thought

    async def _work(self) -> str | None:
        calls = self.job.calls or await self._calls_of_model()
        for call in calls:
            self._items.append(_Item(await self._judge_first(call)))
        if (reply := self._reply()) is not None:
            return reply
        for index in range(len(self._items)):
            self._show(index)
        if self.job.plan_only:
            self._end_at_verdicts()
            return None
        for index in range(len(self._items)):
            await self._consent(index)
        for index in range(len(self._items)):
            await self._run(index)
        return None

    # --- think ---

    async def _calls_of_model(self) -> tuple[ToolCall, ...]:
        thought = await self._think("ask")
        if not thought.understood or not thought.calls:
            raise NotUnderstood(
                "That could not be turned into something to do on this machine.",
                "Say what to do and to which file, folder or process, or type the command: !COMMAND",
            )
        return thought.calls

    async def _think(self, mode: Literal["ask", "translate"]) -> Thought:
        self._send("queued")
        think = Think(
            id=self.job.id,
            text=self.job.text,
            mode=mode,
            cwd=self.job.cwd,
            entries=await asyncio.to_thread(request.entries, self.job.cwd, self.job.caller),
            data_head=request.data_head(self.job.data),
        )
        thought = await self._planner.think(
            think, cancel=self._cancelled, on_start=self._on_thinking, on_delta=self._on_delta
        )
        self._clock.thought(thought.timing)
        self._route = thought.route
        return thought

    def _on_thinking(self) -> None:
        self._clock.left_queue()
        self._send("thinking")

    def _on_delta(self, text: str) -> None:
        self._send("text", text=text)

    # --- judge ---

    async def _judge(self, call: ToolCall) -> Judged:
        """Plan and judge one call; raises UsageError when it is not a valid call."""
        with self._clock.policy():
            return await asyncio.to_thread(self._hands.judge, call, self.job)

    async def _judge_first(self, call: ToolCall) -> Judged:
        try:
            return await self._judge(call)
        except UsageError as error:
            if self.job.calls:
                raise
            raise NotUnderstood(
                f"The model's proposal {call.tool} cannot be carried out: {error}.",
                "Say it in other words, with the names of the files or processes you mean.",
            ) from error

    def _reply(self) -> str | None:
        """The text of `answer`; `ask` ends the request as a question back."""
        replies = [item.judged.plan for item in self._items if item.judged.plan.reply is not None]
        if not replies:
            return None
        if replies[0].call.tool == "ask":
            raise _Ended("needs_input", replies[0].reply or "")
        return replies[0].reply

    def _denied(self) -> _Item | None:
        items = (item for item in self._items if item.judged.verdict.decision is Decision.DENY)
        return next(items, None)

    def _end_at_verdicts(self) -> None:
        """A plan ends like the real request would, up to the first thing that would run."""
        if denied := self._denied():
            raise _Ended("denied", denied.judged.verdict.reason)
        for item in self._items:
            if item.judged.verdict.decision is Decision.ASK and self.job.consent != "yes":
                raise _Ended("needs_approval", item.judged.verdict.reason)

    async def _refuse(self, item: _Item, status: Status, answer: str) -> NoReturn:
        """End the request before this call, and have that written down."""
        await asyncio.to_thread(self._hands.refused, item.judged, self.job)
        raise _Ended(status, answer)

    # --- consent ---

    async def _consent(self, index: int) -> None:
        """Return once the call may run; a denied, declined or unattended one ends the request."""
        await self._refuse_denied()
        item = self._items[index]
        while item.judged.verdict.decision is Decision.ASK and not item.approved:
            if self.job.consent == "none":
                await self._refuse(item, "needs_approval", item.judged.verdict.reason)
            if self.job.consent == "yes":
                item.approved = True
            else:
                await self._ask_person(index)
                await self._refuse_denied()  # an edit may have made it so

    async def _refuse_denied(self) -> None:
        if denied := self._denied():
            await self._refuse(denied, "denied", denied.judged.verdict.reason)

    async def _ask_person(self, index: int) -> None:
        item = self._items[index]
        self._question = _Question(index, asyncio.get_running_loop().create_future())
        self._send("approval", index=index, **telling.facts(item.judged))
        timeout_s = self._hands.gate.settings.server.approval_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                decision, edited = await self._unless_cancelled(self._question.answered)
        except TimeoutError:
            await self._refuse(item, "needs_approval", f"Nobody answered within {timeout_s:g} seconds.")
        finally:
            self._question = None
        if decision == "no":
            await self._refuse(item, "needs_approval", "You said no, so it was not run.")
        if edited is None:
            item.approved = True
        else:
            item.judged = edited
            self._show(index)

    async def approve(self, decision: Answer, call: ToolCall | None, index: int | None) -> None:
        """The person's answer; raises UsageError when none is waited for, an edit is no valid call, or
        "always" is not to be had. The question then still stands.
        """
        question = self._question
        if question is None or question.answered.done():
            raise UsageError(f"request {self.job.id} waits for no approval", "Wait for an `approval` event.")
        if index is not None and index != question.index:
            raise UsageError(f"call {question.index} is being asked about, not {index}", "Answer that one.")
        edited = None
        if decision == "edit":
            if call is None:
                raise UsageError("an edit needs `call`", 'Add "call": {"tool": …, "args": {…}}.')
            edited = await self._judge(call)
        if decision == "always":
            await asyncio.to_thread(self._hands.remember, self._items[question.index].judged, self.job)
        if not question.answered.done():
            question.answered.set_result((decision, edited))

    # --- run ---

    async def _run(self, index: int) -> None:
        item = self._items[index]
        if index > 0:
            await self._judge_again(index)
        if self._cancelled.is_set():
            raise Cancelled("the request was cancelled", "Nothing was run for it.")
        self._send("running", index=index, tool=item.judged.plan.call.tool, command=item.judged.plan.command)
        with self._clock.sandbox():
            item.outcome = await self._hands.run(
                item.judged,
                self.job,
                approved=item.approved,
                on_output=lambda stream, text: self._send("output", index=index, stream=stream, text=text),
                cancel=self._cancelled,
            )
        if why := failure(item.judged.plan, item.outcome):
            raise _Ended("failed", why)

    async def _judge_again(self, index: int) -> None:
        """Earlier calls may have changed what this one does: approval holds for what was shown, only."""
        item = self._items[index]
        try:
            fresh = await self._judge(item.judged.plan.call)
        except UsageError as error:
            raise _Ended("failed", f"{item.judged.plan.call.tool} can no longer be done: {error}") from error
        if fresh.plan != item.judged.plan:
            item.approved = False
        item.judged = fresh
        await self._consent(index)

    # --- cancel, events, result ---

    def cancel(self) -> None:
        """Stop at the next safe point: the planner at its next token, a running command at once."""
        self._cancelled.set()

    async def _unless_cancelled(self, future: asyncio.Future[_T]) -> _T:
        if not await done_or_set(future, self._cancelled):
            raise Cancelled("the request was cancelled", "Nothing was run for it.")
        return future.result()

    def _show(self, index: int) -> None:
        self._send("call", index=index, **telling.facts(self._items[index].judged))

    def _send(self, kind: str, **data: object) -> None:
        self._emit(Event.model_validate({"id": self.job.id, "kind": kind, "data": data}))

    def _result(self, status: Status, answer: str | None) -> Result:
        calls = tuple(
            telling.call_result(item.judged, item.outcome)
            for item in self._items
            if item.judged.plan.reply is None
        )
        timing = self._clock.timing()
        return Result(
            id=self.job.id, status=status, route=self._route, calls=calls, answer=answer, timing=timing
        )
