"""Every probe of probes/*.toml, live, for each kind of caller; none may do any harm.

The workers run the whole set at once (apart.py), many in one sandbox where that is no loss (batch.py), and
these tests read off what became of each. That a probe can do harm at all is shown by the same payload without
a sandbox: here by every fourth, by all of them in tests/bench/escapes.py.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from tests.redteam import apart
from tests.redteam.probe import WHO, load
from tests.redteam.worker import ALIVE, Tried

pytestmark = pytest.mark.sandbox

PROBES = load()
FEWEST_PROBES = 300
AS_ROOT = pytest.mark.root
LONG_WAY, CONTROLS, NAMED, IN_PYTHON = 12, 4, 3, 3  # of how many probes one goes another way, too


@cache
def _results(who: str) -> dict[str, Tried]:
    return {tried.id: tried for tried in apart.run(who, ["llmos"], batched=True)}


def _cases() -> list[object]:
    marks = {"root": [AS_ROOT], "service": [AS_ROOT], "plain": []}
    return [
        pytest.param(who, probe.id, marks=marks[who], id=f"{who}-{probe.id}")
        for who in WHO
        for probe in PROBES
        if who in probe.who
    ]


@pytest.mark.parametrize(("who", "probe_id"), _cases())
def test_no_probe_gets_out(who: str, probe_id: str) -> None:
    tried = _results(who)[probe_id]
    assert not tried.harms, tried.said
    assert "no sandbox" not in tried.said


def test_none_gets_out_where_a_machine_of_the_network_was_granted() -> None:
    who = "root" if os.geteuid() == 0 else "plain"
    results = list(apart.run(who, ["named"], every=NAMED, batched=True))
    assert "notes" in next(tried.said for tried in results if tried.id == ALIVE.id)
    assert not {tried.id: tried.harms for tried in results if tried.harms}


def test_none_gets_out_of_a_sandbox_that_python_put_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no compiler has made the program that does: the same layers by the same steps."""
    monkeypatch.setenv("LLMOS_FORKS_DIR", str(tmp_path))
    who = "root" if os.geteuid() == 0 else "plain"
    results = list(apart.run(who, ["llmos"], every=IN_PYTHON, batched=True))
    assert len(results) > len(PROBES) // (IN_PYTHON + 1)
    assert not {tried.id: tried.harms for tried in results if tried.harms}


@AS_ROOT
@pytest.mark.parametrize("who", ["root", "plain"])
def test_none_gets_out_through_the_command_line(who: str) -> None:
    """All the way: `llmos call`, the daemon, the policy, the journal."""
    results = list(apart.run(who, ["cli"], every=LONG_WAY))
    assert len(results) >= 20
    assert not {tried.id: tried.harms for tried in results if tried.harms}


@AS_ROOT
def test_probes_do_harm_where_there_is_no_sandbox() -> None:
    """A probe that cannot bite proves nothing. Some need what this machine lacks."""
    results = [tried for tried in apart.run("root", ["none"], every=CONTROLS) if tried.id != ALIVE.id]
    harmless = sorted(tried.id for tried in results if not tried.harms)
    assert len(harmless) <= len(results) // 8, harmless


def test_probes_are_many_and_each_is_itself() -> None:
    ids = [probe.id for probe in PROBES]
    assert len(set(ids)) == len(ids) >= FEWEST_PROBES
    assert all(probe.what and probe.group for probe in PROBES)
    assert len({probe.sh + probe.python for probe in PROBES}) > len(PROBES) - 3
