"""The choice where a request is thought about next: each step up, and why it is not taken."""

from __future__ import annotations

from dataclasses import replace

from llmos.planner import route
from llmos.planner.route import BackendFacts, Facts, Larger, Tried

CLOUD = BackendFacts("lab", fits=True, window=32_768, ceiling_usd=0.01)
DEFAULT, LARGE = Larger("default", 1 << 30), Larger("large", 2 << 30)
FACTS = Facts(
    kind="call",
    prompt_tokens=500,
    reply_tokens=192,
    window=4096,
    consent="given",
    larger=(DEFAULT, LARGE),
    backends=(CLOUD,),
    free_bytes=8 << 30,
)
UNSURE = Tried("local", 0.2)


def next_of(*tried: Tried, facts: Facts = FACTS) -> tuple[str, tuple[str, ...]]:
    choice = route.choose(replace(facts, tried=tried))
    return choice.where, choice.order


def test_the_cascade_goes_up_one_step_at_a_time() -> None:
    second, third = Tried("larger", 0.3, model="default"), Tried("larger", 0.4, model="large")
    assert next_of() == ("local", ())
    assert next_of(UNSURE) == ("larger", ("default",))
    assert next_of(UNSURE, second) == ("larger", ("large",))
    assert next_of(UNSURE, second, third) == ("cloud", ("lab",))


def test_it_stops_at_the_first_that_is_sure() -> None:
    assert next_of(Tried("local", 0.5)) == ("keep", ())
    assert next_of(UNSURE, Tried("larger", 0.9, model="default")) == ("keep", ())
    assert next_of(UNSURE, Tried("larger", problem="no call", model="default"))[0] == "larger"


def test_a_larger_model_that_cannot_be_asked_is_passed_over_and_said() -> None:
    absent = Larger("default", problem="the model 'default' is not here yet")
    choice = route.choose(replace(FACTS, larger=(absent, LARGE), tried=(UNSURE,)))
    assert choice.order == ("large",) and absent.problem in choice.why
    little = replace(FACTS, free_bytes=3 << 29, tried=(UNSURE, Tried("larger", 0.1, model="default")))
    choice = route.choose(little)
    assert choice.where == "cloud" and any("large takes about 2.1 GB" in why for why in choice.why)
    loaded = replace(little, larger=(DEFAULT, replace(LARGE, loaded=True)))
    assert route.choose(loaded).order == ("large",)


def test_what_may_not_leave_goes_up_on_this_machine_and_no_further() -> None:
    last = (UNSURE, Tried("larger", 0.3, model="default"), Tried("larger", 0.4, model="large"))
    for kept in (
        replace(FACTS, want="local"),
        replace(FACTS, may_not_leave="the policy keeps it"),
        replace(FACTS, consent="nobody to ask"),
        replace(FACTS, backends=()),
        replace(FACTS, backends=(replace(CLOUD, problem="over budget"),)),
    ):
        assert next_of(UNSURE, facts=kept)[0] == "larger"
        assert next_of(*last, facts=kept) == ("keep", ())


def test_what_does_not_fit_leaves_at_once_where_it_may() -> None:
    long = replace(FACTS, prompt_tokens=9000)
    assert next_of(facts=long) == ("cloud", ("lab",))
    assert next_of(facts=replace(long, may_not_leave="the policy keeps it")) == ("local", ())
    small = replace(CLOUD, fits=False)
    assert route.choose(replace(long, backends=(small,))).where == "local"


def test_a_word_of_the_person_counts_first() -> None:
    cloud = replace(FACTS, want="cloud")
    assert next_of(facts=cloud) == ("cloud", ("lab",))
    assert next_of(facts=replace(cloud, may_not_leave="kept"))[0] == "refuse"
    assert next_of(facts=replace(FACTS, backend="other"))[0] == "refuse"
