"""The gate: what is expanded, what is granted, what is remembered, and that nothing else mints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos.config import Settings
from llmos.errors import CallFailed, ConfigError, Denied, NeedsApproval, UsageError
from llmos.guard import following, programs
from llmos.guard.audit import Audit
from llmos.guard.gate import Gate
from llmos.guard.permit import Permit
from llmos.messages import (
    Decision,
    Effects,
    Exec,
    Outcome,
    Pipeline,
    Pipelines,
    Plan,
    Run,
    Shell,
    Signal,
    ToolCall,
    Verdict,
)
from tests.guard import judging

ALLOW = Verdict(decision=Decision.ALLOW, rule="forged", reason="forged")


@pytest.fixture
def place(tmp_path: Path) -> judging.Place:
    return judging.make(tmp_path)


def permit(
    place: judging.Place, command: str, *, approved: bool = False, verdict: Verdict | None = None
) -> Permit:
    plan = place.plan(command)
    return place.gate.permit(
        plan,
        verdict or place.judge(command),
        caller=judging.CALLER,
        request_id="r",
        cwd=str(place.folder),
        approved=approved,
    )


def test_what_runs_is_what_was_judged(place: judging.Place) -> None:
    plan = place.plan("rm *.log 'x y'")
    assert plan.command == "rm a.log b.log 'x y'"
    words = ("rm", "a.log", "b.log", "x y")
    piped = Pipeline(commands=(Exec(argv=words, program=programs.locate("rm")),))
    assert plan.steps == (Pipelines(text=plan.command, pipelines=(piped,)),)
    assert plan.effects.deletes == tuple(str(place.folder / name) for name in ("a.log", "b.log", "x y"))
    assert place.plan(plan.command) == plan.model_copy(update={"call": place.plan(plan.command).call})


def test_what_is_not_understood_stays_shell_text(place: judging.Place) -> None:
    assert place.plan("rm $x").steps == (Shell(text="rm $x"),)


def test_paths_are_followed_to_what_they_are(place: judging.Place) -> None:
    assert place.plan("cat link/passwd").effects.reads == ("/etc/passwd",)
    assert place.plan("cat link/../x").effects.reads == ("/x",)
    assert place.plan("touch link/new/deep").effects.writes == ("/etc/new/deep",)
    assert place.plan("rm link").effects.deletes == (str(place.folder / "link"),)
    assert "/etc/shadow" in place.plan("cat .hidden/secrets").effects.reads


def test_a_read_only_plan_gets_no_write_roots_and_no_network(place: judging.Place) -> None:
    granted = permit(place, "ls -la")
    assert (granted.write_roots, granted.network) == ((), False)
    assert permit(place, "touch x", approved=True).write_roots == (str(place.folder),)
    assert permit(place, "curl example.org", approved=True).network


@pytest.mark.parametrize(
    ("command", "hosts"),
    [
        ("curl https://Example.org/a?b=1", ("example.org:443",)),
        ("curl -sS -m 5 http://a.example.org:8080/x -o out", ("a.example.org:8080",)),
        ("curl -I https://a.org http://b.org | head -3", ("a.org:443", "b.org:80")),
        # What may lead elsewhere, sends something, or is not plain: any machine, and asked as such.
        *((command, ()) for command in (
            "curl example.org", "curl -L https://a.org", "curl file:///etc/passwd", "curl https://u:p@a.org/",
            "curl 'https://a.org/[1-3]'", "curl 'https://{a,b}.org'", "curl https://[::1]/", "curl -d x https://a.org",
            "curl -K x https://a.org", "curl -x http://p.org https://a.org", "curl --resolve a:1:2 https://a.org",
            "curl https://a.org --next ftp://b.org", "curl https://a.org\\@b.org", "wget https://a.org",
        )),
    ],
)  # fmt: skip
def test_a_call_of_which_every_machine_is_known_is_held_to_these(
    place: judging.Place, command: str, hosts: tuple[str, ...]
) -> None:
    granted = permit(place, command, approved=True)
    assert granted.network
    assert granted.hosts == hosts
    assert bool(granted.plan.effects.opaque) == (not hosts)
    if hosts:
        assert isinstance(granted.plan.steps[0], Pipelines)
        assert granted.plan.steps[0].pipelines[0].commands[0].argv[1] == "-q"


def test_yes_does_not_reach_a_denial_and_ask_needs_yes(place: judging.Place) -> None:
    with pytest.raises(NeedsApproval):
        permit(place, "touch x")
    with pytest.raises(Denied):
        permit(place, "cat /etc/shadow", approved=True)


def test_a_forged_or_stale_verdict_lets_nothing_through(place: judging.Place) -> None:
    with pytest.raises(Denied):
        permit(place, "cat /etc/shadow", approved=True, verdict=ALLOW)
    with pytest.raises(NeedsApproval):
        permit(place, "rm notes.txt", verdict=ALLOW)


def test_the_decision_is_written_before_the_permit_is_there(place: judging.Place) -> None:
    granted = permit(place, "ls")
    line = place.gate.audit.tail(1)[0]
    assert (line["kind"], line["verdict"], line["command"]) == ("decided", "allow", "ls")
    place.gate.finished(granted, Outcome(exit_code=0), ok=True)
    assert place.gate.audit.history(5)[0]["status"] == "done"


def test_refusals_are_written_down_too(place: judging.Place) -> None:
    with pytest.raises(Denied):
        permit(place, "cat /etc/shadow")
    assert place.gate.audit.history(5)[0]["status"] == "denied"


def test_a_journal_that_cannot_be_written_means_that_nothing_runs(place: judging.Place) -> None:
    (place.folder / "file").touch()
    journal = Audit(place.folder / "file" / "audit.jsonl")
    closed = Gate(place.gate.policy, journal, Settings(), place.gate.answers)
    plan = place.plan("ls")
    with pytest.raises(CallFailed, match="nothing is run"):
        closed.permit(
            plan, ALLOW, caller=judging.CALLER, request_id="r", cwd=str(place.folder), approved=True
        )


def test_policy_check_takes_text_and_argv(place: judging.Place) -> None:
    check = place.gate.policy_check
    cwd = str(place.folder)
    assert check("ls", cwd, judging.CALLER)["verdict"] == "allow"
    found = check(["rm", "-r", "a file"], cwd, judging.CALLER)
    assert (found["verdict"], found["effects"]["deletes"]) == ("ask", [f"{cwd}/a file"])
    assert (
        check(["ls", "$(touch x)"], cwd, judging.CALLER)["verdict"] == "allow"
    )  # a word, not a substitution
    assert not (place.folder / "x").exists()


# --- always -----------------------------------------------------------------------------------------


def remember(place: judging.Place, command: str) -> str:
    return place.gate.remember(place.plan(command), judging.CALLER, cwd=str(place.folder)).id


def test_always_answers_for_the_same_kind_of_call_alone(place: judging.Place) -> None:
    rule = remember(place, "sed -i s/a/b/ src/x.txt")
    assert place.judge("sed -i s/a/b/ src/y.txt").rule == f"remembered:{rule}"
    for other in (
        "sed -i s/a/c/ src/x.txt",
        "sed -i s/a/b/ notes.txt",
        "sed -i -E s/a/b/ src/x.txt",
        "touch src/x",
    ):
        assert place.word(other) == "ask", other


def test_never_denies_the_same_kind_of_call_until_it_is_forgotten(place: judging.Place) -> None:
    allowed = remember(place, "touch x")
    plan, cwd = place.plan("touch x"), str(place.folder)
    never = place.gate.remember(plan, judging.CALLER, cwd=cwd, never=True).id
    verdict = place.judge("touch y")
    assert (verdict.decision.word, verdict.rule) == ("deny", f"remembered:{never}")
    assert place.word("rm notes.txt") == "ask"
    place.gate.answers.forget(never)
    assert place.judge("touch y").rule == f"remembered:{allowed}"


@pytest.mark.parametrize("command", ["./build.sh --fast", "cp server.key x"])
def test_never_may_be_said_to_what_is_asked_every_time(place: judging.Place, command: str) -> None:
    place.gate.remember(place.plan(command), judging.CALLER, cwd=str(place.folder), never=True)
    assert place.word(command) == "deny" and place.word("touch x") == "ask"


def test_always_never_reaches_a_denial(place: judging.Place) -> None:
    remember(place, "touch x")
    assert place.word("touch y") == "allow"
    assert place.word("touch /etc/y") == "deny"
    assert place.word("touch .env") == "deny"


def test_always_deletes_nothing_else(place: judging.Place) -> None:
    remember(place, "rm -rf src")
    assert place.word("rm -rf src") == "allow"
    for other in ("rm -rf .", "rm -rf notes.txt", "rm -rf src notes.txt", "rm -rf .hidden"):
        assert place.word(other) == "ask", other


@pytest.mark.parametrize(
    "command",
    ["./build.sh --fast", "touch $(x)", "touch .git/hooks/pre-commit", "sort -o x.key notes.txt server.key"],
)
def test_always_is_no_answer_to_what_is_not_known_or_asked_every_time(
    place: judging.Place, command: str
) -> None:
    with pytest.raises(UsageError, match="every time"):
        remember(place, command)


def test_always_does_not_reach_what_is_asked_every_time(place: judging.Place) -> None:
    remember(place, "cp notes.txt x")
    assert place.word("cp notes.txt src/y") == "allow"
    for other in ("cp server.key x", "cp notes.txt .git/hooks/pre-commit", "cp notes.txt .git/config"):
        assert place.word(other) == "ask", other


def test_always_in_a_home_is_for_the_names_in_it_alone(tmp_path: Path, isolated_home: Path) -> None:
    place = judging.make(tmp_path / "place")
    (isolated_home / "deep").mkdir()

    def word(command: str) -> str:
        plan = place.plan(command)
        return place.gate.judge(plan, judging.CALLER, cwd=str(isolated_home)).decision.word

    place.gate.remember(place.plan(f"touch {isolated_home}/x"), judging.CALLER, cwd=str(isolated_home))
    assert (word(f"touch {isolated_home}/y"), word(f"touch {isolated_home}/deep/y")) == ("allow", "ask")


def test_answers_that_others_could_have_written_do_not_count(place: judging.Place) -> None:
    remember(place, "touch x")
    place.gate.answers.file.chmod(0o666)
    with pytest.raises(ConfigError, match="others could have written"):
        place.judge("touch y")


def test_an_answer_is_for_one_user_and_comes_to_an_end(place: judging.Place) -> None:
    remember(place, "touch x")
    file = place.gate.answers.file
    (rule,) = json.loads(file.read_text())
    for change in ({"uid": 1}, {"expires": 1.0}):
        file.write_text(json.dumps([rule | change]))
        assert place.word("touch y") == "ask"
    file.write_text(json.dumps([rule]))
    assert place.word("touch y") == "allow"


def test_an_answer_can_be_taken_back(place: judging.Place) -> None:
    rule = remember(place, "touch x")
    assert [found.id for found in place.gate.answers.rules()] == [rule]
    place.gate.answers.forget(rule)
    assert place.word("touch x") == "ask"
    with pytest.raises(UsageError):
        place.gate.answers.forget(rule)


def test_signals_are_asked_about_every_time(place: judging.Place) -> None:
    step = Signal(pid=4242, started=1.0)
    effects = Effects(signals=(4242,))
    plan = Plan(
        call=ToolCall(tool="process.stop"), command="kill", effects=effects, steps=(step,), read_only=False
    )
    with pytest.raises(UsageError):
        place.gate.remember(plan, judging.CALLER, cwd=str(place.folder))


# --- patterns that a tool hands on -------------------------------------------------------------------


def pattern_plan(place: judging.Place, pattern: str) -> Plan:
    """What file.delete makes of a pattern."""
    effects = Effects(deletes=(f"{place.folder}/{pattern}",), programs=("/usr/bin/rm",))
    call = ToolCall(tool="file.delete", args={"path": pattern})
    step = Run(argv=("rm", "--", pattern))
    plan = Plan(call=call, command=f"rm {pattern}", effects=effects, steps=(step,), read_only=False)
    return place.gate.expand(plan, cwd=str(place.folder), home=str(place.folder))


def verdict_on(place: judging.Place, plan: Plan) -> Verdict:
    return place.gate.judge(plan, judging.CALLER, cwd=str(place.folder))


def test_a_pattern_is_judged_by_what_it_matches(place: judging.Place) -> None:
    """`.*` as such is no secret's name."""
    for name in ("a.tmp", "b.tmp", ".env", "[x].tmp"):
        (place.folder / name).touch()
    plain = pattern_plan(place, "*.tmp")
    assert [Path(path).name for path in plain.effects.deletes] == ["[x].tmp", "a.tmp", "b.tmp"]
    assert verdict_on(place, plain).decision is Decision.ASK
    assert verdict_on(place, pattern_plan(place, ".*")).decision is Decision.DENY
    assert verdict_on(place, pattern_plan(place, ".e??")).decision is Decision.DENY
    nothing = pattern_plan(place, "*.none")
    assert nothing.effects.deletes == (f"{place.folder}/*.none",)


def test_always_to_a_pattern_is_for_what_it_matched(place: judging.Place) -> None:
    (place.folder / "a.tmp").touch()
    place.gate.remember(pattern_plan(place, "*.tmp"), judging.CALLER, cwd=str(place.folder))
    assert verdict_on(place, pattern_plan(place, "*.tmp")).decision is Decision.ALLOW
    (place.folder / "b.tmp").touch()
    assert verdict_on(place, pattern_plan(place, "*.tmp")).decision is Decision.ASK


def test_a_pattern_that_matches_more_than_can_be_judged_is_not_known(place: judging.Place) -> None:
    for number in range(following.MAX_MATCHES + 1):
        (place.folder / f"{number}.log").touch()
    plan = pattern_plan(place, "*.log")
    assert len(plan.effects.deletes) == following.MAX_MATCHES and "more than" in plan.effects.opaque
