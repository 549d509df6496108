"""The gate: a plan is expanded, judged and, if it may run, given its permit. Nobody else mints one.

    expand   shell text analysed, paths followed to what they really are, seen as the caller sees them
    judge    the policy's verdict; an answer the person gave for good turns `ask` into `allow`
    permit   judged once more, written to the journal, and granted no more than it needs

What it does not protect against: a path that is swapped after this. The sandbox grants and masks by
the tree it mounts, so a swap changes what is found there and never what may be reached.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime

from llmos.config import Settings
from llmos.errors import Denied, NeedsApproval, UsageError
from llmos.guard import commandline, following, hiding, places, replay, trashcan
from llmos.guard.audit import Audit
from llmos.guard.caller import account, as_caller
from llmos.guard.facts import Facts
from llmos.guard.hosts import named
from llmos.guard.permit import Permit, mint
from llmos.guard.policy import Judgement, Policy, answerable, strictest
from llmos.guard.remembered import Remembered, Rule
from llmos.guard.sandbox import is_within
from llmos.guard.staging import Stage
from llmos.guard.tiers import Tiers
from llmos.messages import (
    Caller,
    Decision,
    Effects,
    JsonObject,
    Outcome,
    Pipelines,
    Plan,
    Shell,
    ToolCall,
    Verdict,
)

SHELL_TOOL = "shell.run"


class Gate:
    """One policy, one journal, one memory of answers. Thread-safe: what it knows of callers is in `tiers`.

    `others` is the policy for callers other than the daemon's own user, whose files do not bind them.
    """

    def __init__(
        self,
        policy: Policy,
        audit: Audit,
        settings: Settings,
        remembered: Remembered | None = None,
        *,
        others: Policy | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.policy = policy
        self.tiers = Tiers(policy, others)
        self.audit = audit
        self.settings = settings
        self.answers = remembered or Remembered()
        self.clock = clock
        self.newer: Gate | None = None  # what a reload has put in this one's place

    # --- expand ---

    def expand(self, plan: Plan, *, cwd: str, home: str, caller: Caller | None = None) -> Plan:
        """The plan with its shell text analysed and every effect's path resolved. Reads the file system,
        with the caller's rights where a caller is named."""
        with as_caller(caller) if caller else nullcontext():
            if any(isinstance(step, Shell) for step in plan.steps):
                plan = _with_shell(plan, cwd, home)
            else:
                plan = plan.model_copy(update={"effects": following.matched(plan.effects, cwd)})
            return plan.model_copy(update={"effects": following.resolved(plan.effects, cwd, home)})

    # --- judge ---

    def judge(
        self,
        plan: Plan,
        caller: Caller,
        *,
        cwd: str = "",
        write_roots: Sequence[str] = (),
        unattended: bool = False,
        session: str = "",
        rules: str = "",
    ) -> Verdict:
        """The verdict on an expanded plan. Without a `cwd` there are no write roots.

        `rules` came with the request (`tiers`). Raises ConfigError for rules that are wrong.
        """
        judgements = self.explain(
            plan,
            caller,
            cwd=cwd,
            write_roots=write_roots,
            unattended=unattended,
            session=session,
            rules=rules,
        )
        return self.verdict(judgements, plan, caller, cwd)

    def verdict(self, judgements: Sequence[Judgement], plan: Plan, caller: Caller, cwd: str) -> Verdict:
        """What comes of judgements that `explain` gave."""
        verdict = strictest(judgements, plan.effects.opaque)
        if verdict.decision is not Decision.ASK:
            return verdict
        rule = self.answers.find(plan, caller.uid, cwd)
        if rule is None or not (rule.never or answerable(judgements)):
            return verdict
        name = f"remembered:{rule.id}"
        if rule.never:
            return Verdict(decision=Decision.DENY, rule=name, reason="You said never to this.")
        return Verdict(decision=Decision.ALLOW, rule=name, reason="You said always to this.")

    def explain(
        self,
        plan: Plan,
        caller: Caller,
        *,
        cwd: str = "",
        write_roots: Sequence[str] = (),
        unattended: bool = False,
        session: str = "",
        rules: str = "",
    ) -> tuple[Judgement, ...]:
        """Every effect of an expanded plan with the rules that matched it; what `judge` goes by."""
        home = places.home_of(caller.uid)
        policy = self.tiers.of(caller, home, rules)
        with as_caller(caller):
            roots = self._roots_of(plan, cwd, (*write_roots, *policy.sheet.write), home)
            user, groups = account(caller.uid, caller.gid)
            facts = Facts(
                uid=caller.uid, home=home, cwd=cwd, write_roots=roots, unattended=unattended, user=user,
                groups=groups, session=session, now=self.clock(), hosts=frozenset(policy.sheet.network),
                processes=frozenset(policy.sheet.processes),
                hide=hiding.compiled(policy.sheet.hide, home),
            )  # fmt: skip
            return policy.explain(plan, facts)

    def roots(self, cwd: str, granted: Iterable[str], home: str) -> tuple[str, ...]:
        """The folders that may be written: the request's own and what was granted, real and sensible ones."""
        found = (places.real(path) for path in (cwd, *granted) if path.startswith("/"))
        return tuple(dict.fromkeys(path for path in found if following.may_be_root(path, home)))

    def _roots_of(self, plan: Plan, cwd: str, granted: Iterable[str], home: str) -> tuple[str, ...]:
        """`roots`, and what the plan itself may open beyond them. With the caller's rights."""
        return self.roots(cwd, (*granted, *trashcan.opened(plan, home)), home)

    # --- permit ---

    def permit(
        self,
        plan: Plan,
        verdict: Verdict,
        *,
        caller: Caller,
        request_id: str,
        cwd: str,
        approved: bool,
        write_roots: Sequence[str] = (),
        data: bytes | None = None,
        unattended: bool = False,
        session: str = "",
        rules: str = "",
        stage: Stage | None = None,
    ) -> Permit:
        """Leave to run, with its decision on disk. Raises Denied, NeedsApproval, DiskFull.

        With a `stage` what it writes goes there, and a permit of that stage is what commits it.

        `verdict` is what the person was shown; the plan is judged again, by the rules the request started
        with and by those in force now, and the strictest counts: neither a stale verdict nor a policy that
        was changed meanwhile lets anything through.
        """
        again = [
            gate.judge(
                plan, caller, cwd=cwd, write_roots=write_roots, unattended=unattended, session=session,
                rules=rules,
            )
            for gate in dict.fromkeys((self, self.newest()))
        ]  # fmt: skip
        final = max((verdict, *again), key=lambda found: found.decision)
        runs = final.decision is Decision.ALLOW or (final.decision is Decision.ASK and approved)
        self.audit.decided(
            plan, final, caller, request_id=request_id, cwd=cwd, approved=approved, runs=runs,
            given=replay.given(
                plan, caller, self.clock(), write_roots, unattended=unattended, session=session
            ),
        )  # fmt: skip
        if final.decision is Decision.DENY:
            raise Denied(final.reason, f"See why: llmos policy explain -- {plan.command}")
        if not runs:
            raise NeedsApproval(final.reason, "Say yes at a terminal, or add --yes.")
        roots, hide = self._granted(plan, caller, cwd, write_roots, rules)
        return mint(
            plan,
            final,
            caller,
            request_id=request_id,
            cwd=cwd,
            write_roots=() if plan.read_only else _staged(roots, stage),
            network=bool(plan.effects.network),
            hosts=named(plan.effects.network),
            data=data,
            hidden=hide,
            stage="" if stage is None else str(stage.folder),
        )

    def rehearse(
        self,
        plan: Plan,
        verdict: Verdict,
        *,
        caller: Caller,
        request_id: str,
        cwd: str,
        stage: Stage,
        write_roots: Sequence[str] = (),
        data: bytes | None = None,
        rules: str = "",
    ) -> Permit:
        """Leave to run on a stage that is thrown away unless a permit says otherwise; without network.

        For what would be asked about, so that the person sees what it does. Raises Denied, DiskFull.
        """
        self.audit.note("rehearsed", request_id, {
            "uid": caller.uid, "cwd": cwd, "tool": plan.call.tool, "command": plan.command,
            "verdict": verdict.decision.word, "rule": verdict.rule,
        })  # fmt: skip
        if verdict.decision is Decision.DENY:
            raise Denied(verdict.reason, f"See why: llmos policy explain -- {plan.command}")
        roots, hide = self._granted(plan, caller, cwd, write_roots, rules)
        return mint(
            plan,
            verdict,
            caller,
            request_id=request_id,
            cwd=cwd,
            write_roots=_staged(roots, stage),
            network=False,
            data=data,
            hidden=hide,
            stage=str(stage.folder),
        )

    def granted_roots(
        self, plan: Plan, caller: Caller, cwd: str, write_roots: Sequence[str], rules: str = ""
    ) -> tuple[str, ...]:
        """The write roots a permit would have."""
        home, granted, _ = self._of_both(caller, rules)
        with as_caller(caller):
            return self._roots_of(plan, cwd, (*write_roots, *granted), home)

    def _granted(
        self, plan: Plan, caller: Caller, cwd: str, write_roots: Sequence[str], rules: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Write roots, and places to hide, which are looked for in folders: not for the roots alone."""
        home, granted, hide = self._of_both(caller, rules)
        with as_caller(caller):
            roots = self._roots_of(plan, cwd, (*write_roots, *granted), home)
            return roots, hiding.expanded(hide, home, (cwd, *roots)) if hide else ()

    def _of_both(self, caller: Caller, rules: str) -> tuple[str, list[str], tuple[str, ...]]:
        """The home, the folders that both policies grant, and the patterns that either of them hides."""
        home = places.home_of(caller.uid)
        sheet, newer = (gate.tiers.of(caller, home, rules).sheet for gate in (self, self.newest()))
        granted = [root for root in sheet.write if root in newer.write]
        return home, granted, tuple(dict.fromkeys((*sheet.hide, *newer.hide)))

    def kept(self, caller: Caller, cwd: str, names: Iterable[str], rules: str = "") -> tuple[str, ...]:
        """Those of the named places that a policy keeps on this machine, as they were named."""
        home = places.home_of(caller.uid)
        sheets = [gate.tiers.of(caller, home, rules).sheet for gate in (self, self.newest())]
        patterns = tuple(dict.fromkeys(one for sheet in sheets for one in (*sheet.keep, *sheet.hide)))
        if not patterns:
            return ()
        found = []
        with as_caller(caller):
            labels = hiding.compiled(patterns, home)
            for name in names:
                place = os.path.normpath(os.path.join(cwd, _from_home(name, home)))
                if any(label.match(path) for label in labels for path in (place, places.real(place))):
                    found.append(name)
        return tuple(found)

    def newest(self) -> Gate:
        """The gate that reloads have put in this one's place; itself when there was none."""
        gate = self
        while gate.newer is not None:
            gate = gate.newer
        return gate

    def refused(
        self,
        plan: Plan,
        verdict: Verdict,
        *,
        caller: Caller,
        request_id: str,
        cwd: str,
        write_roots: Sequence[str] = (),
        unattended: bool = False,
        session: str = "",
    ) -> None:
        """Write down a decision after which nothing runs. Raises DiskFull, CallFailed."""
        self.audit.decided(
            plan, verdict, caller, request_id=request_id, cwd=cwd, approved=False, runs=False,
            given=replay.given(
                plan, caller, self.clock(), write_roots, unattended=unattended, session=session
            ),
        )  # fmt: skip

    def finished(self, permit: Permit, outcome: Outcome, *, ok: bool) -> None:
        """Write down what came of a permit."""
        self.audit.finished(permit.request_id, outcome, ok=ok, uid=permit.caller.uid)

    # --- answers given for good, and questions ---

    def remember(
        self,
        plan: Plan,
        caller: Caller,
        *,
        cwd: str = "",
        write_roots: Sequence[str] = (),
        rules: str = "",
        never: bool = False,
    ) -> Rule:
        """Make "always" or "never" a narrow rule. Raises UsageError for what is always asked, DiskFull."""
        if never:
            return self.answers.add(plan, caller.uid, cwd, never=True)
        judgements = self.newest().explain(plan, caller, cwd=cwd, write_roots=write_roots, rules=rules)
        if not answerable(judgements) or strictest(judgements, "").decision is Decision.DENY:
            raise UsageError("this is asked about every time", "Answer yes instead of always.")
        return self.answers.add(plan, caller.uid, cwd)

    def policy_check(
        self, command: str | list[str], cwd: str, caller: Caller, write_roots: Sequence[str] = ()
    ) -> JsonObject:
        """The verdict on a command, for `policy.check`; nothing runs and nothing is recorded."""
        plan = shell_plan(command if isinstance(command, str) else shlex.join(command))
        plan = self.expand(plan, cwd=cwd, home=places.home_of(caller.uid), caller=caller)
        verdict = self.judge(plan, caller, cwd=cwd, write_roots=write_roots)
        return {
            "verdict": verdict.decision.word,
            "rule": verdict.rule,
            "reason": verdict.reason,
            "effects": plan.effects.model_dump(mode="json"),
        }


def _from_home(name: str, home: str) -> str:
    return f"{home}/{name[2:]}" if name.startswith("~/") else name


def shell_plan(text: str) -> Plan:
    """Any text as a shell command to be judged, however odd; nothing of it is known yet."""
    call = ToolCall(tool=SHELL_TOOL, args={"command": text})
    return Plan(call=call, command=text, effects=Effects(), steps=(Shell(text=text),), read_only=False)


def _staged(roots: tuple[str, ...], stage: Stage | None) -> tuple[str, ...]:
    """The roots of the stage, each of which must still be granted."""
    if stage is None:
        return roots
    lost = [path for path in stage.write_roots if not any(is_within(path, root) for root in roots)]
    if lost:
        raise Denied(f"{lost[0]} may not be written any more", "Make the request again.")
    return stage.write_roots


def _with_shell(plan: Plan, cwd: str, home: str) -> Plan:
    """Shell steps as they will be run, and the effects they were found to have."""
    shells = [step for step in plan.steps if isinstance(step, Shell)]
    found = [commandline.analyse(step.text, cwd=cwd, home=home) for step in shells]
    fresh = dict(zip(map(id, shells), map(_understood, shells, found), strict=True))
    others = len(shells) < len(plan.steps)
    shown = " && ".join(analysis.normalised for analysis in found)
    update = {
        "steps": tuple(fresh.get(id(step), step) for step in plan.steps),
        "command": plan.command if others else shown,
        "effects": following.union([plan.effects, *(analysis.effects for analysis in found)]),
        "read_only": all(analysis.read_only for analysis in found) and (plan.read_only or not others),
    }
    return plan.model_copy(update=update)


def _understood(step: Shell, found: commandline.Analysis) -> Shell | Pipelines:
    """What is understood runs without a shell; what is not, as it stands."""
    if found.opaque:
        return step
    return Pipelines(
        text=found.normalised,
        pipelines=found.pipelines,
        stdin_data=step.stdin_data,
        timeout_s=step.timeout_s,
    )
