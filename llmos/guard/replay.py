"""The real journal judged again, under a changed policy: what would be decided otherwise than it was.

A decision stands in the journal with its effects and circumstances (`given`), so no command is analysed
anew; what kind of place a path is, is looked up as it is now. Decisions that a remembered answer gave are
compared as the question they were. Pure but for those look-ups; nothing runs and nothing is written.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from llmos.guard import following, hiding, places
from llmos.guard.caller import account
from llmos.guard.facts import Facts
from llmos.guard.policy import Policy
from llmos.messages import Caller, Decision, Effects, JsonObject, Plan, Start, ToolCall, Verdict


@dataclass(frozen=True, slots=True)
class Change:
    """One decision as it was, and as it would be."""

    seq: int
    time: float
    tool: str
    command: str
    before: str
    before_rule: str
    after: str
    after_rule: str
    reason: str

    @property
    def differs(self) -> bool:
        return self.before != self.after


def given(
    plan: Plan, caller: Caller, now: datetime.datetime, write_roots: Sequence[str], *, unattended: bool,
    session: str,
) -> JsonObject:  # fmt: skip
    """What a plan was judged by beside its effects, for the journal."""
    found: JsonObject = {"gid": caller.gid, "hour": now.hour, "weekday": now.weekday()}
    found |= {"read_only": True} if plan.read_only else {}
    found |= {"unattended": True} if unattended else {}
    found |= {"session": session} if session else {}
    roots = [*write_roots, *plan.opens]
    found |= {"write_roots": roots} if roots else {}
    found |= {"reply": True} if plan.reply is not None else {}
    starts = [list(step.argv) for step in plan.steps if isinstance(step, Start)]
    return found | ({"starts": starts} if starts else {})


def replay(lines: Iterable[JsonObject], policy: Policy, since: float = 0.0) -> Iterator[Change]:
    """Every decision of the journal since then that can be judged again, oldest first."""
    for line in lines:
        if line.get("kind") != "decided" or line.get("time", 0.0) < since:
            continue
        try:
            plan, facts = _as_it_was(line, policy)
        except (KeyError, TypeError, ValueError, ValidationError):
            continue  # not a decision of a form that we know; `judged` counts what was
        yield _change(line, policy.judge(plan, facts))


def _change(line: JsonObject, verdict: Verdict) -> Change:
    before, rule = line["verdict"], str(line["rule"])
    if rule.startswith("remembered:"):
        before = Decision.ASK.word
    return Change(
        seq=line["seq"], time=line["time"], tool=line["tool"], command=line["command"], before=before,
        before_rule=rule, after=verdict.decision.word, after_rule=verdict.rule, reason=verdict.reason,
    )  # fmt: skip


def _as_it_was(line: JsonObject, policy: Policy) -> tuple[Plan, Facts]:
    where: JsonObject = line["given"]
    if "left_out" in where:
        raise KeyError("it was too large to be kept")
    uid, cwd = int(line["uid"]), str(line["cwd"])
    home = places.home_of(uid)
    user, groups = account(uid, int(where["gid"]))
    found = (places.real(path) for path in (cwd, *where.get("write_roots", ()), *policy.sheet.write))
    roots = tuple(path for path in found if following.may_be_root(path, home))
    facts = Facts(
        uid=uid, home=home, cwd=cwd, write_roots=roots,
        unattended=where.get("unattended", False), user=user, groups=groups,
        session=where.get("session", ""), now=_moment(line["time"], where),
        hide=hiding.compiled(policy.sheet.hide, home), hosts=frozenset(policy.sheet.network),
        processes=frozenset(policy.sheet.processes),
    )  # fmt: skip
    plan = Plan(
        call=ToolCall(tool=line["tool"], args=line["args"]),
        command=line["command"],
        effects=Effects.model_validate(line["effects"]),
        steps=tuple(Start(argv=tuple(argv), name="replayed") for argv in where.get("starts", ())),
        read_only=where.get("read_only", False),
        reply="" if where.get("reply") else None,
    )
    return plan, facts


def _moment(time: float, where: JsonObject) -> datetime.datetime:
    """The time in the journal, on the clock of then: the machine may have moved to another time zone."""
    day = datetime.datetime.fromtimestamp(time, datetime.UTC).replace(tzinfo=None, hour=int(where["hour"]))
    return day + datetime.timedelta(days=(int(where["weekday"]) - day.weekday() + 3) % 7 - 3)
