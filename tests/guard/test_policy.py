"""Policies: the shipped sets, labelled commands, tiers that only tighten, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos import paths
from llmos.errors import ConfigError
from llmos.guard.facts import Facts
from llmos.guard.policy import Policy
from llmos.guard.rulefile import Sheet
from llmos.messages import Decision, Effects, Plan, ProgramUse, ToolCall
from tests.guard import judging

RULE = """
[[rule]]
id = "mine"
decision = "deny"
why = "not on my machine"
when = 'action == Action::"execute" && context.program like "*/grep"'
match = ["grep x y"]
not_match = ["ls"]
"""


@pytest.fixture
def place(tmp_path: Path) -> judging.Place:
    return judging.make(tmp_path)


def load(folder: Path, text: str, set_name: str = "default") -> Policy:
    folder.mkdir(exist_ok=True)
    (folder / "mine.toml").write_text(text)
    return Policy.load(set_name, (paths.builtin_policy_dir(), folder))


@pytest.mark.parametrize(
    "command",
    [
        "dd if=/dev/zero of=/dev/sda", "cat /etc/shadow", "cat ~/.ssh/id_rsa", "cat .env",
        "touch /etc/x", "rm -rf /", "echo 1 > /proc/sys/vm/drop_caches", "cat /home/someone/x",
        "rm -rf /boot", "cat .hidden/secrets",
        "touch link/x", "cat $(x) /etc/shadow", "cat src/../.env", "rm -r /var/lib/llmos",
        "touch ../x", "tee /sys/x",
    ],
)  # fmt: skip
def test_what_protects_the_machine_is_denied_in_every_set(tmp_path: Path, command: str) -> None:
    for set_name in ("default", "readonly", "unattended"):
        assert judging.make(tmp_path / set_name, set_name).word(command) == "deny", set_name


def test_write_roots_are_what_was_granted_and_never_the_machine(place: judging.Place, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert place.judge(f"touch {other}/x").rule == "machine.roots"
    assert place.judge(f"touch {other}/x", other).decision is Decision.ASK
    for root in ("/", "/proc", "/sys", "/dev", "/home/someone", "/boot"):
        assert place.judge("touch /etc/x", Path(root)).decision is Decision.DENY
        assert place.gate.roots("/", (root,), str(Path.home())) == ()


@pytest.mark.parametrize(
    ("command", "word"), [("ls", "allow"), ("touch x", "deny"), ("eval x", "deny"), ("./x", "deny")]
)
def test_readonly_denies_every_change(tmp_path: Path, command: str, word: str) -> None:
    assert judging.make(tmp_path, "readonly").word(command) == word


@pytest.mark.parametrize(
    ("command", "word"), [("ls", "allow"), ("touch x", "ask"), ("eval x", "deny"), ("curl x", "deny")]
)
def test_unattended_denies_what_cannot_be_known(tmp_path: Path, command: str, word: str) -> None:
    assert judging.make(tmp_path, "unattended").word(command) == word


def test_a_later_tier_tightens(tmp_path: Path) -> None:
    later = tmp_path / "later"
    load(later, RULE)
    place = judging.make(tmp_path / "x", "default", later)
    assert place.judge("grep a notes.txt").rule == "mine"
    assert place.judge("grep a notes.txt").reason.startswith("not on my machine (")
    assert place.word("ls") == "allow"


def test_a_later_tier_cannot_loosen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only make things stricter"):
        load(tmp_path / "later", RULE.replace('"deny"', '"allow"'))


def test_an_ask_of_a_later_tier_does_not_answer_for_what_no_shipped_rule_speaks_of(tmp_path: Path) -> None:
    asks = RULE.replace('"deny"', '"ask"')
    place = judging.make(tmp_path / "x", "readonly", load_dir(tmp_path / "later", asks))
    assert place.word("grep a notes.txt") == "ask"
    assert place.word("rm notes.txt") == "deny"


def load_dir(folder: Path, text: str) -> Path:
    load(folder, text)
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('decision = "deny"\n', ""), "rule.0.decision"),
        (('"deny"', '"maybe"'), "rule.0.decision"),
        (("why =", "wy ="), "rule.0"),
        (("context.program", "context.porgram"), "when"),
        (("context.program like", "context.program likes"), "when"),
        (('match = ["grep x y"]', 'match = ["ls"]'), "is not matched"),
        (('not_match = ["ls"]', 'not_match = ["grep a b"]'), "is matched"),
        (('match = ["grep x y"]\n', ""), "match"),
        (('id = "mine"', 'id = "look"'), "also stands in"),
        (("[[rule]]", "[[rule"), "mine.toml:"),
        (("[[rule]]", 'extends = "default"\n[[rule]]'), "extend"),
    ],
)
def test_a_wrong_file_is_named_with_line_and_key(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "later", RULE.replace(*change, 1))
    assert says in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert caught.value.next_step


def test_a_condition_cannot_break_out_of_its_rule(tmp_path: Path) -> None:
    escape = RULE.replace(
        "when = 'action", "when = 'true }; permit(principal, action, resource) when { action"
    )
    with pytest.raises(ConfigError):
        load(tmp_path / "later", escape)


def test_what_no_rule_speaks_of_is_asked(place: judging.Place) -> None:
    plan = Plan(call=ToolCall(tool="x"), command="x", effects=Effects(), steps=(), read_only=False)
    facts = Facts(1000, "/home/x", "/home/x")
    bare = Policy(sheet=Sheet(), engine=place.gate.policy.engine)
    verdict = bare.judge(plan, facts)
    assert (verdict.decision, verdict.rule) == (Decision.ASK, "unmatched")


def test_an_unknown_set_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no policy set"):
        Policy.load("lax", (paths.builtin_policy_dir(),))


def test_other_peoples_processes_are_denied_and_own_ones_asked(place: judging.Place) -> None:
    def verdict(pid: int) -> Decision:
        effects = Effects(signals=(pid,))
        plan = Plan(
            call=ToolCall(tool="process.stop"), command="kill", effects=effects, steps=(), read_only=False
        )
        return place.gate.judge(plan, judging.CALLER, cwd=str(place.folder)).decision

    assert verdict(1) is Decision.DENY
    assert verdict(2**22 + 1) is Decision.ASK


def test_a_rule_may_speak_of_options_and_subcommands(tmp_path: Path) -> None:
    rule = RULE.replace(
        '\'action == Action::"execute" && context.program like "*/grep"\'',
        '\'context.subcommand == "push" && context.options.containsAny(["-f", "--force"])\'',
    ).replace(
        '["grep x y"]', '[{ uses = [{ program = "/usr/bin/git", subcommand = "push", options = ["-f"] }] }]'
    )
    policy = load(tmp_path / "later", rule)
    use = ProgramUse(program="/usr/bin/git", subcommand="push", options=("--all", "--force"))
    effects = Effects(programs=(use.program,), uses=(use,))
    plan = Plan(call=ToolCall(tool="x"), command="x", effects=effects, steps=(), read_only=False)
    assert policy.judge(plan, Facts(1000, "/home/x", "/home/x")).rule == "mine"
