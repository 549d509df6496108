"""A seeded slice of the differential fuzz against bash; `python -m tests.bench.fuzz_shell` runs the whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bench import fuzz_shell
from tests.bench.fuzz_shell import Executed

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash. Run: apt install bash")


def test_bash_executes_what_was_judged() -> None:
    tally = fuzz_shell.compare(2000, seed=20)
    assert tally.differences == []
    assert tally.understood > 300 and tally.commands > 300


def test_the_fuzzer_would_see_a_difference(tmp_path: Path) -> None:
    """The trace tells words, streams and the locale apart, so that no difference goes unseen."""
    (tmp_path / "in").mkdir()
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if "pytest-" in parent.name or "popen-" in parent.name:  # pytest's own, closed to others
            parent.chmod(0o755)
    folder = fuzz_shell.make_folder(tmp_path / "in")
    lines = ["a 'b c' | n >f", "LC_ALL=C a 2>&1 >g <f || b; n && c", "a [fg] > none", "a=~ b; eval 'a ~'"]
    found = fuzz_shell.bash(lines, folder, tmp_path)
    assert sorted(found[0], key=lambda one: one.argv) == [
        Executed("-,p,-", "unset", ("a", "b c")), Executed("p,f,-", "unset", ("n",))
    ]  # fmt: skip
    assert found[1] == [Executed("f,g,-", "C", ("a",)), Executed("-,-,-", "unset", ("n",))]
    assert found[2] == []
    assert found[3][1].argv == ("a", str(folder / "d"))
    assert fuzz_shell.expected(lines[2], folder) == [] and fuzz_shell.expected(lines[3], folder) is None
