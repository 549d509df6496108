"""Every probe of probes/*.toml, live, for each kind of caller; none may do any harm.

The workers run the whole set at once (apart.py) and these tests read off what became of each. That a probe
can do harm at all is shown by the same payload without a sandbox.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from tests.redteam import apart
from tests.redteam.probe import WHO, load
from tests.redteam.worker import Tried

pytestmark = pytest.mark.sandbox

PROBES = load()
FEWEST_PROBES, FEWEST_THAT_BITE = 250, 150
AS_ROOT = pytest.mark.root
EVERY = 6  # of how many probes one also goes the long way: command line, daemon, policy, journal


@cache
def _results(who: str, runner: str, every: int = 1) -> dict[str, Tried]:
    return {tried.id: tried for tried in apart.run(who, [runner], every=every)}


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
    tried = _results(who, "llmos")[probe_id]
    assert not tried.harms, tried.said
    assert "no sandbox" not in tried.said


@AS_ROOT
@pytest.mark.parametrize("who", ["root", "plain"])
def test_none_gets_out_through_the_command_line(who: str) -> None:
    results = _results(who, "cli", EVERY)
    assert len(results) >= 30
    assert not {tried.id: tried.harms for tried in results.values() if tried.harms}


@AS_ROOT
def test_probes_do_harm_where_there_is_no_sandbox() -> None:
    """A probe that cannot bite proves nothing, so only those that do are counted."""
    bit = {tried.id for who in ("root", "plain") for tried in _results(who, "none").values() if tried.harms}
    assert len(bit) >= FEWEST_THAT_BITE
    groups = Counter(probe.group for probe in PROBES if probe.id in bit)
    assert set(groups) == {probe.group for probe in PROBES}


def test_probes_are_many_and_each_is_itself() -> None:
    ids = [probe.id for probe in PROBES]
    assert len(set(ids)) == len(ids) >= FEWEST_PROBES
    assert all(probe.what and probe.group for probe in PROBES)
    assert len({probe.sh + probe.python for probe in PROBES}) > len(PROBES) - 3
