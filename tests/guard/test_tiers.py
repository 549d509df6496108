"""Tiers: what a later file, a session's rules or a reload may do, and whose files are read at all."""

from __future__ import annotations

import datetime
import os
import pwd
import subprocess
from pathlib import Path

import psutil
import pytest

from llmos import config, paths
from llmos.config import Settings
from llmos.errors import ConfigError, Denied
from llmos.guard import hiding, rulefile
from llmos.guard.audit import Audit
from llmos.guard.facts import Facts
from llmos.guard.gate import Gate
from llmos.guard.policy import Policy
from llmos.guard.rulefile import Tier
from llmos.guard.tiers import MAX_SESSION_CHARS, Tiers
from llmos.messages import Caller, Decision, Effects, Plan, ToolCall
from tests.guard import judging

RULE = """
[[rule]]
id = "no-grep"
decision = "deny"
why = "no searching, please"
when = 'action == Action::"execute" && context.program like "*/grep"'
match = ["grep x y"]
"""
BUILTIN = paths.builtin_policy_dir()


def folder(tmp_path: Path, name: str, text: str) -> Path:
    made = tmp_path / name
    made.mkdir(exist_ok=True)
    (made / "rules.toml").write_text(text)
    return made


@pytest.fixture
def place(tmp_path: Path) -> judging.Place:
    return judging.make(tmp_path)


# --- whose files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_could_write_is_refused(tmp_path: Path, mode: int) -> None:
    made = folder(tmp_path, "system", RULE)
    (made / "rules.toml").chmod(mode)
    with pytest.raises(ConfigError, match="others can write it") as caught:
        Policy.load("default", (BUILTIN, made))
    assert "chmod go-w" in caught.value.next_step


def test_a_folder_that_others_could_write_is_refused(tmp_path: Path) -> None:
    made = folder(tmp_path, "system", RULE)
    made.chmod(0o777)
    with pytest.raises(ConfigError, match="others can write it"):
        Policy.load("default", (BUILTIN, made))


@pytest.mark.root
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    made = folder(tmp_path, "system", RULE)
    os.chown(made / "rules.toml", 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        Policy.load("default", (BUILTIN, made))


def test_what_is_no_file_holds_nobody_up(tmp_path: Path) -> None:
    made = folder(tmp_path, "user", RULE)
    os.mkfifo(made / "a.toml", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        Policy.load("default", (BUILTIN, made))


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    made = folder(tmp_path, "user", "#" * rulefile.MAX_BYTES + "\n" + RULE)
    with pytest.raises(ConfigError, match="longer than"):
        Policy.load("default", (BUILTIN, made))


COSTLY = {
    "nested": "a = " + "[" * 2000,
    "dotted": "a" + ".a" * 5000 + " = 1",
    "rules": RULE * 33,
    "examples": RULE.replace('["grep x y"]', "[" + '"grep x y",\n' * 200 + "]"),
    "brackets": RULE.replace("'action ==", "'" + "(" * 900 + "true" + ")" * 900 + " && action =="),
    "operators": RULE.replace("'action ==", "'" + "1+" * 900 + "1 > 0 && action =="),
}


def test_rules_that_would_hold_everybody_up_are_refused(place: judging.Place) -> None:
    """Measured: minutes of work, or Cedar's parser out of its stack, which ends the process."""
    plan = place.plan("ls")
    for text in COSTLY.values():
        with pytest.raises(ConfigError):
            place.gate.judge(plan, judging.CALLER, cwd=str(place.folder), rules=text)


def test_grants_are_the_systems_alone(tmp_path: Path) -> None:
    grants = '[grants]\nwrite = ["/srv/www"]\nnetwork = ["deb.example.org:443"]\nprocesses = ["nobody"]\n'
    system, user = folder(tmp_path, "system", grants), folder(tmp_path, "user", "")
    sheet = Policy.load("default", (BUILTIN, system, user)).sheet
    assert (sheet.write, sheet.network) == (("/srv/www",), ("deb.example.org:443",))
    assert sheet.processes == ("nobody",)
    (user / "rules.toml").write_text(grants)
    with pytest.raises(ConfigError, match="only the system's policy grants"):
        Policy.load("default", (BUILTIN, system, user))


@pytest.mark.parametrize(
    "text",
    [
        'write = ["/"]',
        'write = ["srv"]',
        'write = ["/srv/../etc"]',
        'network = ["*"]',
        'network = ["a b"]',
        'processes = ["a b"]',
    ],
)
def test_a_grant_names_one_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="grants"):
        Policy.load("default", (BUILTIN, folder(tmp_path, "system", f"[grants]\n{text}\n")))


def test_a_user_cannot_leave_the_set_that_the_system_has_chosen(tmp_path: Path) -> None:
    system, user = tmp_path / "system.toml", tmp_path / "user.toml"
    system.write_text('policy = "readonly"\n')
    user.write_text('policy = "default"\n')
    with pytest.raises(ConfigError, match="has chosen 'readonly'"):
        config.load((system, user))
    system.write_text("")
    user.write_text('policy = "readonly"\n')
    assert config.load((system, user)).policy == "readonly"


# --- grants and hidden places at work -------------------------------------------------------------------


def gate(tmp_path: Path, text: str, now: datetime.datetime | None = None) -> Gate:
    policy = Policy.load("default", (BUILTIN, folder(tmp_path, "system", text)))
    clock = datetime.datetime.now if now is None else lambda: now
    return Gate(policy, Audit(tmp_path / "audit.jsonl"), Settings(), clock=clock)


def test_a_granted_root_may_be_written(tmp_path: Path, place: judging.Place) -> None:
    www = tmp_path / "www"
    www.mkdir()
    granting = gate(tmp_path, f'[grants]\nwrite = ["{www}"]\n')
    assert place.word(f"touch {www}/x") == "deny"
    plan = place.plan(f"touch {www}/x")
    assert granting.judge(plan, judging.CALLER, cwd=str(place.folder)).decision is Decision.ASK
    granted = granting.permit(
        plan, granting.judge(plan, judging.CALLER, cwd=str(place.folder)), caller=judging.CALLER,
        request_id="r", cwd=str(place.folder), approved=True,
    )  # fmt: skip
    assert str(www) in granted.write_roots


@pytest.mark.root
def test_root_reaches_processes_of_granted_users_and_never_init_or_the_kernel(tmp_path: Path) -> None:
    nap = subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[])
    policy = gate(tmp_path, "").policy

    def word(pid: int, granted: str, uid: int = 0) -> str:
        effects = Effects(signals=(pid,), resources=(f"pid:{pid}",))
        plan = Plan(call=ToolCall(tool="x"), command="x", effects=effects, steps=(), read_only=False)
        return policy.judge(plan, Facts(uid, "/root", "/root", processes=frozenset({granted}))).decision.word

    try:
        assert word(nap.pid, "") == "deny"
        assert word(nap.pid, pwd.getpwuid(65534).pw_name) == "ask"
        assert word(nap.pid, "*") == "ask"
        assert word(nap.pid, "*", uid=1000) == "deny"  # it is granted to root alone
        kernel = next(p.pid for p in psutil.process_iter() if p.ppid() == 2)
        assert {word(pid, "*") for pid in (1, 2, kernel)} == {"deny"}
    finally:
        nap.kill()
        nap.wait()


def test_a_granted_host_is_reached_unasked_and_nothing_else_is(tmp_path: Path) -> None:
    policy = gate(tmp_path, '[grants]\nnetwork = ["deb.example.org"]\n').policy
    hosts = frozenset(policy.sheet.network)
    facts = Facts(1000, "/home/p", "/home/p/w", ("/home/p/w",), hosts=hosts)

    def word(**effects: tuple[str, ...] | str) -> str:
        found = Effects.model_validate(effects)
        plan = Plan(call=ToolCall(tool="x"), command="x", effects=found, steps=(), read_only=False)
        return policy.judge(plan, facts).decision.word

    assert word(network=("deb.example.org",)) == "allow"
    assert word(network=("deb.example.org:443",)) == "allow"
    assert word(network=("x.deb.example.org:443",)) == "ask"
    assert word(network=("deb.example.org", "evil.example.org")) == "ask"
    assert word(network=("deb.example.org",), writes=("/home/p/w/x",)) == "ask"
    assert word(network=("deb.example.org",), opaque="it is not known") == "ask"
    assert word(network=("*",)) == "ask"


def test_hidden_places_are_secrets_and_are_masked(tmp_path: Path, place: judging.Place) -> None:
    (place.folder / "deep").mkdir()
    (place.folder / "deep/keys.kdbx").write_text("k")
    (place.folder / "salaries").mkdir()
    (place.folder / "salaries/2024").write_text("s")
    hiding_gate = gate(tmp_path, f'hide = ["**/*.kdbx", "{place.folder}/salaries"]\n')

    def rule(command: str) -> str:
        return hiding_gate.judge(place.plan(command), judging.CALLER, cwd=str(place.folder)).rule

    assert rule("cat deep/keys.kdbx") == rule("cat salaries/2024") == rule("ls salaries") == "machine.secrets"
    assert rule("cat notes.txt") == "look"
    plan = place.plan("ls")
    granted = hiding_gate.permit(
        plan, hiding_gate.judge(plan, judging.CALLER, cwd=str(place.folder)), caller=judging.CALLER,
        request_id="r", cwd=str(place.folder), approved=False,
    )  # fmt: skip
    assert {f"{place.folder}/deep/keys.kdbx", f"{place.folder}/salaries"} <= set(granted.hidden)


@pytest.mark.parametrize(
    ("pattern", "path", "hidden"),
    [
        ("/srv/private", "/srv/private/deep/x", True),
        ("/srv/private", "/srv/private2", False),
        ("~/tax", "/home/p/tax/2024", True),
        ("**/*.kdbx", "/any/where/x.kdbx", True),
        ("**/*.kdbx", "/x.kdbx/inner", True),
        ("**/*.kdbx", "/x.kdbx2", False),
        ("/srv/*/keys", "/srv/a/keys", True),
        ("/srv/*/keys", "/srv/a/b/keys", False),
        ("/srv/**/keys", "/srv/a/b/keys", True),
        ("/srv/a.b?", "/srv/aXbc", False),
    ],
)
def test_patterns_match_as_they_read(pattern: str, path: str, hidden: bool) -> None:
    assert any(one.match(path) for one in hiding.compiled((pattern,), "/home/p")) is hidden


@pytest.mark.parametrize(
    "pattern", ["private", "*.kdbx", "/", "**/", "~/", "/a/../b", "**/**", "**/a/**/b/**/c", "/*a*a*b"]
)
def test_a_pattern_that_is_no_place_is_an_error(pattern: str) -> None:
    with pytest.raises(ConfigError, match="hide"):
        rulefile.of_text(f'hide = ["{pattern}"]', "x.toml", Tier.USER)


# --- caller and time ------------------------------------------------------------------------------------

NIGHT = """
[[rule]]
id = "not-at-night"
decision = "deny"
why = "nothing is changed at night"
when = 'action == Action::"run" && !context.read_only && (context.hour >= 22 || context.hour < 6)'
match = [{ command = "touch x", hour = 23 }]
not_match = [{ command = "touch x", hour = 12 }, { command = "ls", hour = 23 }]
"""


@pytest.mark.parametrize(("hour", "word"), [(23, "deny"), (3, "deny"), (12, "ask")])
def test_a_rule_may_look_at_the_clock(tmp_path: Path, place: judging.Place, hour: int, word: str) -> None:
    timed = gate(tmp_path, NIGHT, datetime.datetime(2024, 1, 1, hour))
    found = timed.judge(place.plan("touch x"), judging.CALLER, cwd=str(place.folder))
    assert found.decision.word == word


def test_a_rule_may_look_at_the_caller_and_the_session(tmp_path: Path, place: judging.Place) -> None:
    text = RULE.replace(
        'action == Action::"execute" && context.program like "*/grep"',
        'context.groups.contains("root") && context.session == "s1"',
    ).replace('["grep x y"]', '[{ groups = ["root"], session = "s1" }]')
    own = gate(tmp_path, text)
    if os.getgid() == 0:
        cwd = str(place.folder)
        assert own.judge(place.plan("ls"), judging.CALLER, cwd=cwd, session="s1").rule == "no-grep"
        assert own.judge(place.plan("ls"), judging.CALLER, cwd=cwd, session="s2").rule == "look"
    assert "no-grep" in {rule.id for rule in own.policy.rules}


# --- the session's rules --------------------------------------------------------------------------------


def test_rules_that_come_with_a_request_tighten_it_alone(place: judging.Place) -> None:
    cwd = str(place.folder)
    plan = place.plan("grep a notes.txt")
    assert place.gate.judge(plan, judging.CALLER, cwd=cwd, rules=RULE).rule == "no-grep"
    assert place.gate.judge(plan, judging.CALLER, cwd=cwd).rule == "look"
    with pytest.raises(Denied):
        place.gate.permit(
            plan, place.gate.judge(plan, judging.CALLER, cwd=cwd), caller=judging.CALLER, request_id="r",
            cwd=cwd, approved=True, rules=RULE,
        )  # fmt: skip


@pytest.mark.root
def test_examples_of_a_request_do_not_tell_what_the_caller_cannot_see(place: judging.Place) -> None:
    """A pattern in an example is expanded, and whether its rule matches then says what there is."""
    (place.folder / "closed").mkdir(mode=0o700)
    (place.folder / "closed/name-of-root").touch()
    rules = RULE.replace("no-grep", "guess").replace("execute", "read").replace(
        'context.program like "*/grep"', 'context.path like "*/name-of-root"'
    ).replace("grep x y", f"cat {place.folder}/closed/na*")  # fmt: skip
    place.gate.judge(place.plan("ls"), judging.CALLER, cwd=str(place.folder), rules=rules)
    somebody = Caller(uid=12345, gid=12345)
    with pytest.raises(ConfigError, match="not matched"):
        place.gate.judge(
            place.plan("ls"), somebody, cwd=str(place.folder), rules=f"{rules}# asked by another"
        )


GOES_ON = (
    '}; @id("look") forbid (principal, action, resource) when { context.path != "/etc/x"',
    '}; @id("look") permit (principal, action, resource) when { true',
    '} unless { context.path == "/x"',
    "}; //",
)


def test_a_condition_is_one_condition(place: judging.Place) -> None:
    """Cedar would read what follows as policies of their own, with any id: a denial could be put aside."""
    plan = place.plan("cat .env")
    for more in GOES_ON:
        rules = f'''
[[rule]]
id = "goes-on"
decision = "deny"
why = "it looks harmless"
when = """context.path == "/etc/x" {more} """
match = [{{ reads = ["/etc/x"] }}]
'''
        with pytest.raises(ConfigError, match=r"not one condition|unexpected token"):
            place.gate.judge(plan, judging.CALLER, cwd=str(place.folder), rules=rules)


def test_a_rule_that_cannot_be_evaluated_lifts_no_denial(place: judging.Place) -> None:
    """Cedar's integers overflow at run time, which its type check does not see."""
    rules = """
[[rule]]
id = "overflow"
decision = "ask"
why = "it fails for two files"
when = 'action == Action::"read" && context.reads * 9223372036854775807 > 0'
match = [{ reads = ["/etc/x"] }]
"""
    for command in ("cat .env notes.txt", "cat notes.txt data.csv"):
        verdict = place.gate.judge(place.plan(command), judging.CALLER, cwd=str(place.folder), rules=rules)
        assert verdict.decision is Decision.DENY, command


@pytest.mark.parametrize("set_name", ["readonly", "unattended"])
def test_a_shipped_set_may_be_laid_over_a_request(place: judging.Place, set_name: str) -> None:
    tiers = Tiers(place.gate.policy)
    rules = {rule.id: rule for rule in tiers.of(judging.CALLER, "/x", set_name).rules}
    assert rules[f"{set_name}.start" if set_name == "unattended" else "readonly.change"].tier is Tier.SESSION
    strict = Tiers(Policy.load(set_name, (BUILTIN,)))
    assert strict.of(judging.CALLER, "/x", set_name).rules == strict.own.rules


@pytest.mark.parametrize(
    "text",
    [
        RULE.replace("deny", "allow"), "default", "nonsense", '[grants]\nwrite = ["/srv"]',
        RULE.replace("no-grep", "look"),
        'extends = "default"', "#" * (MAX_SESSION_CHARS + 1),
    ],
)  # fmt: skip
def test_rules_of_a_request_that_are_none_are_an_error(place: judging.Place, text: str) -> None:
    with pytest.raises(ConfigError):
        place.gate.judge(place.plan("ls"), judging.CALLER, cwd=str(place.folder), rules=text)


# --- reload during a request ----------------------------------------------------------------------------


def test_a_reload_during_a_request_only_tightens_it(tmp_path: Path, place: judging.Place) -> None:
    cwd = str(place.folder)
    strict = Gate(
        Policy.load("default", (BUILTIN, folder(tmp_path, "s", RULE))), place.gate.audit, Settings()
    )
    plan = place.plan("grep a notes.txt")

    def permit(held: Gate, newer: Gate | None) -> None:
        held.newer = newer
        shown = held.judge(plan, judging.CALLER, cwd=cwd)
        held.permit(plan, shown, caller=judging.CALLER, request_id="r", cwd=cwd, approved=True)

    permit(place.gate, None)
    with pytest.raises(Denied):
        permit(place.gate, strict)  # the new rules hold at once
    with pytest.raises(Denied):
        permit(strict, Gate(place.gate.policy, place.gate.audit, Settings()))  # and the old ones still
