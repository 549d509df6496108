"""The gate: a plan is expanded, judged and, if it may run, given its permit. Nobody else mints one.

    expand   shell text analysed, paths followed to what they really are
    judge    the policy's verdict; an answer the person gave for good turns `ask` into `allow`
    permit   judged once more, written to the journal, and granted no more than it needs

What it does not protect against: a path that is swapped after this. The sandbox grants and masks by
the tree it mounts, so a swap changes what is found there and never what may be reached.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence

from llmos.config import Settings
from llmos.errors import Denied, NeedsApproval
from llmos.guard import commandline, places
from llmos.guard.audit import Audit
from llmos.guard.facts import Facts
from llmos.guard.permit import Permit, mint
from llmos.guard.policy import Policy
from llmos.guard.remembered import Remembered, Rule
from llmos.guard.sandbox import is_within
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

_NEVER_ROOTS = ("/proc", "/sys", "/dev", "/run", "/var/run")
SHELL_TOOL = "shell.run"


class Gate:
    """One policy, one journal, one memory of answers. Thread-safe: holds no state of its own."""

    def __init__(
        self, policy: Policy, audit: Audit, settings: Settings, remembered: Remembered | None = None
    ) -> None:
        self.policy = policy
        self.audit = audit
        self.settings = settings
        self.answers = remembered or Remembered()

    # --- expand ---

    def expand(self, plan: Plan, *, cwd: str, home: str) -> Plan:
        """The plan with its shell text analysed and every effect's path resolved. Reads the file system."""
        if any(isinstance(step, Shell) for step in plan.steps):
            plan = _with_shell(plan, cwd, home)
        return plan.model_copy(update={"effects": _resolved(plan.effects, cwd, home)})

    # --- judge ---

    def judge(
        self,
        plan: Plan,
        caller: Caller,
        *,
        cwd: str = "",
        write_roots: Sequence[str] = (),
        unattended: bool = False,
    ) -> Verdict:
        """The verdict on an expanded plan. Without a `cwd` there are no write roots."""
        home = places.home_of(caller.uid)
        roots = self.roots(cwd, write_roots, home)
        verdict = self.policy.judge(plan, Facts(caller.uid, home, cwd, roots, unattended))
        if verdict.decision is Decision.ASK and (rule := self.answers.find(plan, caller.uid, cwd)):
            return Verdict(
                decision=Decision.ALLOW, rule=f"remembered:{rule.id}", reason="You said always to this."
            )
        return verdict

    def roots(self, cwd: str, granted: Iterable[str], home: str) -> tuple[str, ...]:
        """The folders that may be written: the request's own and what was granted, real and sensible ones."""
        found = (places.real(path) for path in (cwd, *granted) if path.startswith("/"))
        return tuple(dict.fromkeys(path for path in found if _may_be_root(path, home)))

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
    ) -> Permit:
        """Leave to run, with its decision on disk. Raises Denied, NeedsApproval, DiskFull.

        `verdict` is what the person was shown; the plan is judged again and the stricter one counts, so
        neither a stale verdict nor a policy that was tightened meanwhile lets anything through.
        """
        now = self.judge(plan, caller, cwd=cwd, write_roots=write_roots, unattended=unattended)
        final = max(verdict, now, key=lambda found: found.decision)
        runs = final.decision is Decision.ALLOW or (final.decision is Decision.ASK and approved)
        self.audit.decided(plan, final, caller, request_id=request_id, cwd=cwd, approved=approved, runs=runs)
        if final.decision is Decision.DENY:
            raise Denied(final.reason, f"See why: llmos policy check -- {plan.command}")
        if not runs:
            raise NeedsApproval(final.reason, "Say yes at a terminal, or add --yes.")
        roots = self.roots(cwd, write_roots, places.home_of(caller.uid))
        return mint(
            plan,
            final,
            caller,
            request_id=request_id,
            cwd=cwd,
            write_roots=() if plan.read_only else roots,
            network=bool(plan.effects.network),
            data=data,
        )

    def finished(self, permit: Permit, outcome: Outcome, *, ok: bool) -> None:
        """Write down what came of a permit."""
        self.audit.finished(permit.request_id, outcome, ok=ok)

    # --- answers given for good, and questions ---

    def remember(self, plan: Plan, caller: Caller, *, cwd: str = "") -> Rule:
        """Make "always" a narrow rule. Raises UsageError for what is asked every time, DiskFull."""
        return self.answers.add(plan, caller.uid, cwd)

    def policy_check(
        self, command: str | list[str], cwd: str, caller: Caller, write_roots: Sequence[str] = ()
    ) -> JsonObject:
        """The verdict on a command, for `policy.check`; nothing runs and nothing is recorded."""
        text = command if isinstance(command, str) else shlex.join(command)
        call = ToolCall(tool=SHELL_TOOL, args={"command": text})
        plan = Plan(call=call, command=text, effects=Effects(), steps=(Shell(text=text),), read_only=False)
        plan = self.expand(plan, cwd=cwd, home=places.home_of(caller.uid))
        verdict = self.judge(plan, caller, cwd=cwd, write_roots=write_roots)
        return {
            "verdict": verdict.decision.word,
            "rule": verdict.rule,
            "reason": verdict.reason,
            "effects": plan.effects.model_dump(mode="json"),
        }


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
        "effects": _union([plan.effects, *(analysis.effects for analysis in found)]),
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


def _union(effects: Sequence[Effects]) -> Effects:
    joined: dict[str, tuple[object, ...] | str] = {}
    for name in ("reads", "writes", "deletes", "programs", "network", "signals", "uses"):
        joined[name] = tuple(dict.fromkeys(item for one in effects for item in getattr(one, name)))
    joined["opaque"] = next((one.opaque for one in effects if one.opaque), "")
    return Effects.model_validate(joined)


def _resolved(effects: Effects, cwd: str, home: str) -> Effects:
    return effects.model_copy(
        update={
            "reads": _real(effects.reads, cwd, home),
            "writes": _real(effects.writes, cwd, home),
            "deletes": _real(effects.deletes, cwd, home, follow=False),
            "programs": tuple(dict.fromkeys(effects.programs)),
        }
    )


def _real(found: Iterable[str], cwd: str, home: str, *, follow: bool = True) -> tuple[str, ...]:
    """Where the paths really lead; a protected name a link stood under is kept, and judged, as well.

    Deleting removes a link, not what it points to, so there only the folder is followed.
    """
    real: dict[str, None] = {}
    for path in found:
        whole = os.path.join(cwd, path)
        if follow or os.path.basename(whole) in ("", ".", ".."):
            place = places.real(whole)
        else:
            place = os.path.join(places.real(os.path.dirname(whole)), os.path.basename(whole))
        real[place] = None
        lexical = os.path.normpath(whole)
        if lexical != place and places.is_protected(lexical, home):
            real[lexical] = None
    return tuple(real)


def _may_be_root(path: str, home: str) -> bool:
    if path == "/" or any(is_within(path, place) for place in _NEVER_ROOTS):
        return False
    return not (places.is_protected(path, home) or places.is_kernel(path) or places.is_boot(path))
