"""`except`: what a pattern takes in but for some, by every file tool that knows it."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from llmos.errors import UsageError
from llmos.toolbox.context import Context

from .conftest import Call


@pytest.fixture
def folder(here: Context) -> Path:
    root = Path(here.cwd)
    for name in ("a.log", "b.log", "b[1].log", "notes.txt", "sub/deep.log", "sub/keep.txt", ".hidden"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    return root


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", [{}, {"for_good": True}])
def test_all_but_some_are_deleted(call: Call, folder: Path, how: dict[str, bool]) -> None:
    assert call("file.delete", path="*.log", **{"except": ["B.log"]}, **how).exit_code == 0
    assert names(folder) == {"b.log", "notes.txt", "sub/deep.log", "sub/keep.txt", ".hidden"}
    assert call("file.delete", path="sub", **{"except": ["keep*"]}, **how).exit_code == 0
    assert names(folder) == {"b.log", "notes.txt", "sub/keep.txt", ".hidden"}


@pytest.mark.parametrize("how", [{}, {"for_good": True}])
def test_an_exception_that_is_not_there_spares_all(call: Call, folder: Path, how: dict[str, bool]) -> None:
    before = names(folder)
    outcome = call("file.delete", path="*", recursive=True, **{"except": ["note.txt"]}, **how)
    assert outcome.exit_code and "note.txt" in outcome.stderr
    assert "note.txt" in call("file.move", path="*", to="x/", **{"except": ["note.txt"]}).stderr
    assert names(folder) == before


@pytest.mark.parametrize("how", [{}, {"for_good": True}])
def test_of_several_patterns_one_is_enough(call: Call, folder: Path, how: dict[str, bool]) -> None:
    assert call("file.delete", path="sub/*", **{"except": ["*.jpg", "*.TXT"]}, **how).exit_code == 0
    assert names(folder / "sub") == {"keep.txt"}
    assert call("file.delete", path="*", **{"except": ["*.jpg", "*.png"]}, **how).exit_code
    assert call("file.delete", path="*", **{"except": ["*.txt", "gone"]}, **how).exit_code
    assert {"a.log", "notes.txt"} <= names(folder)


def test_an_exception_is_a_name_with_brackets_or_a_path(call: Call, folder: Path) -> None:
    assert call("file.trash", path="*.log", **{"except": ["b[1].log", "./a.log"]}).exit_code == 0
    assert {"a.log", "b[1].log"} <= names(folder) and "b.log" not in names(folder)


def test_everything_but_some_goes_into_a_folder_beside_it(call: Call, folder: Path) -> None:
    assert call("file.move", path="*", to="old/", **{"except": ["notes.txt"]}).exit_code == 0
    assert {entry.name for entry in folder.iterdir()} == {"old", "notes.txt", ".hidden"}
    assert {entry.name for entry in (folder / "old").iterdir()} == {"a.log", "b.log", "b[1].log", "sub"}


def test_everything_goes_into_a_folder_below_one_of_it(call: Call, folder: Path) -> None:
    (folder / "archive").mkdir()
    assert call("file.move", path="*", to="archive/2024/", **{"except": ["a.log"]}).exit_code == 0
    assert {entry.name for entry in folder.iterdir()} == {"archive", "a.log", ".hidden"}
    assert "notes.txt" in names(folder / "archive/2024")


def test_a_folder_is_copied_without_some(call: Call, folder: Path) -> None:
    told = {"path": "sub", "except": ["deep.log"]}
    assert call("file.copy", **told, to="new").exit_code == 0
    assert names(folder / "new") == {"keep.txt"}
    assert call("file.copy", **told, to="backup/").exit_code == 0
    assert call("file.copy", **told, to="backup").exit_code != 0  # as a whole: backup/sub, and it is there
    assert names(folder / "backup") == {"sub/keep.txt"}


@pytest.mark.parametrize("spared", ["sub/deep.log", ".", "/", "", ".."])
def test_what_is_elsewhere_or_no_name_cannot_be_spared(call: Call, folder: Path, spared: str) -> None:
    before = names(folder)
    for tool, more in (("file.delete", {"recursive": True, "for_good": True}), ("file.move", {"to": "x/"})):
        with pytest.raises(UsageError):
            call(tool, path="*", **more, **{"except": [spared]})
    assert names(folder) == before


def test_found_are_the_others_at_any_depth(call: Call, folder: Path) -> None:
    found = call("file.find", type="file", **{"except": ["*.LOG", "keep.txt"]}).stdout
    assert "notes.txt" in found and "log" not in found and "keep" not in found
    found = call("file.find", path=str(folder), type="file", **{"except": ["sub"]}).stdout
    assert "a.log" in found and "deep" not in found
    found = call("file.find", path="sub", type="file", **{"except": ["sub", "k*"]}).stdout
    assert "deep" in found and "keep" not in found  # the folder it looks in is not below itself


@pytest.mark.parametrize("path", ["sub", "*"])
def test_archives_leave_out_at_any_depth(call: Call, folder: Path, path: str) -> None:
    (folder / "sub/more").mkdir()
    (folder / "sub/more/x.log").write_text("x")
    for archive in ("out.zip", "out.tar.gz"):
        told = {"path": path, "archive": archive, "except": ["*.LOG", "out.*"]}
        assert call("file.archive", action="create", **told).exit_code == 0
    packed = set(zipfile.ZipFile(folder / "out.zip").namelist())
    assert "sub/keep.txt" in {name.removeprefix("./") for name in packed}
    with tarfile.open(folder / "out.tar.gz") as tar:
        packed |= set(tar.getnames())
    assert any("keep.txt" in name for name in packed) and not any(".log" in name for name in packed)


def test_modes_and_replacements_leave_some_alone(call: Call, folder: Path) -> None:
    assert call("file.permissions", path="*.log", mode="600", **{"except": ["a.log"]}).exit_code == 0
    assert (folder / "a.log").stat().st_mode & 0o777 != 0o600
    assert (folder / "b.log").stat().st_mode & 0o777 == 0o600
    told = {"path": ".", "find": "log", "replace": "LOG"}
    assert call("text.replace", **told, **{"except": ["deep*", "b.log"]}).exit_code == 0
    assert (folder / "a.log").read_text() == "a.LOG"
    assert (folder / "b.log").read_text() == "b.log"
    assert (folder / "sub/deep.log").read_text() == "sub/deep.log"
    assert call("text.replace", **{**told, "find": "notes"}, **{"except": ["sub"]}).exit_code == 0
    assert (folder / "sub/deep.log").read_text() == "sub/deep.log"
    for refused in (
        call("text.replace", **told, **{"except": ["B_.log"]}),
        call("file.permissions", path="*.log", mode="644", **{"except": ["nothing"]}),
    ):
        assert refused.exit_code and "nothing was done" in refused.stderr


@pytest.mark.parametrize("archive", ["o.zip", "o.tar.gz"])
@pytest.mark.parametrize(
    ("path", "spared", "packed"),
    [
        ("sub", ["sub"], None),  # nothing below it is called so
        ("sub", ["*.log"], {"sub/keep.txt"}),
        ("sub/*", ["DEEP*"], {"sub/keep.txt"}),
        (".", [".*"], {"a.log", "b.log", "b[1].log", "notes.txt", "sub/deep.log", "sub/keep.txt", "-d"}),
        ("*", ["-d", "sub", "b*"], {"a.log", "notes.txt"}),
        ("*", ["su*.log", "b[1].log", "-d"], {"a.log", "b.log", "notes.txt", "sub/deep.log", "sub/keep.txt"}),
        ("*", ["*"], None),
        ("*", ["gone"], None),
    ],
)
def test_an_archive_has_all_but_what_is_excepted(
    call: Call, folder: Path, archive: str, path: str, spared: list[str], packed: set[str] | None
) -> None:
    (folder / "-d").write_text("dash")
    outcome = call("file.archive", action="create", archive=archive, path=path, **{"except": spared})
    assert (outcome.exit_code == 0) == (packed is not None)
    if packed is None:
        assert "not there" in outcome.stderr and not (folder / archive).exists()
        return
    assert call("file.archive", action="extract", archive=archive, to="seen").exit_code == 0
    assert names(folder / "seen") == packed


@pytest.mark.parametrize("archive", ["all.zip", "all.tar.gz", "all.tar.zst"])
def test_only_some_or_all_but_some_come_out_of_an_archive(call: Call, folder: Path, archive: str) -> None:
    assert call("file.archive", action="create", archive=archive, path="*").exit_code == 0
    told = {"action": "extract", "archive": archive}
    assert call("file.archive", **told, to="one", only=["NOTES.txt", "b[1].log"]).exit_code == 0
    assert names(folder / "one") == {"notes.txt", "b[1].log"}
    assert call("file.archive", **told, to="two", only=["sub"], **{"except": ["deep*"]}).exit_code == 0
    assert names(folder / "two") == {"sub/keep.txt"}
    assert call("file.archive", **told, to="three", only=["sub/d*.log"]).exit_code == 0
    assert names(folder / "three") == {"sub/deep.log"}
    missing = call("file.archive", **told, to="four", only=["a.log", "kep.txt"])
    assert missing.exit_code and "no kep.txt" in missing.stderr and "sub/keep.txt" in missing.stderr
    assert call("file.archive", **told, to="four", **{"except": ["kep.txt"]}).exit_code
    listed = call("file.archive", action="list", archive=archive, only=["*.txt"]).stdout
    assert "notes.txt" in listed and "a.log" not in listed
    assert not (folder / "four").exists()
