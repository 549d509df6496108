"""The broker's hands: catalog, gate and spawner behind three verbs, judge, run and remember.

One frozen set of parts: a reload makes a new one, and a request keeps the one it started with. The
order in `run` is the security of the whole: the gate mints the permit, the spawner takes nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmos import parsed, paths
from llmos.config import Settings
from llmos.daemon.rehearsal import Rehearser
from llmos.daemon.request import Job
from llmos.errors import CallFailed
from llmos.messages import Caller, JsonObject, Outcome, Plan, ToolCall, Verdict

if TYPE_CHECKING:
    from llmos.guard.gate import Gate
    from llmos.guard.permit import Permit
    from llmos.guard.spawn import Spawner
    from llmos.guard.staging import Stage
    from llmos.toolbox.catalog import Catalog

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judged:
    """A call made concrete, and what the policy says to it."""

    plan: Plan
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a call that ran as it is, and the id that takes it back, where something does."""

    outcome: Outcome
    undo_id: str = ""


@dataclass(frozen=True, slots=True)
class Hands:
    catalog: Catalog
    gate: Gate
    spawner: Spawner

    def judge(self, call: ToolCall, job: Job, *, follows: bool = False) -> Judged:
        """Blocks for a moment (parsing, realpath). Raises UsageError when it is not a valid call.

        `follows`: a call before it changes something, so what it needs may not be there yet.
        """
        plan = self._plan(call, job, follows=follows)
        return Judged(plan, self.judge_plan(plan, job))

    def _plan(self, call: ToolCall, job: Job, *, follows: bool = False) -> Plan:
        from llmos.guard.caller import as_caller
        from llmos.toolbox.catalog import Context

        context = Context(
            cwd=job.cwd, home=job.home, uid=job.caller.uid, has_data=job.data is not None, follows=follows
        )
        self.catalog.get(call.tool).ready()
        with as_caller(job.caller):
            plan = self.catalog.plan(call, context)
        return self._expand(plan, job)

    def _expand(self, plan: Plan, job: Job) -> Plan:
        return self.gate.expand(plan, cwd=job.cwd, home=job.home, caller=job.caller)

    def judge_plan(self, plan: Plan, job: Job) -> Verdict:
        """The verdict on a plan that has been made already."""
        return self.gate.judge(
            plan,
            job.caller,
            cwd=job.cwd,
            write_roots=job.write_roots,
            unattended=job.unattended,
            session=job.session,
            rules=job.rules,
        )

    def may_leave(self, names: tuple[str, ...], job: Job) -> tuple[str, ...]:
        """Names in the request's folder without those that a policy keeps or hides."""
        kept = set(self.gate.kept(job.caller, job.cwd, names, job.rules))
        return tuple(name for name in names if name not in kept)

    def check(self, call: ToolCall, job: Job) -> JsonObject:
        """The verdict on a call alone; nothing runs or is recorded. Raises UsageError."""
        plan = self._seen(call, job)
        verdict = self.judge_plan(plan, job)
        return {
            "verdict": verdict.decision.word,
            "rule": verdict.rule,
            "reason": verdict.reason,
            "effects": plan.effects.model_dump(mode="json"),
        }

    def _seen(self, call: ToolCall, job: Job) -> Plan:
        from llmos.guard.gate import SHELL_TOOL, shell_plan

        # Shell text is judged however odd it is: a manifest might refuse it before anything is said of it.
        if call.tool == SHELL_TOOL:
            return self._expand(shell_plan(str(call.args.get("command", ""))), job)
        return self._plan(call, job)

    def explain(self, call: ToolCall, job: Job) -> JsonObject:
        """The verdict on a call and how it came about; nothing runs or is recorded. Raises UsageError."""
        from llmos.guard import explain

        plan = self._seen(call, job)
        judgements = self.gate.explain(
            plan,
            job.caller,
            cwd=job.cwd,
            write_roots=job.write_roots,
            unattended=job.unattended,
            session=job.session,
            rules=job.rules,
        )
        verdict = self.gate.verdict(judgements, plan, job.caller, job.cwd)
        return explain.as_json(plan, verdict, judgements)

    def rules(self, caller: Caller) -> JsonObject:
        """The rules in force for a caller, with what is granted and hidden. Raises ConfigError."""
        from llmos.guard import explain, places

        return explain.listed(self.gate.tiers.of(caller, places.home_of(caller.uid)))

    async def run(
        self,
        judged: Judged,
        job: Job,
        *,
        approved: bool,
        on_output: Callable[[str, str], None],
        cancel: asyncio.Event,
    ) -> Ran:
        """Permit, run, write down, read. Raises Denied, NeedsApproval, SandboxUnavailable, DiskFull."""
        permit = await asyncio.to_thread(self.permit, judged, job, approved)
        outcome, ok, undo_id = Outcome(), False, ""
        try:
            outcome = await self.spawner.run(permit, on_output=on_output, cancel=cancel)
            ok = not failure(judged.plan, outcome)
        finally:
            await asyncio.to_thread(self.finished, permit, outcome, ok)
            if outcome.reverse:
                undo_id = await asyncio.to_thread(self._keep, permit, outcome)
        return Ran(self.catalog.read(judged.plan, outcome), undo_id)

    def _keep(self, permit: Permit, outcome: Outcome) -> str:
        """Keep what takes it back. It is done already, so a full disk takes away the undo alone."""
        from llmos.guard import deeds

        try:
            return deeds.keep(permit, outcome.reverse)
        except (OSError, CallFailed) as error:
            log.error("request %s is done, and cannot be taken back by undo: %s", permit.request_id, error)
            return ""

    def permit(self, judged: Judged, job: Job, approved: bool, stage: Stage | None = None) -> Permit:
        return self.gate.permit(
            judged.plan,
            judged.verdict,
            caller=job.caller,
            request_id=job.id,
            cwd=job.cwd,
            approved=approved,
            write_roots=job.write_roots,
            data=job.data,
            unattended=job.unattended,
            session=job.session,
            rules=job.rules,
            stage=stage,
        )

    def finished(self, permit: Permit, outcome: Outcome, ok: bool) -> None:
        """The journal's second line. The first stands, so a full disk does not take the result away."""
        try:
            self.gate.finished(permit, outcome, ok=ok)
        except CallFailed as error:
            log.error("request %s is done, but: %s", permit.request_id, error)

    @property
    def rehearser(self) -> Rehearser:
        """For calls whose effects can be seen first, and taken back."""
        return Rehearser(self)

    def refused(self, judged: Judged, job: Job) -> None:
        """Write down a decision after which nothing runs."""
        try:
            self.gate.refused(
                judged.plan,
                judged.verdict,
                caller=job.caller,
                request_id=job.id,
                cwd=job.cwd,
                write_roots=job.write_roots,
                unattended=job.unattended,
                session=job.session,
            )
        except CallFailed as error:
            log.error("request %s was refused, but: %s", job.id, error)

    def remember(self, judged: Judged, job: Job, *, never: bool = False) -> None:
        """Make "always" or "never" a narrow rule. Raises UsageError for what is always asked, DiskFull."""
        self.gate.remember(
            judged.plan,
            job.caller,
            cwd=job.cwd,
            write_roots=job.write_roots,
            rules=job.rules,
            never=never,
        )

    def history(self, caller: Caller, limit: int) -> list[JsonObject]:
        """The caller's own decisions with what came of them, newest last; `undo_id` where that is kept."""
        from llmos.guard import undostore

        entries = self.gate.audit.history(limit, caller.uid)
        own = [entry for entry in undostore.entries() if entry.header.uid == caller.uid]
        kept = {entry.header.request_id: entry for entry in own}
        for told in entries:
            if found := kept.get(str(told["id"])):
                told |= {"undo_id": found.header.request_id, "undo": found.state.settled}
        return entries


def failure(plan: Plan, outcome: Outcome) -> str:
    """Why a finished call did not do its work, in a sentence; empty when it did."""
    from llmos.guard.spawn import succeeded

    if succeeded(plan, outcome):
        return ""
    if outcome.cancelled:
        return "Cancelled; what had run before stands."
    if outcome.timed_out:
        return f"{plan.call.tool} was stopped: it took longer than it may."
    return f"{plan.call.tool} failed with exit code {outcome.exit_code}."


def load(settings: Settings, old: Hands | None = None) -> Hands:
    """Read manifests and policies; slow the first time (imports). Raises ConfigError.

    The journal and the spawner are kept from `old`: they hold the chain of hashes and a process. The first
    time the examples of the shipped rules, half of the time that it took, are left to `prove`.
    """
    from llmos.guard import rulefile
    from llmos.guard.audit import Audit
    from llmos.guard.audit_journald import Journald
    from llmos.guard.gate import Gate
    from llmos.guard.policy import Policy
    from llmos.guard.spawn import Spawner
    from llmos.toolbox import catalog

    tools = catalog.load(paths.tool_dirs()) if old else _first_tools()
    # Others than root bring their own files, and root's do not bind them.
    *everybodys, own = policy_dirs()
    others = Policy.load(settings.policy, everybodys, shipped_later=old is None)
    policy = others.tightened(rulefile.of_folder(own, rulefile.Tier.USER))
    mirror = Journald() if settings.audit.journald else None
    audit = old.gate.audit if old else Audit(paths.audit_file(), settings.audit, mirror)
    spawner = (
        old.spawner if old else Spawner(settings.sandbox, tools.observers, tools.changers, settings.quota)
    )
    gate = Gate(policy, audit, settings, others=others if os.geteuid() == 0 else None)
    if old:
        spawner.configure(settings.sandbox, settings.quota)
        old.gate.newer = gate  # running requests are held to the new rules as well
    return Hands(tools, gate, spawner)


def _first_tools() -> Catalog:
    """Everything that is read once: manifests, and the tables of programs."""
    from llmos.guard import commandline
    from llmos.toolbox import catalog

    with parsed.kept(paths.parsed_file()):
        tools = catalog.load(paths.tool_dirs())
        commandline.warm()
    tools.tidy()
    return tools


def prove(parts: Hands) -> None:
    """Check what `load` left for later. Raises ConfigError."""
    from llmos.guard import places

    parts.gate.policy.prove()
    places.forget()  # the tables of the homes that the examples name


def watched_dirs() -> tuple[Path, ...]:
    """Folders whose change makes `load` worth calling again."""
    return (*paths.tool_dirs(), *policy_dirs())


def policy_dirs() -> tuple[Path, ...]:
    return (paths.builtin_policy_dir(), paths.system_policy_dir(), paths.user_policy_dir())
