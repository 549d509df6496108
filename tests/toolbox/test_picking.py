"""Age, size, order and number: what file.delete, trash, move and copy take of what a path takes in."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from llmos.errors import UsageError
from llmos.messages import ToolCall
from llmos.toolbox import catalog
from llmos.toolbox.context import Context

from .conftest import Call

_DAY = 86400


@pytest.fixture
def folder(here: Context) -> Path:
    """Files by age in days and size in bytes."""
    root = Path(here.cwd)
    for name, days, size in (
        ("logs/new.log", 1, 10),
        ("logs/week.log", 8, 3000),
        ("logs/old.log", 40, 10),
        ("logs/old.txt", 50, 10),
        ("logs/.hidden", 400, 10),
        ("logs/web/old.log", 60, 5000),
        ("logs/web/new.log", 0, 10),
        ("logs/.git/object", 400, 10),
        ("logs/gone/a", 90, 10),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        _age(path, days)
    return root


def _age(path: Path, days: float) -> None:
    at = time.time() - days * _DAY
    os.utime(path, (at, at))


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


ALL = frozenset({
    "new.log", "week.log", "old.log", "old.txt", "web/old.log", "web/new.log", "gone/a",
    ".hidden", ".git/object",
})  # fmt: skip
FOR_GOOD = pytest.mark.parametrize("how", [{}, {"for_good": True}], ids=["trash", "for good"])


@FOR_GOOD
@pytest.mark.parametrize(
    ("args", "goes"),
    [
        ({"path": "logs", "older_than": "30d"}, {"old.log", "old.txt", "web/old.log", "gone/a"}),
        ({"path": "logs/", "older_than": "30d", "except": ["web"]}, {"old.log", "old.txt", "gone/a"}),
        ({"path": "logs", "older_than": "45d", "except": ["logs/web/old.log"]}, {"old.txt", "gone/a"}),
        ({"path": "logs/*", "older_than": "30d"}, {"old.log", "old.txt"}),
        ({"path": "logs/*.log", "older_than": "7d", "except": ["week*"]}, {"old.log"}),
        ({"path": "logs/*", "older_than": "30d", "recursive": True}, {"old.log", "old.txt", "gone/a"}),
        ({"path": "logs", "larger_than": "2K"}, {"week.log", "web/old.log"}),
        ({"path": "logs", "larger_than": "2K", "newer_than": "10d"}, {"week.log"}),
        ({"path": "logs/*.log", "smaller_than": "1K"}, {"new.log", "old.log"}),
        ({"path": "logs/*.log", "keep_newest": 1}, {"week.log", "old.log"}),
        ({"path": "logs/*.log", "keep_newest": 2, "older_than": "100d"}, set()),
        ({"path": "logs/*.log", "sort": "oldest", "limit": 2}, {"old.log", "week.log"}),
        ({"path": "logs/*.log", "sort": "newest", "limit": 1}, {"new.log"}),
        ({"path": "logs/*.txt", "sort": "smallest", "limit": 1}, {"old.txt"}),
        ({"path": "logs", "sort": "size", "limit": 2}, {"web/old.log", "week.log"}),
        ({"path": "logs", "older_than": "55d", "except": [".git", "gone"]}, {"web/old.log"}),
        ({"path": "logs/*", "sort": "size", "limit": 1, "recursive": True}, {"web/old.log", "web/new.log"}),
        ({"path": "logs/old.log", "older_than": "30d"}, {"old.log"}),
        ({"path": "logs/new.log", "older_than": "30d"}, set()),
    ],
)  # fmt: skip
def test_only_what_is_asked_goes(
    call: Call, folder: Path, args: dict[str, Any], goes: set[str], how: dict[str, bool]
) -> None:
    outcome = call("file.delete", **args, **how)
    assert outcome.exit_code == 0, outcome.stderr
    assert names(folder / "logs") == ALL - goes
    assert bool(goes) != ("nothing was done" in outcome.stdout)


def test_what_lay_below_comes_back_to_where_it_was(call: Call, folder: Path) -> None:
    assert call("file.trash", path="logs", older_than="55d").exit_code == 0
    assert names(folder / "logs") == ALL - {"web/old.log", "gone/a"}
    assert call("file.restore", name="logs/web/old.log").exit_code == 0
    assert "web/old.log" in names(folder / "logs")


def test_folders_are_as_new_as_the_newest_in_them(call: Call, folder: Path) -> None:
    """Folders count by what they hold: `web` holds something of today, and its own time is no matter."""
    _age(folder / "logs/web", 500)
    assert call("file.trash", path="logs/*", older_than="70d").exit_code == 0
    assert names(folder / "logs") == ALL - {"gone/a"}
    assert not (folder / "logs/gone").exists()


def test_of_two_of_one_age_the_later_name_is_the_newer(call: Call, here: Context) -> None:
    folder = Path(here.cwd)
    for number in (1, 2, 9, 10):
        (folder / f"dump-{number}.sql").write_text("x")
        _age(folder / f"dump-{number}.sql", 3)
    assert call("file.delete", path="dump-*.sql", sort="oldest", limit=1).exit_code == 0
    assert names(folder) == {"dump-2.sql", "dump-9.sql", "dump-10.sql"}
    assert call("file.delete", path="dump-*.sql", keep_newest=1).exit_code == 0
    assert names(folder) == {"dump-10.sql"}


def test_moved_and_copied_to_where_they_lay_below(call: Call, folder: Path) -> None:
    moved = call("file.move", path="logs/*.log", to="logs/archive/", older_than="7d")
    assert moved.exit_code == 0, moved.stderr
    assert names(folder / "logs/archive") == {"week.log", "old.log"}
    assert call("file.copy", path="logs", to="logs/archive/", newer_than="2d").exit_code == 0
    assert names(folder / "logs/archive") == {"week.log", "old.log", "new.log", "web/new.log"}
    assert {"new.log", "web/new.log"} <= names(folder / "logs")
    nothing = call("file.move", path="logs/*.pdf", to="pdf/", larger_than="1K")
    assert nothing.exit_code == 0 and "nothing was done" in nothing.stdout
    assert not (folder / "pdf").exists()


def test_one_file_may_go_to_a_name_of_its_own(call: Call, folder: Path) -> None:
    assert call("file.copy", path="logs/web/*", to=".", sort="oldest", limit=1).exit_code == 0
    assert (folder / "old.log").stat().st_size == 5000
    assert call("file.copy", path="logs/web/*", to="last/new", sort="newest", limit=1).exit_code == 0
    assert names(folder / "last") == {"new"}
    assert call("file.move", path="logs/week.log", to="was{}.log", older_than="7d").exit_code == 0
    assert (folder / "was{}.log").is_file()
    _age(folder / "last/new", -1)
    for _ in range(2):  # the second time what was written the first time is the newest of all
        args = {"path": "last/*", "to": "last/newest", "sort": "newest", "limit": 1, "overwrite": True}
        assert call("file.copy", **args).exit_code == 0
        assert names(folder / "last") == {"new", "newest"}


def test_where_something_is_in_the_way_nothing_goes(call: Call, folder: Path) -> None:
    (folder / "to/web/new.log").mkdir(parents=True)
    (folder / "to/old.log").write_text("mine")
    for tool in ("file.move", "file.copy"):
        outcome = call(tool, path="logs", to="to/", older_than="30d")
        assert outcome.exit_code and "old.log exists already" in outcome.stderr
        assert call(tool, path="logs", to="to/", newer_than="2d", overwrite=True).exit_code
        assert names(folder / "to") == {"old.log"} and names(folder / "logs") == ALL
    assert call("file.move", path="logs", to="to/", older_than="30d", overwrite=True).exit_code == 0
    assert (folder / "to/old.log").read_text() == "x" * 10 and (folder / "to/web/old.log").exists()


def test_what_stands_in_the_way_is_seen_beforehand(call: Call, folder: Path) -> None:
    (folder / "to").mkdir()
    (folder / "to/web").write_text("a file")
    assert "no folder" in call("file.move", path="logs", to="to/", older_than="7d").stderr
    assert names(folder / "logs") == ALL
    (folder / "broken").symlink_to("nowhere")
    again = call("file.copy", path="broken*", to=".", newer_than="1d", overwrite=True)
    assert again.exit_code and (folder / "broken").is_symlink()
    (folder / "x/x").mkdir(parents=True)
    (folder / "x/x/a").write_text("below")
    (folder / "x/a").write_text("above")
    assert call("file.move", path="x/x", to="x/", newer_than="1d", overwrite=True).exit_code == 0
    assert (folder / "x/a").read_text() == "below"


def test_folders_that_are_made_have_the_rights_of_those_they_stand_for(call: Call, folder: Path) -> None:
    (folder / "logs/web").chmod(0o700)
    assert call("file.copy", path="logs", to="to/", newer_than="2d").exit_code == 0
    assert (folder / "to/web").stat().st_mode & 0o777 == 0o700
    (folder / "logs/web/new.log").chmod(0o4750)
    assert call("file.copy", path="logs/w*", to="whole/", newer_than="2d").exit_code == 0
    assert (folder / "whole/web").stat().st_mode & 0o777 == 0o700
    assert (folder / "whole/web/new.log").stat().st_mode & 0o7777 == 0o4750


def test_sizes_are_those_of_files(call: Call, folder: Path) -> None:
    assert call("file.move", path="logs/*", to="big/", sort="size", limit=1).exit_code == 0
    assert names(folder / "big") == {"week.log"}
    assert "nothing was done" in call("file.trash", path="logs/*", larger_than="4K").stdout


def test_a_copy_keeps_its_time_and_a_link_is_not_written_through(call: Call, folder: Path) -> None:
    (folder / "to").mkdir()
    (folder / "to/old.log").symlink_to(folder / "logs/new.log")
    args = {"path": "logs/*.log", "to": "to/", "older_than": "30d", "overwrite": True}
    assert call("file.copy", **args).exit_code == 0
    assert not (folder / "to/old.log").is_symlink()
    assert (folder / "to/old.log").stat().st_mtime == (folder / "logs/old.log").stat().st_mtime


def test_a_folder_is_copied_with_what_it_holds(call: Call, folder: Path) -> None:
    (folder / "logs/gone/link").symlink_to("a")
    os.utime(folder / "logs/gone/link", (0, 0), follow_symlinks=False)
    assert call("file.copy", path="logs/*", to="to/", older_than="70d").exit_code == 0
    assert (folder / "to/gone/link").is_symlink() and (folder / "to/gone/a").is_file()


def test_names_that_are_no_text_are_moved(call: Call, here: Context) -> None:
    folder = Path(here.cwd)
    for name in ("a\nb.log", "-f.log", "b [1].log"):
        (folder / name).write_text("x")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.log")).write_text("x")
    assert call("file.move", path="*.log", to="out/", newer_than="1d").exit_code == 0
    assert len([*(folder / "out").iterdir()]) == 4


@FOR_GOOD
def test_misspelt_names_spare_all(call: Call, folder: Path, how: dict[str, bool]) -> None:
    outcome = call("file.delete", path="logs", older_than="30d", **{"except": ["odl.log"]}, **how)
    assert outcome.exit_code and "odl.log" in outcome.stderr
    assert call("file.delete", path="missing.log", older_than="30d", **how).exit_code
    assert names(folder / "logs") == ALL


@pytest.mark.parametrize("half", [{"sort": "oldest"}, {"limit": 3}])
def test_half_an_order_is_refused(call: Call, folder: Path, half: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="says nothing without"):
        call("file.delete", path="logs/*", **half)
    with pytest.raises(UsageError, match="says nothing without"):
        call("file.copy", path="logs/*", to="x/", **half)


def test_here_and_below_is_no_folder_as_a_whole(call: Call, folder: Path) -> None:
    assert call("file.delete", path=".", older_than="70d").exit_code == 0
    assert names(folder / "logs") == ALL - {"gone/a"}
    for path in ("..", "/", "../*"):
        with pytest.raises(UsageError, match="takes in"):
            call("file.delete", path=path, older_than="70d", recursive=True)


def test_the_home_itself_loses_what_is_old_to_the_trash(call: Call, here: Context) -> None:
    home = Path(here.home)
    (home / "old.txt").write_text("x")
    _age(home / "old.txt", 400)
    assert call("file.delete", path="~", older_than="1y").exit_code == 0
    assert not (home / "old.txt").exists()
    kept = home / ".local/share/Trash/files/old.txt"
    assert kept.is_file()
    assert "nothing was done" in call("file.trash", path="~/.local", older_than="1y").stdout
    assert kept.is_file()
    assert call("file.delete", path="~/.local/share/Trash/files", older_than="1y").exit_code == 0
    assert not kept.exists()


def test_the_person_sees_ages_and_sizes_as_they_are_typed(tools: catalog.Catalog, here: Context) -> None:
    args = {"path": "logs", "older_than": "36h", "larger_than": "1.5M", "smaller_than": "0B"}
    plan = tools.plan(ToolCall(tool="file.delete", args=args), here)
    assert plan.command == "file.delete path=logs older_than=36h larger_than=1536K smaller_than=0B"
