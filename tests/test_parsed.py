"""What is parsed once: the same tables with and without the kept file, however that file fares."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from llmos import parsed, paths

TEXT = 'name = "a"\n[run]\nargv = ["ls"]\n'


def known(file: Path) -> list[object]:
    return list(json.loads(file.read_bytes()).values())


def test_what_was_parsed_is_kept_and_read_instead_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "state/parsed.json"
    with parsed.kept(file):
        assert parsed.loads(TEXT) == tomllib.loads(TEXT)
    assert file.stat().st_mode & 0o777 == 0o600
    assert known(file) == [tomllib.loads(TEXT)]
    file.write_bytes(file.read_bytes().replace(b'"ls"', b'"df"'))
    with parsed.kept(file):
        assert parsed.loads(TEXT)["run"]["argv"] == ["df"]  # so it came from there
    assert parsed.loads(TEXT)["run"]["argv"] == ["ls"]


def test_another_text_is_parsed_and_takes_the_place_of_the_one_that_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "parsed.json"
    for text in (TEXT, TEXT.replace("ls", "df")):
        with parsed.kept(file):
            assert parsed.loads(text) == tomllib.loads(text)
        assert known(file) == [tomllib.loads(text)]


@pytest.mark.parametrize("damage", [b"", b'{"a', b"[]", b'{"a": 1}', b"\xff"])
def test_a_damaged_file_is_as_good_as_none_and_is_mended(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "parsed.json"
    file.write_bytes(damage)
    with parsed.kept(file):
        assert parsed.loads(TEXT) == tomllib.loads(TEXT)
    assert known(file) == [tomllib.loads(TEXT)]


def test_where_nothing_can_be_kept_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with parsed.kept(tmp_path / "file/parsed.json"):
        assert parsed.loads(TEXT) == tomllib.loads(TEXT)


def test_what_is_shipped_survives_being_kept() -> None:
    """JSON knows no dates, and its keys are texts alone."""
    programs = paths.builtin_policy_dir() / "programs"
    files = [*paths.tool_dirs()[0].glob("*.toml"), *programs.glob("*.toml")]
    assert len(files) > 100
    for file in files:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        assert json.loads(json.dumps(tables)) == tables
