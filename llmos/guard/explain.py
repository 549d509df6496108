"""Why a verdict is what it is: each effect, the rules that matched it by tier, the facts they looked at.

Pure: it puts what the policy found into an object for `--json`; the console makes text of that object.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmos.guard.policy import Judgement, Policy
from llmos.guard.rulefile import Rule
from llmos.messages import JsonObject, Plan, Verdict

_FACT = re.compile(r"\bcontext\s*\.\s*(\w+)")
_COMMON = ("uid", "user", "groups", "session", "unattended", "cwd", "hour", "weekday", "read_only", "opaque")


def as_json(plan: Plan, verdict: Verdict, judgements: Sequence[Judgement]) -> JsonObject:
    """The contract's four keys, and below them how they came about."""
    return {
        "verdict": verdict.decision.word,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "effects": plan.effects.model_dump(mode="json"),
        "tool": plan.call.tool,
        "command": plan.command,
        "facts": {name: judgements[0].question.context[name] for name in _COMMON},
        "questions": [_question(judgement, verdict) for judgement in judgements],
    }


def listed(policy: Policy) -> JsonObject:
    """Every rule in force, and what is granted and hidden."""
    rules = [
        {"rule": rule.id, "tier": rule.tier.word, "decision": rule.decision.word, "why": rule.why,
         "when": rule.when, "where": rule.where}
        for rule in policy.rules
    ]  # fmt: skip
    sheet = policy.sheet
    return {
        "rules": rules,
        "hide": sheet.hide,
        "keep": sheet.keep,
        "write": sheet.write,
        "network": sheet.network,
        "processes": sheet.processes,
    }


def _question(judgement: Judgement, verdict: Verdict) -> JsonObject:
    found = judgement.verdict
    return {
        "action": judgement.question.action,
        "subject": judgement.question.subject,
        "verdict": found.decision.word,
        "rule": found.rule,
        "decides": found.rule == verdict.rule,
        "matched": [_rule(rule, judgement) for rule in judgement.matched],
    }


def _rule(rule: Rule, judgement: Judgement) -> JsonObject:
    names = dict.fromkeys(_FACT.findall(rule.when))
    return {
        "rule": rule.id,
        "tier": rule.tier.word,
        "decision": rule.decision.word,
        "why": rule.why,
        "where": rule.where,
        "facts": {name: judgement.question.context.get(name) for name in names},
    }
