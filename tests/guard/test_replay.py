"""Replay: the journal's decisions judged again, under the same policy and under a changed one."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from llmos import paths
from llmos.guard.policy import Policy
from llmos.guard.replay import replay
from llmos.messages import Plan, Start, ToolCall
from tests.guard import judging

COMMANDS = (
    "ls",
    "touch x",
    "rm notes.txt",
    "cat /etc/shadow",
    "cat $(x)",
    "curl example.org",
    "grep a notes.txt",
)


@pytest.fixture
def place(tmp_path: Path) -> judging.Place:
    found = judging.make(tmp_path)
    for command in COMMANDS:
        plan = found.plan(command)
        verdict = found.judge(command)
        found.gate.refused(plan, verdict, caller=judging.CALLER, request_id="r", cwd=str(found.folder))
    return found


def test_the_same_policy_decides_the_same(place: judging.Place) -> None:
    changes = list(replay(place.gate.audit.lines(), place.gate.policy))
    assert [change.command for change in changes] == [place.plan(command).command for command in COMMANDS]
    assert [change for change in changes if change.differs or change.before_rule != change.after_rule] == []


def test_a_changed_policy_shows_what_would_differ(place: judging.Place) -> None:
    readonly = Policy.load("readonly", (paths.builtin_policy_dir(),))
    changed = {
        c.command: (c.before, c.after) for c in replay(place.gate.audit.lines(), readonly) if c.differs
    }
    assert changed == {
        command: ("ask", "deny")
        for command in COMMANDS
        if command not in ("ls", "grep a notes.txt", "cat /etc/shadow")
    }


def test_old_lines_are_left_out_and_foreign_ones_do_no_harm(place: judging.Place) -> None:
    lines = list(place.gate.audit.lines())
    assert list(replay(lines, place.gate.policy, since=lines[-1]["time"] + 1)) == []
    odd = [{"kind": "decided"}, {"kind": "decided", "time": 1.0, "given": {}}, {"kind": "note"}, lines[-1]]
    assert len(list(replay(odd, place.gate.policy))) == 1


def test_a_decision_is_judged_in_its_circumstances(place: judging.Place, tmp_path: Path) -> None:
    call = ToolCall(tool="process.start")
    plan = Plan(
        call=call,
        command="serve",
        effects=place.plan("ls").effects,
        steps=(Start(argv=("ls",), name="x"),),
        read_only=False,
    )
    place.gate.clock = lambda: datetime.datetime(2024, 1, 6, 3)  # a Saturday night
    verdict = place.gate.judge(plan, judging.CALLER, cwd=str(place.folder))
    place.gate.refused(
        plan, verdict, caller=judging.CALLER, request_id="s", cwd=str(place.folder), unattended=True,
        session="nightly", write_roots=("/srv",),
    )  # fmt: skip
    (tmp_path / "later").mkdir()
    (tmp_path / "later/x.toml").write_text(
        '''
        [[rule]]
        id = "nightly"
        decision = "deny"
        why = "not in that session"
        when = """
        context.session == "nightly" && context.unattended
        && context.hour == 3 && context.weekday == "saturday"
        """
        match = [{ session = "nightly", unattended = true, hour = 3, weekday = "saturday" }]
        '''
    )
    policy = Policy.load("default", (paths.builtin_policy_dir(), tmp_path / "later"))
    (last,) = list(replay(place.gate.audit.lines(), policy))[-1:]
    assert (last.before, last.after_rule) == (verdict.decision.word, "nightly")


def test_a_remembered_answer_is_compared_as_the_question_it_was(place: judging.Place) -> None:
    place.gate.remember(place.plan("touch y"), judging.CALLER, cwd=str(place.folder))
    verdict = place.judge("touch y")
    place.gate.refused(
        place.plan("touch y"), verdict, caller=judging.CALLER, request_id="r", cwd=str(place.folder)
    )
    (last,) = list(replay(place.gate.audit.lines(), place.gate.policy))[-1:]
    assert (verdict.decision.word, last.before, last.differs) == ("allow", "ask", False)
