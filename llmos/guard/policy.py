"""Rules in TOML, evaluated by Cedar: what may be done, what is asked about, what is refused.

A plan becomes questions (`facts`), one for each effect. Every rule is a Cedar `permit` policy with the
rule's id; the policies that determine Cedar's answer are the rules that matched, and the strictest of
their decisions counts. What no rule of the shipped set matches is asked. The tiers after it (system,
user, session) may only ask or deny, so they can only tighten: an `allow` there is an error in the file.
An evaluation error never allows.

Source: Cedar policy language 4 (https://docs.cedarpolicy.com), through cedarpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmos.errors import ConfigError
from llmos.guard import rulefile
from llmos.guard.facts import SCHEMA, Facts, Question, questions
from llmos.guard.rulefile import Rule
from llmos.messages import Decision, Plan, Verdict

UNMATCHED = "unmatched"


class _Engine(Protocol):
    def matched(self, asked: Sequence[Question], uid: int) -> list[list[str] | None]: ...


class Cedar:
    """Compiled rules. `matched` gives the ids of the rules that match each question, None on an error."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        import cedarpy

        self._cedar = cedarpy
        self._policies = cedarpy.PolicySet.from_str("\n".join(map(rulefile.to_cedar, rules)))
        self._schema = cedarpy.Schema.from_str(SCHEMA)

    def matched(self, asked: Sequence[Question], uid: int) -> list[list[str] | None]:
        requests = [question.request(uid) for question in asked]
        answers = self._cedar.is_authorized_batch(requests, self._policies, "[]", self._schema)
        return [self._ids(answer) for answer in answers]

    def _ids(self, answer: Any) -> list[str] | None:
        if answer.diagnostics.errors or answer.decision is self._cedar.Decision.NoDecision:
            return None
        return list(answer.diagnostics.id_annotations_by_reason.values())


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force. Immutable: a reload makes a new one."""

    rules: tuple[Rule, ...]
    engine: _Engine

    @classmethod
    def load(cls, set_name: str, dirs: Sequence[Path]) -> Policy:
        """Read the shipped set from the first of `dirs`, and every file of the others (system, user).

        All rules are compiled and their examples run. Raises ConfigError naming file, line and key.
        """
        rules = tuple(rulefile.load(set_name, dirs))
        for rule in rules:
            _check_condition(rule)
        policy = cls(rules, Cedar(rules))
        for rule in rules:
            policy._check_examples(rule)
        return policy

    def judge(self, plan: Plan, facts: Facts) -> Verdict:
        """The strictest decision over all effects of the plan, with its rule and reason. Raises nothing."""
        asked = questions(plan, facts)
        answers = self.engine.matched(asked, facts.uid)
        verdicts = (self._verdict(question, ids) for question, ids in zip(asked, answers, strict=True))
        worst = max(verdicts, key=lambda verdict: verdict.decision)
        if worst.decision is Decision.ASK and plan.effects.opaque:
            return worst.model_copy(
                update={"reason": f"{worst.reason} {_sentence(plan.effects.opaque)}".strip()}
            )
        return worst

    def _verdict(self, question: Question, ids: list[str] | None) -> Verdict:
        if ids is None:
            return Verdict(
                decision=Decision.ASK, rule="error", reason="The policy could not be evaluated here."
            )
        matched = [rule for rule in self.rules if rule.id in ids]
        worst = max(matched, key=lambda rule: rule.decision, default=None)
        if worst is None or (
            worst.decision is not Decision.DENY and not any(rule.shipped for rule in matched)
        ):
            reason = f"No rule speaks of this ({question.action} {question.subject})."
            return Verdict(decision=Decision.ASK, rule=UNMATCHED, reason=reason)
        subject = "" if question.action in ("run", "reply") else f" ({question.subject})"
        return Verdict(decision=worst.decision, rule=worst.id, reason=f"{worst.why.rstrip('.')}{subject}.")

    # --- examples ---

    def _check_examples(self, rule: Rule) -> None:
        for key, expected in (("match", True), ("not_match", False)):
            for number, example in enumerate(rule.match if expected else rule.not_match):
                plan, facts = rulefile.example_plan(example)
                answers = self.engine.matched(questions(plan, facts), facts.uid)
                if any(ids is not None and rule.id in ids for ids in answers) is not expected:
                    wrong = "is not matched by the rule" if expected else "is matched by the rule"
                    raise ConfigError(
                        f"the example {example!r} {wrong}",
                        "Correct the rule's `when`, or the example.",
                        where=f"{rule.where}: {key}.{number}",
                    )


def _check_condition(rule: Rule) -> None:
    """Cedar's own type check of `when`; raises ConfigError with its message."""
    import cedarpy

    found = cedarpy.validate_policies(rulefile.to_cedar(rule), SCHEMA)
    if not found.validation_passed:
        message = " ".join(error.error for error in found.errors) or "it is not a Cedar condition"
        step = "See docs/policy.md for the facts a rule may use."
        raise ConfigError(" ".join(message.split()), step, where=f"{rule.where}: when")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
