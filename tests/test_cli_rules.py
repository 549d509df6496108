"""`llmos policy test` and `replay` read files and the journal alone, without a daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos import cli, paths
from llmos.guard.audit import Audit
from llmos.guard.gate import Gate
from tests.guard import judging

GOOD = """
[[rule]]
id = "no-rm"
decision = "deny"
why = "nothing is deleted here"
when = 'action == Action::"delete"'
match = ["rm a", "find . -delete"]
not_match = ["ls"]
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["policy", *words])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.usefixtures("isolated_home")
def test_every_failing_example_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good, bad, broken = tmp_path / "good.toml", tmp_path / "bad.toml", tmp_path / "broken.toml"
    good.write_text(GOOD)
    bad.write_text(
        GOOD.replace("no-rm", "bad").replace('"rm a"', '"ls", "pwd"').replace('["ls"]', '["rm x"]')
    )
    broken.write_text(GOOD.replace("no-rm", "broken").replace("why", "wy"))
    assert run(capsys, "test", str(good))[:2] == (0, "all is well\n")
    code, out, err = run(capsys, "test", str(good), str(bad))
    assert (code, err.count("is not matched"), err.count("is matched")) == (5, 2, 1)
    assert "3 of" in out
    code, out, _ = run(capsys, "test", "--json", str(broken), str(bad))
    found = json.loads(out)
    assert (code, found["ok"], len(found["problems"])) == (2, False, 4)
    assert all(problem["next_step"] for problem in found["problems"])


def test_without_files_what_is_in_force_is_tested(
    capsys: pytest.CaptureFixture[str], isolated_home: Path
) -> None:
    mine = isolated_home / ".config/llmos/policies/mine.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text(GOOD)
    assert run(capsys, "test")[0] == 0
    mine.write_text(GOOD.replace('"rm a"', '"rm a", "ls"'))
    code, _, err = run(capsys, "test")
    assert code == 5 and "mine.toml" in err
    mine.chmod(0o666)
    assert run(capsys, "test")[0] == 2


@pytest.mark.usefixtures("isolated_home")
def test_the_journal_is_judged_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = judging.make(tmp_path / "place")
    gate = Gate(place.gate.policy, Audit(paths.audit_file()), place.gate.settings, place.gate.answers)
    for command in ("ls", "rm notes.txt"):
        plan = place.plan(command)
        gate.refused(plan, place.judge(command), caller=judging.CALLER, request_id="r", cwd=str(place.folder))
    strict = tmp_path / "strict.toml"
    strict.write_text(GOOD)
    code, out, _ = run(capsys, "replay", "--file", str(strict))
    assert code == 0 and "ask -> deny" in out and "1 of 2 decisions" in out
    found = json.loads(run(capsys, "replay", "--json", "--set", "readonly")[1])
    assert (found["judged"], found["changes"]) == (2, {"ask -> deny": 1})
    assert found["decisions"][0]["command"] == "rm notes.txt"
    folder = tmp_path / "dir"
    folder.mkdir()
    strict.rename(folder / "strict.toml")
    assert json.loads(run(capsys, "replay", "--json", "--policy-dir", str(folder))[1])["differ"] == 1
    assert json.loads(run(capsys, "replay", "--json", "--since", "2099-01-01")[1])["judged"] == 0
    assert run(capsys, "replay", "--since", "yesterday")[0] == 2
    assert run(capsys, "replay", "--policy-dir", str(tmp_path / "none"))[0] == 2
