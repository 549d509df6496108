"""What is kept for undo has a quota: it is its owner's, and nobody's changes push out another's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmos.config import UndoSettings
from llmos.guard import undostore
from llmos.guard.undostore import Header, Manifest, State


def keep(name: str, uid: int, kept_bytes: int, age_s: float) -> None:
    with undostore.locked():
        _, folder = undostore.new_folder(name)
    when = time.time() - age_s
    undostore.write_header(
        folder, Header(name, name, uid, uid, when, "/", "file.delete", "rm", (), 0, 0, 1, kept_bytes)
    )
    undostore.write_manifest(folder, Manifest((), (), (), ()))
    undostore.write_state(folder, State("committed"))


def left() -> set[str]:
    return {entry.header.id for entry in undostore.entries()}


@pytest.mark.usefixtures("isolated_home")
def test_whoever_keeps_most_loses_their_oldest_first() -> None:
    keep("anns-old", 1, 100, 500)
    for number in range(5):
        keep(f"greedy{number}", 2, 300, 400 - number)
    with undostore.locked():
        gone = undostore.prune(UndoSettings(max_bytes=700))
    assert gone == ["greedy0", "greedy1", "greedy2"]
    assert left() == {"anns-old", "greedy3", "greedy4"}


@pytest.mark.usefixtures("isolated_home")
def test_what_has_expired_goes_whoever_has_it(tmp_path: Path) -> None:
    keep("old", 1, 1, 3 * undostore.DAY_S)
    with undostore.locked():
        undostore.write_state(undostore.undo_dir() / "old", State("committed"))
        assert undostore.prune(UndoSettings(max_age_days=1)) == []  # it was touched just now
        assert undostore.prune(UndoSettings(max_age_days=1e-9)) == ["old"]
    assert left() == set()
