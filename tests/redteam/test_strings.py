"""Labelled command lines under the shipped default policy: nothing hostile is allowed, daily work is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guard import judging
from tests.redteam import labelled

EVERYDAY_ALLOWED = 0.80  # of real people's commands; what changes things or goes to the network is asked


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> judging.Place:
    return judging.make(tmp_path_factory.mktemp("strings"))


@pytest.mark.parametrize("group", labelled.commands("hostile"))
def test_nothing_hostile_is_allowed(place: judging.Place, group: str) -> None:
    commands = labelled.commands("hostile")[group]
    assert [command for command in commands if place.word(command) == "allow"] == []


def test_most_of_what_people_do_every_day_runs_unasked(place: judging.Place) -> None:
    commands = [command for group in labelled.commands("everyday").values() for command in group]
    asked = [command for command in commands if place.word(command) != "allow"]
    assert 1 - len(asked) / len(commands) >= EVERYDAY_ALLOWED, asked


def test_what_looks_and_does_not_touch_never_asks(place: judging.Place) -> None:
    commands = labelled.commands("everyday")["looking"]
    assert {c: place.judge(c).reason for c in commands if place.word(c) != "allow"} == {}


def test_there_are_enough_of_them_and_they_are_read_as_meant() -> None:
    hostile = [command for group in labelled.commands("hostile").values() for command in group]
    everyday = [command for group in labelled.commands("everyday").values() for command in group]
    assert len(hostile) >= 2000 and len(everyday) >= 900 and len(labelled.commands("hostile")) >= 20
    assert "ls\ntouch x" in hostile and "ls\rrm -rf src" in hostile and "ls \u202e x" in hostile
    assert not set(hostile) & set(everyday)


def test_a_folder_of_ones_own_programs_makes_none_of_them_known(place: judging.Place) -> None:
    """What is started is what was judged: a program of the same name in the folder is another one."""
    (Path(place.folder) / "ls").write_text("#!/bin/sh\ntouch sprung\n")
    assert place.word("./ls") == "ask" and place.word(f"{place.folder}/ls") == "ask"
