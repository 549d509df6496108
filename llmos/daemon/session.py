"""One request from its words to its result; the order of this file is the order of the work.

    look up -> think -> judge every call -> show -> rehearse -> consent -> (judge again) -> run or commit

It stops at the first failure. All calls are judged before the first one runs: a request with one denied
call runs nothing. A call that changes files and would be asked about runs first on a copy-on-write view,
so that the person says yes to what it really does (`rehearsal`); a call that comes after one that changes
something is asked about at its turn, when what it will find is there. What the planner returns is a
proposal; nothing in it can approve, widen or skip anything. Consent comes from the client that asked,
through `approve`. Consent, rehearsal and running are `carrying`'s; here are words, verdicts and the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from llmos.daemon import pinning, plausible, progress, reading, rehearsal, request, stepping, telling
from llmos.daemon.carrying import Answer, Ended, Item
from llmos.daemon.grounding import Grounding
from llmos.daemon.hands import Hands, Judged
from llmos.daemon.request import Job
from llmos.daemon.routing import Minds, Routing
from llmos.daemon.steplog import Step
from llmos.daemon.stepwise import Stepwise
from llmos.errors import (
    CallFailed,
    Cancelled,
    CloudError,
    Denied,
    Drifted,
    LlmosError,
    ModelError,
    NeedsApproval,
    NotUnderstood,
    OverBudget,
    PlannerDied,
    TooLong,
    UsageError,
)
from llmos.messages import Decision, Event, JsonObject, Pinned, Result, Status, Think, Thought, ToolCall

__all__ = ["Answer", "Session"]


class Session(Stepwise):
    """`run` it once; `cancel` and `approve` come from outside while it runs."""

    def __init__(self, job: Job, hands: Hands, minds: Minds, emit: Callable[[Event], None]) -> None:
        super().__init__(job, hands, emit)
        self._routing = Routing(job, hands, minds, ask=self._ask_whole, tell=self._on_route)
        self._personal = minds.personal
        self._grounding = Grounding(
            job,
            hands,
            self._cancelled,
            translate=lambda: self._think("translate"),
            read=lambda think: self._routing.read(think, cancel=self._cancelled),
            progress=lambda detail: self._send("thinking", detail=detail),
        )

    async def run(self) -> Result:
        """The result, whatever the verdicts; raises LlmosError for what kept it from getting that far."""
        try:
            result = await self._to_the_end()
            self._may_go_on |= self._taken_up and result.status == "needs_approval"
        except LlmosError:
            self._send("finished", status="failed")
            raise
        finally:
            for item in self._items:
                await self._drop(item)
            await self._close_steps()
        self._remember(result)
        self._send("finished", status=result.status)
        return result

    def _remember(self, result: Result) -> None:
        """What the person's word on the calls says about their sentence, where they want that kept."""
        if self.job.calls or self.job.plan_only or self._thought is None or self._taken_up:
            return
        if self._said_no:
            self._personal.refused(self.job.caller.uid, self.job.text)
        elif result.status == "done":
            calls = tuple(item.judged.plan.call for item in self._items)
            approved = any(item.approved for item in self._items)
            proposed = calls if self._heard else self._thought.calls  # later ones came in several thoughts
            self._personal.done(self.job, proposed, calls, approved=approved)

    async def _to_the_end(self) -> Result:
        try:
            return self._result("done", await self._work())
        except Ended as ended:
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

    async def pins(self, unchanged: Sequence[str]) -> tuple[Pinned, ...]:
        """The calls it would make, with what they depend on; nothing runs. Raises NotUnderstood."""
        await self._judge_all()
        if self._reply() is not None:
            raise NotUnderstood(
                "it is answered in words; there is nothing to pin", "Ask for something to be done."
            )
        return await asyncio.to_thread(self._pinned, unchanged)

    async def left(self) -> tuple[Pinned, ...]:
        """The calls that did not run, to be put to a person later."""
        pinned = await asyncio.to_thread(self._pinned, ())
        return tuple(call for call, item in zip(pinned, self._items, strict=True) if item.outcome is None)

    def _pinned(self, unchanged: Sequence[str]) -> tuple[Pinned, ...]:
        return tuple(pinning.pin(item.judged, self._hands, self.job, unchanged) for item in self._items)

    def _check_pins(self) -> None:
        """Raises Drifted with all that is no longer as it was pinned."""
        if not self.job.pins:
            return
        unchanged = tuple(dict.fromkeys(path for pin in self.job.pins for path in pin.content))
        found = zip(self.job.pins, self._pinned(unchanged), strict=True)
        reasons = [
            f"{now.tool}: {reason}"
            for old, now in found
            for reason in pinning.drift(old, now.pin, repeatable=old.repeatable)
        ]
        if reasons:
            raise Drifted(
                f"not as it was pinned: {'; '.join(reasons)}",
                "Review it and pin it again: llmos compile FILE",
            )

    async def _judge_all(self) -> None:
        await self._judge_these(self.job.calls or await self._calls_of_model())

    async def _judge_these(self, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            self._items.append(Item(await self._judge_first(call)))

    async def _work(self) -> str | None:
        if self._steps is not None:
            await self._before_going_on(self._steps.story)
            return await self._go_on()
        if (known := await self._grounding.look_up()) is not None:
            return known
        try:
            await self._judge_all()
            return await self._carry_out()
        except (Ended, NotUnderstood, CallFailed, UsageError) as failure:
            asked = self.job.consent == "interactive"
            if (
                self._heard
                or self._said_no
                or not reading.may_be_misread(self._thought, failure, self._items, asked=asked)
            ):
                raise
            return await self._read_otherwise(failure)

    async def _read_otherwise(self, failure: reading.Failure) -> str | None:
        """Carry out the next best reading that works; where none does, the first one's failure stands."""
        first, left = self._items, reading.left_for_others(failure, self._confidence)
        may_change = not first or reading.asks(failure) or not _only_looks(first)
        async for thought in reading.others(
            await self._words("ask"), self._routing, self._clock, self._cancelled
        ):
            for item in self._items:
                await self._drop(item)
            self._items = []
            try:
                await self._judge_these(thought.calls)
                if not may_change and not _only_looks(self._items):
                    continue  # what was read as a look does not become a change
                self._thought = stepping.open_ended(thought, self.job.text)
                self._confidence = left * thought.confidence
                if not reading.asks(failure):
                    self._send("notice", text=f"That failed, so it is read otherwise. ({failure})")
                return await self._carry_out()
            except (Ended, NotUnderstood, CallFailed, UsageError) as again:
                asked = reading.asks(again) and not reading.asks(failure)
                if asked or self._said_no or not all(map(reading.left_nothing, self._items)):
                    raise
        self._items = first
        raise failure

    async def _carry_out(self) -> str | None:
        await asyncio.to_thread(self._check_pins)
        if (reply := self._reply()) is not None:
            return await self._grounding.reply(reply, local=not self._route.startswith("cloud:"))
        self._look_first()
        for index in range(len(self._items)):
            self._show(index)
        if self.job.plan_only:
            await self._preview()
            self._end_at_verdicts()
            return None
        await self._refuse_at_once()
        await self._begin_steps()
        await self._run_from(0)
        return await self._go_on()

    def _look_first(self) -> None:
        """A model here guesses what a later step is about; where an earlier one finds it, that runs first."""
        if self._thought is not None and self._items and self._items[0].judged.plan.read_only:
            self._thought = stepping.first_look(self._thought, self.job.text)
            del self._items[len(self._thought.calls) :]

    async def _run_from(self, start: int) -> None:
        for index in range(start, self._first_change(start) + 1):
            await self._consent(index)
        for index in range(start, len(self._items)):
            await self._run(index)

    async def _go_on(self) -> str | None:
        """While a model is to see what came of its calls: tell it, and carry out what it says next."""
        while self._thought is not None and self._thought.more:
            self._thoughts += 1
            await self._tell_outcomes(self._thoughts)
            if self._steps is not None and stepping.repeats(self._thought, self._steps.story.steps):
                return None
            start = len(self._items)
            for call in self._thought.calls:
                self._items.append(Item(await self._judge_first(call)))
            if (reply := self._reply()) is not None:
                assert self._steps is not None
                return f"{reply}\n{stepping.not_read(self._steps.story.steps)}".strip()
            for index in range(start, len(self._items)):
                self._show(index)
            await self._refuse_at_once()
            await self._run_from(start)
        return None

    async def _tell_outcomes(self, thoughts: int) -> None:
        """Ask for the next calls. Raises Ended where it goes no further."""
        assert self._steps is not None and self._thought is not None
        limits = self._hands.gate.settings.offload
        if thoughts > limits.max_steps:
            raise Ended("failed", f"It was stopped after {limits.max_steps} steps; what was done stands.")
        if self._clock.timing().total_ms > 1000 * limits.steps_timeout_s:
            self._may_go_on = True
            go_on = f"To go on: llmos resume {self._steps.story.id}"
            raise Ended(
                "failed", f"It was stopped after {limits.steps_timeout_s:g} s; what was done stands. {go_on}"
            )
        steps = self._steps.story.steps
        label = await self._label(steps)
        if label and self._thought.route != "local":
            raise Ended("failed", f"It goes no further: {label}.")
        self._heard = True
        told = {"id": f"{self.job.thought_id}.{thoughts}", "taken": stepping.taken(steps)}
        think = (await self._words("ask")).model_copy(update=told)
        try:
            thought = await self._routing.go_on(think, self._thought, cancel=self._cancelled, label=label)
            if not thought.calls:
                raise NotUnderstood("the model made no call of it")
        except NotUnderstood as error:
            raise Ended("failed", f"It does not know how to go on: {error}. What was done stands.") from error
        except (CloudError, OverBudget, TooLong, ModelError, PlannerDied) as error:
            self._may_go_on = True
            error.next_step = f"{error.next_step} Then go on: llmos resume {self._steps.story.id}".strip()
            raise
        self._clock.thought(thought.timing)
        self._thought = stepping.open_ended(thought, self.job.text, steps)
        self._route, self._confidence = thought.route, thought.confidence

    async def _label(self, steps: Sequence[Step]) -> str:
        """Why nothing of what these steps read may leave; or empty."""
        named = stepping.places(steps)
        kept = await asyncio.to_thread(
            self._hands.gate.kept, self.job.caller, self.job.cwd, named, self.job.rules
        )
        return f"the policy keeps {kept[0]} on this machine" if kept else ""

    async def _refuse_at_once(self) -> None:
        """Nothing runs of a request of which one call is denied, or nobody is there to be asked about."""
        await self._refuse_denied()
        for item in self._items:
            if item.judged.verdict.decision is Decision.ASK and self.job.consent == "none":
                await self._refuse(item, "needs_approval", item.judged.verdict.reason)

    # --- think ---

    async def _calls_of_model(self) -> tuple[ToolCall, ...]:
        thought = await self._think("ask")
        if not thought.understood or not thought.calls:
            raise NotUnderstood(
                "That could not be turned into something to do on this machine.",
                "Say what to do and to which file, folder or process, or type the command: !COMMAND",
            )
        self._thought, self._confidence = stepping.open_ended(thought, self.job.text), thought.confidence
        return thought.calls

    async def _think(self, mode: Literal["ask", "translate"]) -> Thought:
        self._send("queued")
        think = await self._words(mode)
        thought = await self._routing.think(
            think, cancel=self._cancelled, on_start=self._on_thinking, on_delta=self._on_delta
        )
        self._clock.thought(thought.timing)
        self._route = thought.route
        return thought

    async def explain_route(self, *, translate: bool = False) -> JsonObject:
        """Where it would be thought about, and why; nothing leaves and nothing runs."""
        think = await self._words("translate" if translate else "ask")
        return await self._routing.explain(think, cancel=self._cancelled)

    async def _words(self, mode: Literal["ask", "translate"]) -> Think:
        """The request as models are given it."""
        text, cwd, caller = self.job.text, self.job.cwd, self.job.caller
        names = await asyncio.to_thread(request.entries, cwd, caller)
        names = await asyncio.to_thread(self._hands.may_leave, names, self.job)
        asks = mode == "ask"
        return Think(
            id=self.job.thought_id,
            text=text,
            mode=mode,
            cwd=cwd,
            entries=names,
            data_head=request.data_head(self.job.data),
            heads=await asyncio.to_thread(request.heads, text, cwd, names, caller) if asks else (),
            examples=self._personal.near(caller.uid, text) if asks else (),
        )

    def _on_thinking(self) -> None:
        self._clock.left_queue()
        self._send("thinking")

    def _on_route(self, backend: str) -> None:
        self._route = f"cloud:{backend}"
        self._send("thinking", detail=f"asking {backend}")

    def _on_delta(self, text: str) -> None:
        if not self._grounding.replaces:  # lines of the data may stand in their place
            self._send("text", text=text)

    # --- judge ---

    async def _judge_first(self, call: ToolCall) -> Judged:
        follows = not _only_looks(self._items)
        if not self.job.calls and (why := plausible.misfit(call)):
            raise NotUnderstood(
                f"The model's proposal {call.tool} is not carried out: {why}.", "Say it in other words."
            )
        try:
            return await self._judge(call, follows=follows)
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
            raise Ended("needs_input", replies[0].reply or "")
        return replies[0].reply

    def _end_at_verdicts(self) -> None:
        """A plan ends like the real request would, up to the first thing that would run."""
        if denied := self._denied():
            raise Ended("denied", denied.judged.verdict.reason)
        for item in self._items:
            if item.judged.verdict.decision is Decision.ASK and self.job.consent != "yes":
                raise Ended("needs_approval", item.judged.verdict.reason)

    # --- plan ---

    async def _preview(self) -> None:
        """For a plan: try what can be tried, show it, and throw it away."""
        if self._denied():
            return
        first = self._first_change()
        try:
            await self._rehearse(first)
        finally:
            await self._drop(self._items[first])
        for item in self._items[first + 1 :]:
            item.preview = rehearsal.why_no_preview(item.judged.plan) or (
                "" if item.judged.plan.read_only else "it comes after another change, and is tried after it"
            )

    # --- cancel, events, result ---

    def _result(self, status: Status, answer: str | None) -> Result:
        calls = tuple(
            telling.call_result(
                item.judged, item.outcome, changes=item.changes, preview=item.preview, undo_id=item.undo_id
            )
            for item in self._items
            if item.judged.plan.reply is None
        )
        timing = self._clock.timing()
        if status != "done" and (standing := progress.told(self._items, self.job.id)):
            answer = f"{answer or ''} {standing}".strip()
        return Result(
            id=self.job.id, status=status, route=self._route, calls=calls, answer=answer, timing=timing
        )


def _only_looks(items: Sequence[Item]) -> bool:
    return all(item.judged.plan.read_only for item in items)
