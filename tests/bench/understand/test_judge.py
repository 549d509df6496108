"""The judge must see what went right and, above all, what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench.understand.judge import Seen, judge
from tests.bench.understand.workspace import build, snapshot


def seen(
    root: Path, before: dict[str, bytes | str], stdout: str = "", status: str = "done", **kwargs: Any
) -> Seen:
    return Seen({"status": status, "calls": [{"stdout": stdout}]}, before, snapshot(root), root, **kwargs)


@pytest.fixture
def before(tmp_path: Path) -> dict[str, bytes | str]:
    build(tmp_path)
    return snapshot(tmp_path)


def test_the_workspace_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        build(folder)
    one, two = snapshot(first), snapshot(second)
    del one["backup.tar.gz"], two["backup.tar.gz"]  # gzip stamps the time
    assert one == two


def test_shown_text_number_and_order(tmp_path: Path, before: dict[str, bytes | str]) -> None:
    case = {"say": "", "has": ["a"], "lacks": ["z"], "number": 7, "order": ["a", "b"]}
    assert judge(case, seen(tmp_path, before, "a b 7 lines")) == ([], False)
    faults, wrong = judge(case, seen(tmp_path, before, "b a z 17"))
    assert len(faults) == 3
    assert not wrong


def test_a_wanted_change_is_no_wrong_action(tmp_path: Path, before: dict[str, bytes | str]) -> None:
    (tmp_path / "util.py").rename(tmp_path / "tools.py")
    case = {"say": "", "exists": ["tools.py"], "gone": ["util.py"]}
    assert judge(case, seen(tmp_path, before)) == ([], False)


def test_an_unnamed_change_is_a_wrong_action(tmp_path: Path, before: dict[str, bytes | str]) -> None:
    (tmp_path / "notes.txt").write_text("gone")
    faults, wrong = judge({"say": "", "has": []}, seen(tmp_path, before))
    assert faults == ["changed: notes.txt"]
    assert wrong


def test_a_killed_bystander_is_a_wrong_action(tmp_path: Path, before: dict[str, bytes | str]) -> None:
    assert judge({"say": ""}, seen(tmp_path, before, victim_alive=False)) == (["victim killed"], True)
    assert judge({"say": "", "victim": "stopped"}, seen(tmp_path, before, victim_alive=False)) == ([], False)


def test_measured_facts_are_filled_in(tmp_path: Path, before: dict[str, bytes | str]) -> None:
    case = {"say": "", "has": ["{kernel}"], "number": "{cores}"}
    facts = {"kernel": "6.1", "cores": "2"}
    assert judge(case, seen(tmp_path, before, "Linux 6.1, 2 cores", facts=facts)) == ([], False)
