"""Standing goals: the controller by its properties, the loop and the daemon by what processes really get."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.errors import UsageError
from llmos.messages import Caller, Change, JsonObject, ToolCall
from llmos.toolbox import control, goals, groups
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context
from llmos.toolbox.control import Reading, State
from llmos.toolbox.goalloop import GoalLoop
from llmos.toolbox.goals import Goal
from tests.bench import goals as bench

ME = Caller(uid=os.geteuid(), gid=os.getegid())
grouped = pytest.mark.skipif("cpu" not in groups.trees(), reason="no control groups")
shares = st.floats(0, 1)
readings = st.builds(Reading, shares, st.booleans(), st.booleans(), shares, shares)
HOT = Reading(0.5, protected_active=True, others_active=True)
CALM = Reading(0.0, protected_active=True, others_active=True)
IDLE = Reading(0.0, protected_active=False, others_active=True)


def after(state: State, reading: Reading, ticks: int) -> State:
    for _ in range(ticks):
        state = control.step(state, reading)
    return state


# --- the controller ------------------------------------------------------------------------------------


@given(st.lists(readings, max_size=200))
def test_nobody_starves_and_steps_are_bounded_whatever_is_read(seen: list[Reading]) -> None:
    state = State()
    for reading in seen:
        before, state = state, control.step(state, reading)
        assert control.FLOOR <= state.share <= 1.0
        assert control.LAST <= state.weight <= control.USUAL
        assert state.share >= before.share * control.DOWN - 1e-9
        assert state == State(idle=state.idle) or state.share <= before.share + control.UP + 1e-9


@given(st.lists(readings, max_size=60))
def test_from_anywhere_it_comes_back_when_all_is_calm_and_when_idle(seen: list[Reading]) -> None:
    state = State()
    for reading in seen:
        state = control.step(state, reading)
    calm = after(state, CALM, 100)
    assert (calm.share, calm.behind) == (1.0, True)
    idle = after(state, IDLE, control.IDLE_TICKS)
    assert not idle.restrains
    assert after(idle, IDLE, 50) == idle


def test_coming_last_is_the_first_step_and_the_share_goes_down_only_then() -> None:
    first = control.step(State(), HOT)
    assert (first.behind, first.share) == (True, 1.0)
    assert after(first, HOT, control.HOT_TICKS).share == pytest.approx(control.DOWN)
    assert after(first, HOT, 100).share == control.FLOOR


def test_between_the_bounds_nothing_changes() -> None:
    held = after(State(), HOT, 8)
    between = Reading(0.1, protected_active=True, others_active=True)
    assert after(held, between, 100).share == held.share


def test_who_gets_next_to_nothing_because_of_third_programs_is_not_starved() -> None:
    nothing = Reading(0.5, protected_active=True, others_active=True, protected_use=0.1, others_use=0.01)
    found = after(after(State(), HOT, 100), nothing, 100)
    assert (found.weight, found.share) == (control.HIGHEST, 1.0)


def test_who_uses_little_is_not_held_back_for_what_others_do() -> None:
    little = Reading(0.5, protected_active=True, others_active=True, protected_use=0.2, others_use=0.3)
    assert after(State(), little, 100).share == 1.0


# --- setting them --------------------------------------------------------------------------------------


@pytest.fixture
def change(tools: Catalog, isolated_home: Path) -> Callable[..., Change]:
    here = Context(cwd="/", home=str(isolated_home), uid=ME.uid)

    def plan(tool: str, **args: str) -> Change:
        (step,) = tools.plan(ToolCall(tool=tool, args=args), here).steps
        assert isinstance(step, Change)
        return step

    return plan


def carried(step: Change) -> Change:
    """Carry it out; returns the way back."""
    (back,) = goals.CHANGERS[step.changer](step.args, ME).reverse
    assert isinstance(back, Change)
    return back


def test_a_goal_is_kept_listed_removed_and_had_again(change: Callable[..., Change]) -> None:
    back = carried(change("goal.add", protect="api", against="build"))
    (goal,) = goals.shelf().all().values()
    assert (goal.uid, goal.protect, goal.against) == (ME.uid, "api", "build")
    assert goal.id in goals.listed({"uid": ME.uid})
    again = carried(back)
    assert goals.shelf().all() == {}
    carried(again)
    assert goals.shelf().all() == {goal.id: goal}
    carried(change("goal.remove", id=goal.id))
    assert "no goal" in goals.listed({"uid": ME.uid})


def test_a_goal_of_somebody_else_is_not_there(change: Callable[..., Change]) -> None:
    carried(change("goal.add", protect="api"))
    (goal,) = goals.shelf().all().values()
    with pytest.raises(UsageError, match="no goal"):
        goals.remove({"id": goal.id}, Caller(uid=65534, gid=65534))
    assert "no goal" in goals.listed({"uid": 65534})


@pytest.mark.parametrize(("protect", "against"), [(" ", "build"), ("api", "API"), ("x" * 200, "")])
def test_goals_that_mean_nothing_are_refused(
    change: Callable[..., Change], protect: str, against: str
) -> None:
    with pytest.raises(UsageError, match=r"goal\.add"):
        change("goal.add", protect=protect, against=against)


# --- keeping them --------------------------------------------------------------------------------------


def quota_us(pid: int) -> tuple[int, int]:
    """Weight and quota of its control group."""
    tree = groups.trees()["cpu"]
    folder = tree.folder(pid, "cpu")
    if tree.version == 1:
        return int((folder / "cpu.shares").read_text()), int((folder / "cpu.cfs_quota_us").read_text())
    return int((folder / "cpu.weight").read_text()), int((folder / "cpu.max").read_text().split()[0])


@grouped
def test_the_hog_comes_last_while_both_work_and_is_let_go_at_the_end() -> None:
    noted: list[JsonObject] = []
    with (
        bench.started(bench.FORK + bench.HOGS["cpu"], "4") as (hog, _),
        bench.started(bench.VICTIM, "8", "0") as (victim, _),
    ):
        goal = Goal(id="g1", uid=ME.uid, gid=ME.gid, protect=str(victim), against=str(hog), created=0.0)
        loop = GoalLoop(goal, lambda goal_id, facts: noted.append(facts))
        time.sleep(0.3)
        before = quota_us(hog)
        for _ in range(4):
            loop.tick()
            time.sleep(0.4)
        standing = goals.STANDING["g1"]
        assert (standing.protected, standing.yielding, standing.trouble) == ((victim,), (hog,), "")
        assert quota_us(hog)[0] < before[0]
        assert quota_us(psutil.Process(hog).children()[0].pid) == quota_us(hog)
        assert quota_us(victim) == before
        used = bench.cpu_s(hog)
        deadline = time.monotonic() + 10
        while bench.cpu_s(hog) == used:
            assert time.monotonic() < deadline, "it starves"
            time.sleep(0.2)
        loop.give_back()
        assert quota_us(hog) == before
        assert "g1" not in goals.STANDING
    assert (noted[0]["action"], noted[-1]["action"]) == ("limit", "release")
