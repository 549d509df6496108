"""Changes in manifest and policy folders are noticed, wherever the folders come from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmos.daemon.watching import Watch


class Heard:
    """Counts calls, and waits for the next one."""

    def __init__(self) -> None:
        self.count = 0
        self._condition = threading.Condition()

    def __call__(self) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def next(self, act: Callable[[], object], timeout_s: float = 5.0) -> bool:
        """Do `act`; True when a call comes after it."""
        with self._condition:
            before = self.count
            act()
            return self._condition.wait_for(lambda: self.count > before, timeout_s)


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Heard]:
    (tmp_path / "there").mkdir()
    listener = Heard()
    watch = Watch([tmp_path / "there", tmp_path / "a/b/later"], listener)
    yield listener
    watch.stop()


def test_a_file_written_changed_and_removed_is_noticed(heard: Heard, tmp_path: Path) -> None:
    file = tmp_path / "there/x.toml"
    assert heard.next(lambda: file.write_text("a = 1"))
    assert heard.next(lambda: file.write_text("a = 2"))
    assert heard.next(lambda: file.rename(tmp_path / "there/y.toml"))
    assert heard.next((tmp_path / "there/y.toml").unlink)


def test_a_burst_is_one_change(heard: Heard, tmp_path: Path) -> None:
    def burst() -> None:
        for number in range(50):
            (tmp_path / f"there/{number}.toml").write_text("x")

    assert heard.next(burst)
    assert not heard.next(lambda: None, timeout_s=0.5)
    assert heard.count <= 2


def test_a_folder_that_did_not_exist_is_noticed_when_it_is_made(heard: Heard, tmp_path: Path) -> None:
    later = tmp_path / "a/b/later"
    assert heard.next((tmp_path / "a").mkdir)
    assert heard.next(lambda: later.mkdir(parents=True))
    assert heard.next(lambda: (later / "tool.toml").write_text("x"))


def test_other_files_and_reading_are_of_no_interest(heard: Heard, tmp_path: Path) -> None:
    file = tmp_path / "there/x.toml"
    assert heard.next(lambda: file.write_text("x"))

    def elsewhere() -> None:
        file.read_text()
        (tmp_path / "there/notes.txt").write_text("x")
        (tmp_path / "unrelated.toml").write_text("x")

    assert not heard.next(elsewhere, timeout_s=0.5)
