"""What must hold for any rules and any plan: a later tier only tightens, and an error never allows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos import paths
from llmos.guard.facts import SCHEMA, Facts, questions
from llmos.guard.policy import Cedar, Judgement, Policy, answerable, strictest
from llmos.guard.rulefile import SETS, Rule, Sheet, Tier
from llmos.messages import Decision, Effects, Plan, ProgramUse, ToolCall

BASE = {name: Policy.load(name, (paths.builtin_policy_dir(),)) for name in SETS[1:]}

_BOOLS = ("read_only", "opaque", "unattended", "in_write_roots", "secret", "sensitive", "device", "kernel",
          "own", "foreign_home", "boot", "accounts", "startup", "control", "holds_protected", "described",
          "own_process", "network_granted")  # fmt: skip
_ATOMS = st.one_of(
    st.sampled_from([f"context.{name}" for name in _BOOLS]),
    st.sampled_from(
        [
            'action == Action::"write"', 'action in [Action::"read", Action::"delete"]',
            'action == Action::"run"', 'context.path like "*/src/*"', 'context.program like "*/git"',
            'context.options.contains("--force")', 'context.subcommand == "push"', "context.hour < 7",
            'context.weekday == "sunday"', "context.deletes > 2", 'context.groups.contains("wheel")',
            'context.host == "example.org"', "context.port == 22", 'context.owner == "other"',
        ]
    ),
)  # fmt: skip
_CONDITIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        inner.map(lambda text: f"!({text})"),
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda p: f"({p[0]}) {p[1]} ({p[2]})"),
    ),
    max_leaves=4,
)


def rule(number: int, tier: Tier, decision: Decision, when: str) -> Rule:
    return Rule(f"r{number}", decision, "because of this", when, ("x",), (), tier, "here:1", every_time=True)


_LATER = st.lists(
    st.tuples(
        st.sampled_from([Tier.SYSTEM, Tier.USER, Tier.SESSION]),
        st.sampled_from([Decision.ASK, Decision.DENY]),
        _CONDITIONS,
    ),
    min_size=1,
    max_size=5,
)

_PATHS = st.sampled_from(
    ["/home/person/work/a", "/home/person/work/src/b", "/etc/passwd", "/etc/shadow", "/dev/null", "/dev/sda",
     "/home/person/.ssh/id_rsa", "/home/person/.bashrc", "/boot/x", "/proc/1/mem", "/home/other/x",
     "/home/person/work/x.key", "/a\udcffb", "/nul\0byte"]
)  # fmt: skip
_USES = st.builds(
    ProgramUse,
    program=st.sampled_from(["/usr/bin/git", "/usr/bin/ls", "/opt/x"]),
    options=st.lists(st.sampled_from(["-a", "--force"]), max_size=2).map(tuple),
    subcommand=st.sampled_from(["", "push"]),
)


def _some(of: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=4).map(tuple)


_EFFECTS = st.builds(
    Effects,
    reads=_some(_PATHS), writes=_some(_PATHS), deletes=_some(_PATHS), uses=_some(_USES),
    programs=_some(st.sampled_from(["/usr/bin/git", "/opt/x"])),
    network=_some(st.sampled_from(["example.org", "example.org:22", "*", "[::1]:80"])),
    signals=_some(st.sampled_from([1, 4194305])), opaque=st.sampled_from(["", "unknown"]),
)  # fmt: skip
_PLANS = st.builds(
    lambda effects, read_only: Plan(
        call=ToolCall(tool="x"), command="x", effects=effects, steps=(), read_only=read_only
    ),
    _EFFECTS,
    st.booleans(),
)
_FACTS = st.builds(
    Facts,
    uid=st.just(1000), home=st.just("/home/person"), cwd=st.just("/home/person/work"),
    write_roots=st.sampled_from([(), ("/home/person/work",)]), unattended=st.booleans(),
    groups=st.sampled_from([(), ("wheel",)]),
    hosts=st.sampled_from([frozenset(), frozenset({"example.org"})]),
    now=st.datetimes(),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SETS[1:]), _LATER, st.lists(st.tuples(_PLANS, _FACTS), min_size=1, max_size=6))
def test_a_later_tier_never_loosens(
    set_name: str, later: list[tuple[Tier, Decision, str]], asked: list[tuple[Plan, Facts]]
) -> None:
    base = BASE[set_name]
    more = tuple(rule(number, *one) for number, one in enumerate(later))
    both = Sheet((*base.rules, *more))
    tight = Policy(both, Cedar(both.rules))
    for plan, facts in asked:
        before, after = base.explain(plan, facts), tight.explain(plan, facts)
        for old, new in zip(before, after, strict=True):
            assert new.verdict.decision >= old.verdict.decision
        assert least(after) >= least(before)


def least(judgements: tuple[Judgement, ...]) -> Decision:
    """What it can come to at best: "always" may stand in for a question."""
    word = strictest(judgements, "").decision
    return Decision.ALLOW if word is Decision.ASK and answerable(judgements) else word


@settings(deadline=None, max_examples=40)
@given(_PLANS, _FACTS)
def test_every_context_is_of_the_types_that_rules_were_checked_against(plan: Plan, facts: Facts) -> None:
    import cedarpy

    requests = [question.request(facts.uid) for question in questions(plan, facts)]
    policies = cedarpy.PolicySet.from_str("permit (principal, action, resource);")
    answers = cedarpy.is_authorized_batch(requests, policies, "[]", cedarpy.Schema.from_str(SCHEMA))
    assert [answer.diagnostics.errors for answer in answers] == [[]] * len(requests)


@settings(deadline=None, max_examples=20)
@given(_PLANS, _FACTS)
def test_an_engine_that_fails_allows_nothing(plan: Plan, facts: Facts) -> None:
    class Broken:
        def matched(self, asked: object, uid: int) -> list[list[str] | None]:
            raise RuntimeError("no answer")

    verdict = Policy(Sheet(), Broken()).judge(plan, facts)
    assert (verdict.decision, verdict.rule) == (Decision.DENY, "error")


def test_questions_that_no_rule_tells_apart_are_answered_alike() -> None:
    """Leaving out equal questions changes no answer: compared with rules that do look at names."""
    names = (*(f"/home/person/work/f{number}" for number in range(50)), "/etc/shadow", "/home/other/x")
    effects = Effects(reads=names, deletes=names)
    plan = Plan(call=ToolCall(tool="x"), command="x", effects=effects, steps=(), read_only=False)
    facts = Facts(1000, "/home/person", "/home/person/work", ("/home/person/work",))
    quiet = tuple(one for one in BASE["default"].rules if "context.path" not in one.when)
    looking = (*quiet, rule(1, Tier.USER, Decision.ASK, 'context.path == "/nowhere"'))
    answers = [
        [judgement.verdict for judgement in Policy(Sheet(rules), Cedar(rules)).explain(plan, facts)]
        for rules in (quiet, looking)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "text", ['resource == Path::"/x"', 'context.path == "/x"', 'context["path"] == "/x"']
)
def test_a_rule_that_looks_at_names_sees_each_of_them(text: str) -> None:
    rules = (*BASE["default"].rules, rule(1, Tier.USER, Decision.DENY, text))
    plan = Plan(
        call=ToolCall(tool="x"), command="x", effects=Effects(reads=("/y", "/x")), steps=(), read_only=True
    )
    assert Policy(Sheet(rules), Cedar(rules)).judge(plan, Facts(1000, "/home/p", "/")).rule == "r1"
