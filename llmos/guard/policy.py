"""Rules in TOML, evaluated by Cedar: what may be done, what is asked about, what is refused.

A plan becomes questions (`facts`), one for each effect. Every rule is a Cedar `permit` policy with the
rule's id; the policies that determine Cedar's answer are the rules that matched, and the strictest of
their decisions counts. What no rule of the shipped set matches is asked. The tiers after it (system,
user, session) may only ask or deny, so they can only tighten: an `allow` there is an error in the file.
What cannot be evaluated is refused: a rule that fails (an overflow) may be the one that denies.

Source: Cedar policy language 4 (https://docs.cedarpolicy.com), through cedarpy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmos.errors import ConfigError
from llmos.guard import examples, rulefile
from llmos.guard.facts import SCHEMA, Facts, Question, questions
from llmos.guard.rulefile import Rule, Sheet, Tier
from llmos.messages import Decision, Plan, Verdict

UNMATCHED = "unmatched"
_LOOKS_AT_NAMES = re.compile(r"\bcontext\s*(?:\.\s*path\b|\[)|\bresource\b|\bcontext\b(?!\s*\.)")


class _Engine(Protocol):
    def matched(self, asked: Sequence[Question], uid: int) -> list[list[str] | None]: ...


class Cedar:
    """Compiled rules. `matched` gives the ids of the rules that match each question, None on an error.

    Questions that no rule can tell apart are evaluated once: deleting 500 files in one folder is one
    question, unless a rule looks at the paths themselves.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        import cedarpy

        self._cedar = cedarpy
        self._policies = cedarpy.PolicySet.from_str("\n".join(map(rulefile.to_cedar, rules)))
        self._entities = cedarpy.Entities.from_json_str("[]")
        self._names_matter = any(_LOOKS_AT_NAMES.search(rule.when) for rule in rules)

    def matched(self, asked: Sequence[Question], uid: int) -> list[list[str] | None]:
        requests: dict[tuple[str, str, str], Any] = {}
        keys = []
        for question in asked:
            request = self._request(question, uid)
            key = (question.action, request["resource"]["id"], request["context"])
            requests[key] = request
            keys.append(key)
        # No schema here: the rules were checked against it, and `facts` makes contexts of its types.
        answers = self._cedar.is_authorized_batch(list(requests.values()), self._policies, self._entities)
        found = dict(zip(requests, map(self._ids, answers), strict=True))
        return [found[key] for key in keys]

    def _request(self, question: Question, uid: int) -> dict[str, Any]:
        """With the context as text, which Cedar takes as it is and equal ones are known by."""
        request, context = question.request(uid), question.context
        if not self._names_matter:
            request["resource"] = {**request["resource"], "id": ""}
            context = {**context, "path": ""}
        request["context"] = json.dumps(context)
        return request

    def _ids(self, answer: Any) -> list[str] | None:
        if answer.diagnostics.errors or answer.decision is self._cedar.Decision.NoDecision:
            return None
        return list(answer.diagnostics.id_annotations_by_reason.values())


@dataclass(frozen=True, slots=True)
class Judgement:
    """One question, the rules that matched it, and the verdict they give."""

    question: Question
    matched: tuple[Rule, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force. Immutable: a reload makes a new one."""

    sheet: Sheet
    engine: _Engine

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self.sheet.rules

    @classmethod
    def load(cls, set_name: str, dirs: Sequence[Path], *, shipped_later: bool = False) -> Policy:
        """Read the shipped set from the first of `dirs`, and every file of the others (system, user).

        All rules are compiled and their examples run; of the shipped ones with `prove`, if that is to be
        `later`. Raises ConfigError naming file, line and key.
        """
        sheet = rulefile.load(set_name, dirs)
        known = [rule for rule in sheet.rules if shipped_later and rule.tier is Tier.BUILTIN]
        return cls.of(sheet, known)

    def prove(self) -> None:
        """Check every rule and run its examples. Raises ConfigError."""
        Policy.of(self.sheet)

    @classmethod
    def of(cls, sheet: Sheet, known: Sequence[Rule] = ()) -> Policy:
        """Check and compile; `known` are rules that were checked before. Raises ConfigError."""
        fresh = [rule for rule in sheet.rules if rule not in known]
        for rule in fresh:
            check_condition(rule)
        policy = cls(sheet, Cedar(sheet.rules))
        for failure in policy.failures(fresh):
            raise failure
        return policy

    def tightened(self, more: Sheet) -> Policy:
        """With the rules of a later tier as well. Raises ConfigError."""
        return Policy.of(self.sheet + more, known=self.sheet.rules) if more != Sheet() else self

    def failures(self, rules: Sequence[Rule]) -> Iterator[ConfigError]:
        """What is wrong with the examples of these rules of the policy."""

        def matched(plan: Plan, facts: Facts) -> frozenset[str]:
            answers = self.engine.matched(questions(plan, facts), facts.uid)
            return frozenset(one for ids in answers if ids is not None for one in ids)

        return examples.failures(rules, matched)

    # --- judging ---

    def judge(self, plan: Plan, facts: Facts) -> Verdict:
        """The strictest decision over all effects of the plan, with its rule and reason. Raises nothing."""
        return strictest(self.explain(plan, facts), plan.effects.opaque)

    def explain(self, plan: Plan, facts: Facts) -> tuple[Judgement, ...]:
        """Every effect with the rules that matched it, and what they come to. Raises nothing."""
        asked = questions(plan, facts)
        try:
            answers = self.engine.matched(asked, facts.uid)
        except Exception:  # whatever Cedar could not take
            answers = [None] * len(asked)
        return tuple(self._judgement(question, ids) for question, ids in zip(asked, answers, strict=True))

    def _judgement(self, question: Question, ids: list[str] | None) -> Judgement:
        if ids is None:
            reason = f"The rules could not be evaluated here ({question.action} {question.subject})."
            return Judgement(question, (), Verdict(decision=Decision.DENY, rule="error", reason=reason))
        matched = tuple(rule for rule in self.rules if rule.id in ids)
        return Judgement(question, matched, _verdict(question, matched))


def _verdict(question: Question, matched: Sequence[Rule]) -> Verdict:
    """The strictest of the matching rules; one of a later tier alone answers for nothing but a denial."""
    worst = max(matched, key=lambda rule: rule.decision, default=None)
    speaks = worst is not None and worst.decision is Decision.DENY
    if worst is None or not (speaks or any(rule.tier is Tier.BUILTIN for rule in matched)):
        reason = f"No rule speaks of this ({question.action} {question.subject})."
        return Verdict(decision=Decision.ASK, rule=UNMATCHED, reason=reason)
    subject = "" if question.action in ("run", "reply") else f" ({question.subject})"
    return Verdict(decision=worst.decision, rule=worst.id, reason=f"{worst.why.rstrip('.')}{subject}.")


def strictest(judgements: Sequence[Judgement], opaque: str) -> Verdict:
    """The verdict on the whole; where it is asked, with the reason why it is not understood."""
    worst = max((judgement.verdict for judgement in judgements), key=lambda verdict: verdict.decision)
    if worst.decision is Decision.ASK and opaque:
        return worst.model_copy(update={"reason": f"{worst.reason} {_sentence(opaque)}".strip()})
    return worst


def answerable(judgements: Sequence[Judgement]) -> bool:
    """Whether a remembered answer may stand in for the person: nothing is asked that is asked every time."""
    asked = [judgement for judgement in judgements if judgement.verdict.decision is Decision.ASK]
    rules = [rule for judgement in asked for rule in judgement.matched]
    return all(judgement.verdict.rule != UNMATCHED for judgement in asked) and not any(
        rule.every_time for rule in rules if rule.decision is Decision.ASK
    )


def check_condition(rule: Rule) -> None:
    """Cedar's own type check of `when`, and that it is one condition: raises ConfigError with the reason."""
    import cedarpy

    text, step = rulefile.to_cedar(rule), "See docs/policy.md for the facts a rule may use."
    found = cedarpy.validate_policies(text, SCHEMA)
    if not found.validation_passed:
        message = " ".join(error.error for error in found.errors) or "it is not a Cedar condition"
        raise ConfigError(" ".join(message.split()), step, where=f"{rule.where}: when")
    if not _is_one_condition(cedarpy.policies_to_json_str(text), rule.id):
        message = "it is not one condition: it ends and goes on, or is too long"
        raise ConfigError(message, "Write one expression.", where=f"{rule.where}: when")


def _is_one_condition(parsed: str, rule_id: str) -> bool:
    """`true }; forbid (...) when { true` would be two policies, and one of them could say anything."""
    try:
        found = json.loads(parsed)
    except RecursionError:  # a thousand operators
        return False
    policies = [*found["staticPolicies"].values()]
    return (
        not found["templates"]
        and len(policies) == 1
        and policies[0]["effect"] == "permit"
        and policies[0]["annotations"] == {"id": rule_id}
        and [condition["kind"] for condition in policies[0]["conditions"]] == ["when"]
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
