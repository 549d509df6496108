"""text.search, text.count and text.replace run for real."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmos.errors import UsageError
from llmos.toolbox.context import Context

from .conftest import Call


@pytest.fixture
def folder(here: Context) -> Path:
    root = Path(here.cwd)
    (root / "sub").mkdir()
    (root / "a.py").write_text("x = 1\nERROR one\nerror two\nERROR ERROR\n")
    (root / "sub/b c.txt").write_text("ERROR deep\n")
    return root


def test_search_names_file_line_and_text(call: Call, folder: Path) -> None:
    lines = call("text.search", pattern="ERROR").stdout.splitlines()
    assert set(lines) == {"a.py:2: ERROR one", "a.py:4: ERROR ERROR", "sub/b c.txt:1: ERROR deep"}
    assert call("text.search", pattern="ERROR", name="*.txt").stdout == "sub/b c.txt:1: ERROR deep\n"
    assert call("text.search", pattern="^err", path="a.py", regex=True).stdout == "a.py:3: error two\n"
    assert len(call("text.search", pattern="error", path="*.py", ignore_case=True).stdout.splitlines()) == 3
    assert "2 more" in call("text.search", pattern="ERROR", limit=1).stdout


def test_small_letters_find_capitals_unless_it_is_said_otherwise(call: Call, folder: Path) -> None:
    assert len(call("text.search", pattern="error", path="a.py").stdout.splitlines()) == 3
    assert (
        call("text.search", pattern="error", path="a.py", ignore_case=False).stdout == "a.py:3: error two\n"
    )
    assert call("text.search", pattern="Error", path="a.py").stdout == "No match.\n"
    assert call("text.search", pattern="^error", path="a.py", regex=True).stdout == "a.py:3: error two\n"
    assert len(call("text.search", pattern="Error", path="a.py", ignore_case=True).stdout.splitlines()) == 3


def test_search_in_piped_data_none_found_and_failures(call: Call, folder: Path) -> None:
    assert call("text.search", pattern="b", data=b"a\nb\n").stdout == "2: b\n"
    none = call("text.search", pattern="zzz")
    assert (none.exit_code, none.stdout) == (0, "No match.\n")
    assert call("text.search", pattern="-v", path="a.py").stdout == "No match.\n"
    assert call("text.search", pattern="x", path="missing").exit_code == 2
    assert call("text.search", pattern="(", path="a.py", regex=True).exit_code == 2


def test_counts(call: Call, folder: Path) -> None:
    assert call("text.count", path="a.py").stdout.split()[0] == "4"
    assert call("text.count", path="a.py", what="words").stdout.split()[0] == "9"
    assert call("text.count", path="a.py", pattern="ERROR").stdout.strip() == "2"
    assert call("text.count", path="a.py", what="matches", pattern="ERROR").stdout.strip() == "3"
    assert call("text.count", path="a.py", pattern="absent").stdout.strip() == "0"
    assert call("text.count", data=b"1\n2\n").stdout.strip() == "2"
    assert call("text.count", path="*.py").stdout.split()[0] == "4"
    assert call("text.count", path="*.py", pattern="ERROR").stdout.strip().endswith("a.py:2")
    assert call("text.count", path="*.nix").stdout.startswith("Nothing matches")
    (folder / "sub/b c.txt").write_text("ERROR\n\n")
    below = call("text.count", path="sub").stdout
    assert below.split()[0] == "2" and "b c.txt" in below
    assert call("text.count", path=".", what="matches", pattern="ERROR").stdout.strip() == "4"
    assert call("text.count", path=".", what="words", top=1).stdout.split() == ["4", "ERROR"]


def test_counting_fails_plainly(call: Call, folder: Path) -> None:
    assert call("text.count", path="missing", what="matches", pattern="x").exit_code == 2
    assert call("text.count", path="missing").exit_code == 2
    for args in ({}, {"what": "matches", "path": "a.py"}):
        with pytest.raises(UsageError, match=r"text\.count"):
            call("text.count", **args)


@pytest.mark.parametrize("text", [";", "{}", "f(x) {} // [a]"])
def test_what_find_takes_for_its_own_is_looked_for(call: Call, folder: Path, text: str) -> None:
    (folder / "sub/own.js").write_text(f"x\n{text}\n")
    assert "sub/own.js:1" in call("text.count", path="sub", pattern=text).stdout
    assert "own.js" in call("file.find", path=".", contains=text).stdout
    assert call("text.search", pattern=text, path="sub").stdout == f"sub/own.js:2: {text}\n"


def test_replace_changes_only_what_matches(call: Call, folder: Path) -> None:
    outcome = call("text.replace", path=".", find="ERROR", replace="W/&\\1")
    assert sorted(outcome.stdout.splitlines()) == ["changed a.py", "changed sub/b c.txt"]
    assert (folder / "a.py").read_text() == "x = 1\nW/&\\1 one\nerror two\nW/&\\1 W/&\\1\n"
    before = (folder / "a.py").stat().st_mtime_ns
    assert call("text.replace", path="a.py", find="nope", replace="x").stdout.startswith("Nothing to replace")
    assert (folder / "a.py").stat().st_mtime_ns == before


def test_replace_by_regex_pattern_and_name(call: Call, folder: Path) -> None:
    (folder / "u").write_text("http://a/b\n")
    call("text.replace", path="u", find="http://(.)/", replace=r"\1:/", regex=True)
    assert (folder / "u").read_text() == "a:/b\n"
    call("text.replace", path=".", name="*.txt", find="ERROR", replace="fine")
    assert (folder / "sub/b c.txt").read_text() == "fine deep\n" and "ERROR" in (folder / "a.py").read_text()
    assert call("text.replace", path="missing", find="a", replace="b").exit_code == 2


def test_no_expression_runs_a_command_or_opens_a_file(call: Call, folder: Path) -> None:
    call("text.replace", path="a.py", find="x/touch owned/e;s/a", replace="b", regex=True)
    call("text.replace", path="a.py", find="x = 1", replace="touch owned/e\nw owned")
    assert not (folder / "owned").exists()
    assert "touch owned/e\nw owned\n" in (folder / "a.py").read_text()
    with pytest.raises(UsageError, match="backslash"):
        call("text.replace", path="a.py", find="x\\", replace="y", regex=True)


_LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(find=";", replace=",")
@example(find="{}", replace="[]")
@example(find="a.{}\\", replace="")
@given(find=_LINE, replace=st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12))
def test_a_literal_replacement_is_literal(call: Call, folder: Path, find: str, replace: str) -> None:
    file = folder / "case"
    file.write_bytes(f"<{find}>\n".encode())
    assert call("text.replace", path="case", find=find, replace=replace).exit_code == 0
    assert file.read_bytes().decode() == f"<{find}>\n".replace(find, replace)


# --- the most frequent, lines around, the end of a file, differences -----------------------------------


def test_the_most_frequent_lines_words_fields_and_matches(call: Call, folder: Path) -> None:
    (folder / "a.log").write_text("10.0.0.1 GET /a b\n10.0.0.2 GET /b\n\n10.0.0.1 POST /a\n")
    assert call("text.count", path="a.log", top=2, field=1).stdout == "2  10.0.0.1\n1  10.0.0.2\n"
    assert call("text.count", path="a.log", top=1, what="words", pattern="GET").stdout == "4  0\n"
    assert (
        call("text.count", path="a.log", top=1, what="matches", pattern="/[ab]", regex=True).stdout
        == "2  /a\n"
    )
    assert call("text.count", data=b"X\nx\ny\n", top=1, ignore_case=True).stdout == "2  X\n"
    (folder / "b.log").write_text("10.0.0.1 x\n")
    assert call("text.count", path="*.log", top=1, field=1).stdout == "3  10.0.0.1\n"
    assert call("text.count", path="missing", top=1).exit_code == 2


def test_search_with_lines_around_and_without(call: Call, folder: Path) -> None:
    (folder / "f").write_text("a-1\nb\nc\nd\n")
    assert call("text.search", path="f", pattern="b", context=1).stdout == "f:1: a-1\nf:2: b\nf:3: c\n"
    assert call("text.search", path="f", pattern="b", invert=True).stdout == "f:1: a-1\nf:3: c\nf:4: d\n"
    assert call("text.search", data=b"x\ny\n", pattern="y", context=1).stdout == "1: x\n2: y\n"


def test_the_end_of_files_and_what_is_added(call: Call, folder: Path) -> None:
    (folder / "-a.log").write_text("1\n2\n3\n")
    (folder / "b.log").write_text("4\n")
    assert call("text.tail", path="-a.log", lines=2).stdout == "2\n3\n"
    assert call("text.tail", path="*.log", lines=1).stdout.count("==>") == 2
    followed = call("text.tail", path="b.log", follow=True, duration="0.3s")
    assert followed.exit_code == 0 and followed.stdout.startswith("4\n… watched")
    (folder / "bin").write_bytes(b"\0")
    assert "binary" in call("text.tail", path="bin").stdout
    assert call("text.tail", path="missing").exit_code == 1


def test_differences_of_files_and_folders(call: Call, folder: Path) -> None:
    for name, text in (("a", "one\ntwo\n"), ("b", "one\n  two\n"), ("c", "one\ntwo\n")):
        (folder / name).mkdir()
        (folder / name / "f").write_text(text)
    assert "+  two" in call("text.compare", a="a/f", b="b/f").stdout
    assert (
        call("text.compare", a="a/f", b="b/f", ignore_space=True).stdout
        == "a/f and b/f are the same but for blanks.\n"
    )
    assert call("text.compare", a="a", b="c").stdout == "a and c are the same.\n"
    assert "-two" in call("text.compare", a="a", b="b").stdout
    assert call("text.compare", a="a/f", b="missing").exit_code == 2


def test_a_pattern_that_only_folders_below_match_means_those(call: Call, folder: Path) -> None:
    assert call("text.count", path="*.txt", pattern="ERROR").stdout.strip() == "./sub/b c.txt:1"
    assert call("text.replace", path="*.txt", find="deep", replace="low").stdout == "changed sub/b c.txt\n"
    (folder / "top.txt").write_text("low\n")
    assert call("text.replace", path="*.txt", find="low", replace="high").stdout == "changed top.txt\n"
    assert (folder / "sub/b c.txt").read_text() == "ERROR low\n"
