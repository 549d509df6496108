"""Calls on their way from a verdict to what became of them: tried, asked about, made real.

    rehearse   a call that changes files and would be asked about runs on a copy-on-write view first
    consent    the person sees exactly what it did there, and says yes, no, always, or edits it
    run        what was rehearsed is committed; what needs no question runs on a view and is committed
               as well, so that it can be taken back; what no view can stand in for runs as it is

Nothing here approves anything: consent comes from the client that asked, through `approve`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeVar

from llmos.daemon import rehearsal, telling
from llmos.daemon.clock import Clock
from llmos.daemon.hands import Hands, Judged, failure
from llmos.daemon.rehearsal import Rehearsal
from llmos.daemon.request import Job
from llmos.errors import CallFailed, Cancelled, Denied, LlmosError, NeedsApproval, NoPreview, UsageError
from llmos.guard.slots import Conflict
from llmos.messages import Decision, Event, JsonObject, Outcome, Status, ToolCall
from llmos.waiting import done_or_set

_EXDEV = "nvalid cross-device link"  # programs differ in the first letter
_ENGINE = re.compile(r"(?:connect to the Docker daemon|docker\.sock|podman\.sock|containerd\.sock)")
UNSURE = "the model is not sure that this is what you mean"
SURE_ENOUGH = 0.5  # to change something by a word given beforehand; measured: below it, most is wrong
MAX_TRIES = 3  # of a call whose files somebody else keeps changing
_T = TypeVar("_T")
Answer = Literal["yes", "no", "always", "never", "edit", "once"]
LEAVING = -1  # the index of the question whether a request may leave the machine


@dataclass(slots=True)
class Item:
    """One call on its way through the session."""

    judged: Judged
    approved: bool = False
    outcome: Outcome | None = None
    rehearsal: Rehearsal | None = None
    changes: JsonObject | None = None  # what it did on a view of the files, or for real
    preview: str = ""  # why that is not known
    undo_id: str = ""


@dataclass(slots=True)
class Question:
    """What the person is being asked: which call, and where their answer arrives."""

    index: int
    answered: asyncio.Future[tuple[Answer, Judged | None]]


class Ended(Exception):
    """The request is over before its end: the status, and what to tell the person."""

    def __init__(self, status: Status, answer: str) -> None:
        super().__init__(answer)
        self.status, self.answer = status, answer


class Carrying:
    """What a session does with its items; `cancel` and `approve` come from outside while it runs."""

    def __init__(self, job: Job, hands: Hands, emit: Callable[[Event], None]) -> None:
        self.job = job
        self._hands, self._emit = hands, emit
        self._cancelled = asyncio.Event()
        self.stopped = False  # by a daemon that ends, and not by whoever asked
        self._said_no = False
        self._question: Question | None = None
        self._items: list[Item] = []
        self._clock = Clock()
        self._confidence = 1.0  # of the model in what it proposed

    # --- judge and refuse ---

    async def _judge(self, call: ToolCall, *, follows: bool = False) -> Judged:
        """Plan and judge one call; raises UsageError when it is not a valid call."""
        with self._clock.policy():
            return await asyncio.to_thread(self._hands.judge, call, self.job, follows=follows)

    def _denied(self) -> Item | None:
        items = (item for item in self._items if item.judged.verdict.decision is Decision.DENY)
        return next(items, None)

    async def _refuse(self, item: Item, status: Status, answer: str) -> NoReturn:
        """End the request before this call, and have that written down."""
        await asyncio.to_thread(self._hands.refused, item.judged, self.job)
        raise Ended(status, answer)

    def _first_change(self, start: int = 0) -> int:
        """The first call that changes something: what comes after it is asked about once it is done."""
        for index, item in enumerate(self._items):
            if index >= start and not item.judged.plan.read_only:
                return index
        return len(self._items) - 1

    # --- consent ---

    async def _consent(self, index: int) -> None:
        """Return once the call may run; a denied, declined or unattended one ends the request."""
        await self._refuse_denied()
        item = self._items[index]
        while item.judged.verdict.decision is Decision.ASK and not item.approved:
            if self.job.consent == "none":
                await self._refuse(item, "needs_approval", item.judged.verdict.reason)
            if self.job.consent == "yes":
                await self._ask_back(index)
                item.approved = True
            else:
                await self._rehearse(index)
                await self._ask_person(index)
                await self._refuse_denied()  # an edit may have made it so

    async def _refuse_denied(self) -> None:
        if denied := self._denied():
            await self._refuse(denied, "denied", denied.judged.verdict.reason)

    async def _ask_person(self, index: int) -> None:
        item = self._items[index]
        if doubt := self._doubt(item):
            self._send("notice", text=doubt)
        self._question = Question(index, asyncio.get_running_loop().create_future())
        self._send("approval", index=index, **telling.facts(item.judged), **self._found_out(item))
        timeout_s = self._hands.gate.settings.server.approval_timeout_s
        try:
            with self._clock.asked():
                async with asyncio.timeout(timeout_s):
                    decision, edited = await self._unless_cancelled(self._question.answered)
        except TimeoutError:
            await self._refuse(item, "needs_approval", f"Nobody answered within {timeout_s:g} seconds.")
        finally:
            self._question = None
        self._said_no = self._said_no or decision in ("no", "never")
        if decision == "never":
            await self._refuse(item, "denied", "You said never, so it is not run, now and from now on.")
        if decision == "no":
            await self._refuse(item, "needs_approval", "You said no, so it was not run.")
        if edited is None:
            item.approved = True
        else:
            await self._drop(item)
            item.judged = edited
            self._show(index)

    async def _ask_back(self, index: int) -> None:
        """A yes given before the call was known is no answer to a doubt about it, if it changes something."""
        item = self._items[index]
        if not self._doubt(item):
            return
        await self._rehearse(index)
        doubt = self._doubt(item)
        if doubt and (item.rehearsal is None or item.rehearsal.changes):
            what = item.judged.plan.command
            await self._refuse(item, "needs_input", f"Nothing was done, because {doubt}: {what}")

    def _doubt(self, item: Item) -> str:
        """What speaks against this change being meant; empty for a look and for typed calls."""
        if self.job.calls or item.judged.plan.read_only:
            return ""
        from llmos.daemon import plausible  # reads the heads

        touched = item.rehearsal.touched if item.rehearsal else None
        others = [one.judged.plan.call for one in self._items if one is not item]
        if found := plausible.doubt(self.job.text, item.judged.plan.call, touched, others):
            return found
        return UNSURE if self._confidence < SURE_ENOUGH else ""

    @staticmethod
    def _found_out(item: Item) -> JsonObject:
        """What the question can say beyond the plan: the exact changes, or why they are not known."""
        if item.rehearsal is None:
            return {"no_preview": item.preview} if item.preview else {}
        return {"changes": item.changes, "rehearsal": rehearsal.told_output(item.rehearsal)}

    # --- rehearse ---

    async def _rehearse(self, index: int) -> None:
        """Run the call on a view of the files, if it can be tried, and see what the policy says to that."""
        item = self._items[index]
        item.preview = rehearsal.why_no_preview(item.judged.plan)
        if item.rehearsal or item.preview or not rehearsal.is_staged(item.judged.plan):
            return
        plan = item.judged.plan
        self._send("rehearsing", index=index, tool=plan.call.tool, command=plan.command)
        try:
            with self._clock.sandbox():
                found = await self._on_stage(item, approved=None, on_output=lambda stream, text: None)
        except NoPreview as error:
            item.preview = str(error)
            return
        item.rehearsal, item.changes = found, found.told
        item.judged = Judged(plan, found.verdict)
        await self._refuse_denied()
        if found.outcome.cancelled:
            raise Cancelled("the request was cancelled", "Nothing was changed.")
        if found.outcome.timed_out:
            raise Ended("failed", f"{failure(plan, found.outcome)} Nothing was changed.")
        nothing = plan.whole or not found.changes  # would be kept
        if not self.job.plan_only and nothing and failure(plan, found.outcome):  # nothing to say yes to
            await self._fail(index)

    async def _fail(self, index: int) -> NoReturn:
        """A trial that failed, and of which nothing is kept, is the end of the call, with its own words."""
        item = self._items[index]
        self._tell_of_nothing(index)
        assert item.outcome is not None
        raise Ended("failed", f"{failure(item.judged.plan, item.outcome)} Nothing was changed.{_hint(item)}")

    async def _on_stage(
        self, item: Item, *, approved: bool | None, on_output: Callable[[str, str], None]
    ) -> Rehearsal:
        return await self._hands.rehearser.rehearse(
            item.judged, self.job, approved=approved, on_output=on_output, cancel=self._cancelled
        )

    async def _drop(self, item: Item) -> None:
        """Throw away what was only tried."""
        if item.rehearsal is not None:
            found, item.rehearsal = item.rehearsal, None
            await self._hands.rehearser.drop(found)

    async def approve(self, decision: Answer, call: ToolCall | None, index: int | None) -> None:
        """The person's answer; raises UsageError when none is waited for, an edit is no valid call, or
        "always" is not to be had. The question then still stands.
        """
        question = self._question
        if question is None or question.answered.done():
            raise UsageError(f"request {self.job.id} waits for no approval", "Wait for an `approval` event.")
        if index is not None and index != question.index:
            raise UsageError(f"call {question.index} is being asked about, not {index}", "Answer that one.")
        if question.index == LEAVING:
            if decision in ("edit", "never"):
                raise UsageError("what would leave is sent as it is", "Answer yes, once or no.")
            question.answered.set_result((decision, None))
            return
        if decision == "once":
            raise UsageError("`once` is an answer to what leaves the machine", "Answer yes.")
        edited = None
        if decision == "edit":
            if call is None:
                raise UsageError("an edit needs `call`", 'Add "call": {"tool": …, "args": {…}}.')
            edited = await self._judge(call)
        if decision in ("always", "never"):
            judged, never = self._items[question.index].judged, decision == "never"
            await asyncio.to_thread(self._hands.remember, judged, self.job, never=never)
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
            await self._perform_or_tell(index)
        assert item.outcome is not None
        if why := failure(item.judged.plan, item.outcome):
            raise Ended("failed", why + self._aftermath(item))

    @staticmethod
    def _aftermath(item: Item) -> str:
        """What became of a call that failed, and what may help."""
        return Carrying._kept(item) + _hint(item)

    @staticmethod
    def _kept(item: Item) -> str:
        if item.undo_id:
            return f" What it had changed by then was kept; llmos undo {item.undo_id} takes it back."
        return " Nothing was changed." if item.changes is not None else ""

    async def _perform_or_tell(self, index: int) -> None:
        """An error is the request's own, unless calls before it were done: these must not go unsaid."""
        try:
            await self._perform(index)
        except (Cancelled, Denied, NeedsApproval):
            raise
        except LlmosError as error:
            if not any(item.outcome for item in self._items[:index]):
                raise
            why = telling.sentences(error)
            self._items[index].outcome = Outcome(exit_code=error.exit_code, stderr=f"{why}\n")
            raise Ended("failed", why) from error

    async def _perform(self, index: int) -> None:
        """Make a rehearsed call's changes real, or run the call now; again when somebody was faster."""
        item = self._items[index]
        for _ in range(MAX_TRIES):
            if not rehearsal.is_staged(item.judged.plan) or not await self._staged(index):
                ran = await self._hands.run(
                    item.judged,
                    self.job,
                    approved=item.approved,
                    on_output=lambda stream, text: self._output(index, stream, text),
                    cancel=self._cancelled,
                )
                item.outcome, item.undo_id = ran.outcome, ran.undo_id
                return
            assert item.rehearsal is not None
            item.outcome, item.changes = item.rehearsal.outcome, item.rehearsal.told
            whole = item.judged.plan.whole
            if (
                item.outcome.cancelled
                or item.outcome.timed_out
                or (whole and failure(item.judged.plan, item.outcome))
            ):
                if whole:
                    self._tell_of_nothing(index)
                return
            await self._consent_to_changes(index)
            found, item.rehearsal = item.rehearsal, None
            try:
                item.undo_id = await self._hands.rehearser.commit(
                    found, item.judged, self.job, approved=item.approved
                )
                if whole:
                    self._tell(index, item.outcome)
                return
            except Conflict as conflict:
                await self._lost_race(index, conflict)
        raise CallFailed(
            f"the files it changes keep being changed by others, after {MAX_TRIES} tries",
            "Nothing was changed. Try again when they are left alone.",
        )

    async def _staged(self, index: int) -> bool:
        """See that the call has run on a stage; False where there can be none."""
        item = self._items[index]
        whole = item.judged.plan.whole
        if item.rehearsal is not None:  # its output has not been heard yet
            if not whole:
                self._tell(index, item.rehearsal.outcome)
            return True
        try:
            item.rehearsal = await self._on_stage(
                item,
                approved=item.approved,
                on_output=lambda stream, text: None if whole else self._output(index, stream, text),
            )
        except NoPreview as error:
            item.preview = str(error)
            return False
        return True

    def _tell(self, index: int, outcome: Outcome) -> None:
        """The output of a trial. What is kept wholly or not at all says what it did when that is so."""
        for stream, text in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
            if text:
                self._output(index, stream, text)

    def _tell_of_nothing(self, index: int) -> None:
        """A trial of which nothing is kept. What a whole call says of its work is not so then."""
        item = self._items[index]
        assert item.rehearsal is not None
        outcome = item.rehearsal.outcome
        if item.judged.plan.whole:
            outcome = outcome.model_copy(update={"stdout": ""})
        item.outcome, item.changes = outcome, rehearsal.nothing()
        self._tell(index, outcome)

    async def _consent_to_changes(self, index: int) -> None:
        """What was really changed may be denied, or asked about, although the plan was not."""
        item = self._items[index]
        assert item.rehearsal is not None
        item.judged = Judged(item.judged.plan, max(
            item.judged.verdict, item.rehearsal.verdict, key=lambda found: found.decision
        ))  # fmt: skip
        if self._denied() is item:
            item.outcome, item.changes = None, rehearsal.nothing()
            await self._refuse(item, "denied", f"{item.judged.verdict.reason} Nothing it tried was kept.")
        await self._consent(index)

    async def _lost_race(self, index: int, conflict: Conflict) -> None:
        """Somebody changed the same files meanwhile: theirs stands, and ours is tried again on it."""
        item = self._items[index]
        if item.judged.plan.effects.network:
            raise CallFailed(
                f"{conflict.path} was changed by somebody else meanwhile", "Nothing was changed. Try again."
            ) from conflict
        self._output(index, "stderr", f"llmos: {conflict.path} was changed meanwhile; trying again\n")
        item.approved = False  # what was approved, or found harmless, is not what would be done now
        await self._consent(index)

    async def _judge_again(self, index: int) -> None:
        """Earlier calls may have changed what this one does: approval holds for what was shown, only."""
        item = self._items[index]
        try:
            fresh = await self._judge(item.judged.plan.call)
        except (UsageError, CallFailed) as error:
            raise Ended("failed", f"{item.judged.plan.call.tool} can no longer be done: {error}.") from error
        if fresh.plan != item.judged.plan:
            item.approved = False
            await self._drop(item)
        item.judged = fresh
        await self._consent(index)

    # --- cancel and events ---

    @property
    def asks(self) -> bool:
        """Whether it waits for a person's word."""
        return self._question is not None

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop at the next safe point: the planner at its next token, a running command at once."""
        self._cancelled.set()

    def stop(self) -> None:
        """The daemon ends; what can go on under the next one is kept for it."""
        self.stopped = True
        self.cancel()

    async def _unless_cancelled(self, future: asyncio.Future[_T]) -> _T:
        if not await done_or_set(future, self._cancelled):
            raise Cancelled("the request was cancelled", "Nothing was run for it.")
        return future.result()

    def _output(self, index: int, stream: str, text: str) -> None:
        self._send("output", index=index, stream=stream, text=text)

    def _show(self, index: int) -> None:
        self._send("call", index=index, **telling.facts(self._items[index].judged))

    def _send(self, kind: str, **data: object) -> None:
        self._emit(Event.model_validate({"id": self.job.id, "kind": kind, "data": data}))


def _hint(item: Item) -> str:
    """A folder of the lower layer cannot be renamed on a view (EXDEV); mv answers that by copying. And the
    sandbox gives nobody a socket of a container engine."""
    said = item.outcome.stderr if item.outcome else ""
    if item.judged.plan.call.tool == "shell.run" and _ENGINE.search(said):
        return " From the sandbox no command reaches a container engine; the docker tools do."
    if item.changes is None or _EXDEV not in said:
        return ""
    return " While it is only tried, a folder that was there before can be renamed by mv alone."
