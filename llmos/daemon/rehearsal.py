"""A call on its stage: what it did there, what that means to the policy, and making it real or not.

    rehearse   run on copy-on-write views, without network, before anybody has said yes
    judge      what was really changed, by the same rules: an opaque command hides nothing from them
    commit     under a permit of the gate, checked against what others did meanwhile
    discard    nothing has happened

A call that was allowed runs on a stage as well, under its permit, so that it can be taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmos.daemon.request import Job
from llmos.errors import CallFailed, LlmosError
from llmos.messages import (
    Change,
    Decision,
    Effects,
    JsonObject,
    Observe,
    Outcome,
    Plan,
    Signal,
    Start,
    Verdict,
)

if TYPE_CHECKING:
    from llmos.daemon.hands import Hands, Judged
    from llmos.guard.commit import Rehearsed, Witnesses
    from llmos.guard.permit import Permit
    from llmos.guard.staging import Stage

log = logging.getLogger(__name__)
CHANGES_THE_SYSTEM = "it changes the running system, which cannot be tried first"
MAX_TOLD_CHARS = 4000  # of a rehearsal's output in an approval


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One call that ran on a stage. `decided`: under a permit that lets its changes become real."""

    permit: Permit
    rehearsed: Rehearsed
    outcome: Outcome
    told: JsonObject
    verdict: Verdict  # on what it was going to do and on what it did
    decided: bool

    @property
    def changes(self) -> bool:
        return bool(self.rehearsed.found)

    @property
    def touched(self) -> tuple[str, ...]:
        """The paths that it wrote or took away."""
        from llmos.guard import summary

        writes, deletes = summary.paths_of(self.rehearsed.stage.roots, self.rehearsed.found)
        return (*writes, *deletes)

    def discard(self) -> None:
        """Blocks for as long as removing what was written takes."""
        self.rehearsed.stage.discard()


def is_staged(plan: Plan) -> bool:
    """Whether the call writes files and nothing else: then it can run on views of them."""
    return not plan.read_only and plan.reply is None and not _beyond(plan)


def why_no_preview(plan: Plan) -> str:
    """What of a call cannot be tried first; empty when all of it can, or it changes nothing."""
    if plan.read_only or plan.reply is not None:
        return ""
    if beyond := _beyond(plan):
        return beyond
    return "it talks to other machines, so it is not tried before you say yes" if plan.effects.network else ""


def _beyond(plan: Plan) -> str:
    kinds = {type(step) for step in plan.steps}
    if Signal in kinds or plan.effects.signals:
        return "it signals a process, which cannot be tried first"
    if Change in kinds or plan.effects.targets:
        return CHANGES_THE_SYSTEM
    if Start in kinds:
        return "it starts a program that goes on running, which cannot be tried first"
    if Observe in kinds:
        return "it looks at the running system, which no view stands in for"
    return ""


@dataclass(frozen=True, slots=True)
class _Ran:
    """What is known of a run on a stage before anybody looked at what it left there."""

    permit: Permit
    stage: Stage
    started_ns: int
    witnesses: Witnesses
    outcome: Outcome


class Rehearser:
    """Runs staged calls for `Hands`; one for each of them."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    async def rehearse(
        self,
        judged: Judged,
        job: Job,
        *,
        approved: bool | None,
        on_output: Callable[[str, str], None],
        cancel: asyncio.Event,
    ) -> Rehearsal:
        """Run the call on a fresh stage. With `approved` None nobody was asked yet: a rehearsal only.

        Raises NoPreview where there can be no stage, and what running raises. The stage is then gone.
        """
        from llmos.guard import commit

        stage = await asyncio.to_thread(self._stage, judged.plan, job)
        try:
            witnesses = await asyncio.to_thread(commit.witness, judged.plan.effects.reads)
            permit = await asyncio.to_thread(self._permit, judged, job, stage, approved)
            started_ns = commit.now_ns()
            outcome = await self._hands.spawner.run(permit, on_output=on_output, cancel=cancel)
            ran = _Ran(permit, stage, started_ns, witnesses, outcome)
            return await asyncio.to_thread(self._look, judged, job, ran, approved is not None)
        except BaseException:
            await asyncio.to_thread(stage.discard)
            raise

    def _stage(self, plan: Plan, job: Job) -> Stage:
        from llmos.guard import staging, trashcan
        from llmos.messages import new_id

        trashcan.prepare(plan, job.caller)
        roots = self._hands.gate.granted_roots(plan, job.caller, job.cwd, job.write_roots, job.rules)
        return staging.create(new_id(), roots)

    def _permit(self, judged: Judged, job: Job, stage: Stage, approved: bool | None) -> Permit:
        if approved is not None:
            return self._hands.permit(judged, job, approved, stage)
        return self._hands.gate.rehearse(
            judged.plan,
            judged.verdict,
            caller=job.caller,
            request_id=job.id,
            cwd=job.cwd,
            stage=stage,
            write_roots=job.write_roots,
            data=job.data,
            rules=job.rules,
        )

    def _look(self, judged: Judged, job: Job, ran: _Ran, decided: bool) -> Rehearsal:
        from llmos.guard import changes, summary
        from llmos.guard.commit import Rehearsed

        stage, found = ran.stage, changes.find(ran.stage)
        told = summary.of_stage(stage, found) | {"exit_code": ran.outcome.exit_code}
        verdict = self._judge_changes(judged, job, *summary.paths_of(stage.roots, found))
        rehearsed = Rehearsed(stage, found, ran.started_ns, ran.witnesses)
        read = self._hands.catalog.read(judged.plan, ran.outcome)
        return Rehearsal(ran.permit, rehearsed, read, told, verdict, decided)

    def _judge_changes(
        self, judged: Judged, job: Job, writes: tuple[str, ...], deletes: tuple[str, ...]
    ) -> Verdict:
        """The stricter of the plan's verdict and that on what it did beyond its plan.

        An answer given for good to an opaque command was given to whatever it does; to others, to what
        they were known to do.
        """
        plan, verdict = judged.plan, judged.verdict
        extra = Effects(
            writes=tuple(path for path in writes if path not in {*plan.effects.writes}),
            deletes=tuple(path for path in deletes if path not in {*plan.effects.deletes}),
        )
        if not (extra.writes or extra.deletes):
            return verdict
        done = plan.model_copy(update={"effects": extra})
        found = self._hands.judge_plan(done, job)
        if found.decision is Decision.DENY:
            return found
        if verdict.decision is Decision.ASK or plan.effects.opaque:
            return verdict
        return max(verdict, found, key=lambda one: one.decision)

    async def commit(self, rehearsal: Rehearsal, judged: Judged, job: Job, *, approved: bool) -> str:
        """Make it real; its undo id, or nothing when nothing changed. Raises Conflict, and then it is undone.

        The stage is gone afterwards, whatever happened.
        """
        return await asyncio.to_thread(self._commit, rehearsal, judged, job, approved)

    def _commit(self, rehearsal: Rehearsal, judged: Judged, job: Job, approved: bool) -> str:
        from llmos.daemon.hands import failure
        from llmos.guard import commit

        permit, undo_id, ok = rehearsal.permit, "", False
        try:
            if not rehearsal.decided:
                permit = self._hands.permit(judged, job, approved, rehearsal.rehearsed.stage)
            if rehearsal.changes:
                undo_id = commit.commit(permit, rehearsal.rehearsed)
            ok = True
            return undo_id
        finally:
            rehearsal.discard()
            self._hands.finished(
                permit, rehearsal.outcome, ok and not failure(judged.plan, rehearsal.outcome)
            )
            if undo_id:
                self._note(job, undo_id)
                self._prune()

    def _note(self, job: Job, undo_id: str) -> None:
        with contextlib.suppress(CallFailed):
            self._hands.gate.audit.note("committed", job.id, {"uid": job.caller.uid, "undo_id": undo_id})

    def _prune(self) -> None:
        from llmos.guard import undostore

        with contextlib.suppress(OSError, LlmosError), undostore.locked():
            if gone := undostore.prune(self._hands.gate.settings.undo):
                log.info("no longer kept for undo: %s", ", ".join(gone))

    async def drop(self, rehearsal: Rehearsal) -> None:
        """Throw it away; of a call that was decided, write down that nothing came of it."""
        await asyncio.to_thread(rehearsal.discard)
        if rehearsal.decided:
            await asyncio.to_thread(self._hands.finished, rehearsal.permit, rehearsal.outcome, False)


def nothing() -> JsonObject:
    """The changes of a call of which none was kept."""
    from llmos.guard import summary

    return summary.nothing()


def told_output(rehearsal: Rehearsal) -> JsonObject:
    """The end of a rehearsal's output, for the question whether to keep what it did."""
    outcome = rehearsal.outcome
    return {
        "exit_code": outcome.exit_code,
        "stdout": outcome.stdout[-MAX_TOLD_CHARS:],
        "stderr": outcome.stderr[-MAX_TOLD_CHARS:],
    }
