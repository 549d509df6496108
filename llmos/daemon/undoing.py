"""`undo`: take back what a request changed, or have it again; itself judged, shown, asked and recorded.

    choose the transactions -> look at what stands there now -> judge -> show -> consent -> turn, newest first

It is refused, with the paths, when somebody has changed them since: nothing of theirs is overwritten, and
nothing is half taken back. What is no file (a process, a limit, a container) is taken back by steps of its
own, judged and run like any others. It has a `Session`'s verbs: `run` once, `approve` and `cancel` from
outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmos.daemon import rehearsal, reversals, telling
from llmos.daemon.clock import Clock
from llmos.daemon.hands import Hands, Judged, failure
from llmos.daemon.request import Job
from llmos.errors import CallFailed, Cancelled, Denied, NeedsApproval, UsageError
from llmos.guard.slots import Conflict
from llmos.messages import (
    CallResult,
    Decision,
    Event,
    JsonObject,
    Outcome,
    Plan,
    Result,
    Status,
    ToolCall,
)
from llmos.waiting import done_or_set

if TYPE_CHECKING:
    from llmos.daemon.reversals import Turning
    from llmos.daemon.session import Answer
    from llmos.guard.undostore import Entry

UNDO_TOOL = "undo"
MAX_NAMED = 10  # paths in the sentence that says what stands in the way


class Undoing:
    """One undo. `job` has neither words nor calls; `undo_id` may be empty for the newest change."""

    def __init__(self, job: Job, undo_id: str, hands: Hands, emit: Callable[[Event], None]) -> None:
        self.job = job
        self._undo_id, self._hands, self._emit = undo_id, hands, emit
        self._cancelled = asyncio.Event()
        self._answer: asyncio.Future[str] | None = None
        self._calls: list[CallResult] = []
        self._clock = Clock()
        self.turned: list[tuple[str, bool]] = []  # (request, whether it is undone now)

    async def run(self) -> Result:
        status: Status = "failed"
        try:
            status, answer = await self._to_the_end()
        finally:
            self._send("finished", status=status)
        return Result(
            id=self.job.id,
            status=status,
            calls=tuple(self._calls),
            answer=answer,
            timing=self._clock.timing(),
        )

    async def _to_the_end(self) -> tuple[Status, str]:
        entries = await asyncio.to_thread(choose, self._undo_id, self.job.caller.uid)
        done: list[Entry] = []
        for index, entry in enumerate(entries):
            try:
                if problem := await self._turn(index, entry):
                    return problem
            except Conflict as conflict:
                return "failed", _moved_on([conflict.path])
            except Denied as error:
                return "denied", telling.sentences(error)
            except NeedsApproval as error:
                return "needs_approval", telling.sentences(error)
            except CallFailed as error:
                if not done or isinstance(error, Cancelled):
                    raise
                return "failed", f"{telling.sentences(error)} {_half_way(done, entries)}"
            done.append(entry)
        return ("done", "") if self.job.plan_only else ("done", _finished(done))

    async def _turn(self, index: int, entry: Entry) -> tuple[Status, str] | None:
        """One transaction; a status with its reason ends the request."""
        planned = await asyncio.to_thread(reversals.look, entry)
        judged, told = await asyncio.to_thread(self._judge, planned)
        self._send("call", index=index, **telling.facts(judged), **_found_out(told))
        self._calls.append(telling.call_result(judged, None, changes=told))
        if planned.moved_on:
            return "failed", _moved_on(list(planned.moved_on))
        verdict = judged.verdict
        if verdict.decision is Decision.DENY:
            await asyncio.to_thread(self._hands.refused, judged, self._as_of(entry))
            return "denied", verdict.reason
        if self.job.plan_only:
            ask = verdict.decision is Decision.ASK and self.job.consent != "yes"
            return ("needs_approval", verdict.reason) if ask else None
        if not await self._consent(index, judged, told):
            await asyncio.to_thread(self._hands.refused, judged, self._as_of(entry))
            said = (
                "You said no, so nothing was taken back."
                if self.job.consent == "interactive"
                else verdict.reason
            )
            return "needs_approval", said
        if self._cancelled.is_set():
            raise Cancelled("the request was cancelled", "Nothing was taken back.")
        self._send("running", index=index, tool=UNDO_TOOL, command=judged.plan.command)
        outcome = await self._do(index, planned, judged)
        self._calls[-1] = telling.call_result(judged, outcome, changes=told, undo_id=entry.header.id)
        why = failure(judged.plan, outcome) if judged.plan.steps else ""
        return ("failed", why) if why else None

    # --- judge, consent, do ---

    def _as_of(self, entry: Entry) -> Job:
        """The request as it stands in the folder of the change: its write roots count, not today's."""
        from dataclasses import replace

        return replace(self.job, cwd=entry.header.cwd, write_roots=entry.header.write_roots)

    def _judge(self, planned: Turning) -> tuple[Judged, JsonObject | None]:
        from llmos.toolbox.context import command_of

        header, word = planned.entry.header, "takes back" if planned.direction == "back" else "does again"
        doing = command_of(planned.steps) or f"llmos undo {header.id}"
        plan = Plan(
            call=ToolCall(tool=UNDO_TOOL, args={"undo_id": header.id}),
            command=f"{doing} # {word}: {header.command}",
            effects=planned.effects,
            steps=planned.steps,
            read_only=False,
        )
        return Judged(plan, self._hands.judge_plan(plan, self._as_of(planned.entry))), planned.told()

    async def _consent(self, index: int, judged: Judged, told: JsonObject | None) -> bool:
        if judged.verdict.decision is Decision.ALLOW or self.job.consent == "yes":
            return True
        if self.job.consent == "none":
            return False
        self._answer = asyncio.get_running_loop().create_future()
        self._send("approval", index=index, **telling.facts(judged), **_found_out(told))
        if not await done_or_set(self._answer, self._cancelled):
            raise Cancelled("the request was cancelled", "Nothing was taken back.")
        return self._answer.result() == "yes"

    async def _do(self, index: int, planned: Turning, judged: Judged) -> Outcome:
        """Turn it under a permit, and write down what came of it. Raises Conflict, DiskFull, CallFailed."""
        as_of = self._as_of(planned.entry)
        permit = await asyncio.to_thread(self._hands.permit, judged, as_of, True)
        outcome, ok = Outcome(exit_code=1), False
        try:
            outcome = await planned.do(
                permit,
                self._hands.spawner,
                lambda stream, text: self._send("output", index=index, stream=stream, text=text),
                self._cancelled,
            )
            ok = outcome.exit_code == 0
            return outcome
        finally:
            await asyncio.to_thread(self._hands.finished, permit, outcome, ok)
            if ok:
                await asyncio.to_thread(self._note, planned)

    def _note(self, planned: Turning) -> None:
        kind = "undone" if planned.direction == "back" else "redone"
        self.turned.append((planned.entry.header.request_id, kind == "undone"))
        facts = {"uid": self.job.caller.uid, "undo_id": planned.entry.header.id}
        try:
            self._hands.gate.audit.note(kind, self.job.id, facts)
        except CallFailed:
            return  # the decision and its end stand in the journal

    # --- from outside ---

    async def approve(self, decision: Answer, call: ToolCall | None, index: int | None) -> None:
        if self._answer is None or self._answer.done():
            raise UsageError(f"request {self.job.id} waits for no approval", "Wait for an `approval` event.")
        if decision not in ("yes", "no"):
            raise UsageError("an undo is asked about every time, as it is", "Answer yes or no.")
        self._answer.set_result(decision)

    @property
    def asks(self) -> bool:
        return self._answer is not None and not self._answer.done()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def stop(self) -> None:
        """The daemon ends."""
        self.cancel()

    def _send(self, kind: str, **data: object) -> None:
        self._emit(Event.model_validate({"id": self.job.id, "kind": kind, "data": data}))


def choose(undo_id: str, uid: int) -> list[Entry]:
    """The transactions meant, in the order they are turned. Raises UsageError when there are none."""
    from llmos.guard import undostore

    mine = [entry for entry in undostore.entries() if entry.header.uid == uid]
    if not undo_id:
        newest = next((entry for entry in reversed(mine) if entry.state.settled == "committed"), None)
        if newest is None:
            raise UsageError("nothing is recorded that could be undone", "See what was done: llmos history")
        undo_id = newest.header.request_id
    group = [entry for entry in mine if undo_id in (entry.header.id, entry.header.request_id)]
    if exact := [entry for entry in group if entry.header.id == undo_id and "." in undo_id]:
        group = exact
    if not group:
        raise UsageError(
            f"nothing is kept that {undo_id} changed", "Changes expire: see what is kept in llmos history"
        )
    committed = [entry for entry in group if entry.state.settled == "committed"]
    return list(reversed(committed)) if committed else group


def _found_out(told: JsonObject | None) -> JsonObject:
    return {"no_preview": rehearsal.CHANGES_THE_SYSTEM} if told is None else {"changes": told}


def _moved_on(paths: list[str]) -> str:
    named = ", ".join(paths[:MAX_NAMED]) + (
        f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    )
    return f"Not taken back, because it was changed since: {named}. Nothing was touched."


def _half_way(done: list[Entry], entries: list[Entry]) -> str:
    left = ", ".join(entry.header.id for entry in entries[len(done) :])
    return f"{len(done)} of {len(entries)} changes were turned; these stand as they were: {left}"


def _finished(done: list[Entry]) -> str:
    """What to say at the end, and how to turn it once more."""
    ids = {entry.header.request_id for entry in done}
    undo_id = ids.pop() if len(done) > 1 else done[0].header.id
    if done[0].state.settled == "committed":
        return f"Taken back. To have it again: llmos undo {undo_id}"
    return f"Done again. To take it back: llmos undo {undo_id}"
