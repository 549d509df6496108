"""text.lines for real: what it shows, what it writes to the byte, and when it had better write nothing."""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmos.errors import UsageError
from llmos.messages import JsonObject, Plan, ToolCall
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context
from llmos.toolbox.inside import lines

from .conftest import Call

NAMES = "Zoe\nanna\nBob\n\nanna\nAnna  \nbob 12\nZoe\n"
PAID = "Bob   \nanna\n"
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def folder(here: Context) -> Path:
    root = Path(here.cwd)
    (root / "n.txt").write_text(NAMES)
    (root / "paid.txt").write_text(PAID)
    (root / "num.txt").write_text("none\nfile-10 x\nfile-9 y\n1,200 z\n-3 below\n2.5 a\n2.25 b\n-20\n")
    return root


def planned(tools: Catalog, here: Context, **args: Any) -> Plan:
    context = Context(here.cwd, here.home, here.uid, args.pop("has_data", False) is True)
    return tools.plan(ToolCall(tool="text.lines", args=args), context)


# --- what is shown -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ({}, NAMES),
        ({"with": "anna"}, "anna\nanna\nAnna  \n"),
        ({"without": "ANNA"}, NAMES),
        ({"without": "anna"}, "Zoe\nBob\n\nbob 12\nZoe\n"),
        ({"with": "o", "without": "bob"}, "Zoe\nZoe\n"),
        ({"unique": True}, "Zoe\nanna\nBob\n\nAnna  \nbob 12\n"),
        ({"unique": True, "ignore_case": True}, "Zoe\nanna\nBob\n\nbob 12\n"),
        # Each once is true of what comes out: both are ANNA then.
        ({"unique": True, "case": "upper", "drop_blank": True}, "ZOE\nANNA\nBOB\nBOB 12\n"),
        ({"case": "lower", "first": 3}, "zoe\nanna\nbob\n"),
        ({"occurs": "once"}, "Bob\n\nAnna  \nbob 12\n"),
        ({"occurs": "several"}, "Zoe\nanna\n"),
        ({"drop_blank": True}, NAMES.replace("\n\n", "\n")),
        ({"sort": "a-z"}, "\nanna\nanna\nAnna  \nBob\nbob 12\nZoe\nZoe\n"),
        ({"sort": "z-a", "last": 3}, "anna\nanna\n\n"),
        ({"first": 3, "last": 1}, "Bob\n"),
        ({"count": True}, "8\n"),
        ({"count": True, "unique": True, "drop_blank": True}, "5\n"),
        ({"count": True, "with": "nobody"}, "0\n"),
        ({"with": "^b", "regex": True}, "bob 12\n"),
        ({"with": "^b", "regex": True, "ignore_case": True}, "Bob\nbob 12\n"),
        ({"without": "^$|[0-9]", "regex": True, "last": 2}, "Anna  \nZoe\n"),
        ({"also_in": "paid.txt"}, "anna\nBob\n"),
        ({"not_in": "paid.txt"}, "Zoe\n\nAnna  \nbob 12\n"),
        ({"not_in": "paid.txt", "ignore_case": True, "drop_blank": True}, "Zoe\nbob 12\n"),
        ({"also_in": "n.txt", "not_in": "paid.txt", "with": "zoe"}, "Zoe\n"),
    ],
)
def test_lines_are_shown_and_the_file_stays(call: Call, folder: Path, args: JsonObject, shown: str) -> None:
    outcome = call("text.lines", path="n.txt", **args)
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (shown, "", 0)
    assert (folder / "n.txt").read_text() == NAMES


# The casefold of straße is another, but it has no capital.
_CAPITALS = {"error": "ERROR\nerror\n", "Error": "No line fits.\n", "straße": "Straße\n", "a.b": "a.b\n"}


@pytest.mark.parametrize(("text", "found"), _CAPITALS.items())
def test_text_without_capitals_means_them_too(call: Call, folder: Path, text: str, found: str) -> None:
    (folder / "t.txt").write_text("ERROR\nerror\nStraße\naxb\na.b\n(\n")
    assert call("text.lines", path="t.txt", **{"with": text}).stdout == found
    assert "ERROR\nStr" in call("text.lines", path="t.txt", ignore_case=False, without="error").stdout


def test_numbers_are_sorted_as_people_read_them(call: Call, folder: Path) -> None:
    """A dash within a word is no minus, 1,200 is more than a thousand, and without a number is the end."""
    up = "-20\n-3 below\n2.25 b\n2.5 a\nfile-9 y\nfile-10 x\n1,200 z\nnone\n"
    assert call("text.lines", path="num.txt", sort="0-9").stdout == up
    down = call("text.lines", path="num.txt", sort="9-0").stdout.splitlines()
    assert down == [*reversed(up.splitlines()[:-1]), "none"]
    (folder / "ties.txt").write_text("2 b\n1 z\n2 a\n1 y\n")
    assert call("text.lines", path="ties.txt", sort="0-9").stdout == "1 z\n1 y\n2 b\n2 a\n"


@pytest.mark.parametrize("path", [{}, {"path": "-"}])
def test_piped_data_stands_for_the_file(call: Call, folder: Path, path: JsonObject) -> None:
    assert call("text.lines", data=b"b\r\na\r\nb", unique=True, sort="a-z", **path).stdout == "a\nb\n"
    assert call("text.lines", data=b"Zoe\nnew\n", not_in="n.txt", **path).stdout == "new\n"
    assert call("text.lines", data=b"a\0", **path).stderr == "the piped data is no text\n"
    assert call("text.lines", data=b"b\na", to="o.txt", sort="a-z", **path).exit_code == 0
    assert (folder / "o.txt").read_bytes() == b"a\nb\n"
    with pytest.raises(UsageError, match="no data was piped in"):
        call("text.lines", **path)


def test_a_named_file_goes_before_piped_data_even_if_its_name_is_a_dash(call: Call, folder: Path) -> None:
    (folder / "-").write_text("b\na\n")
    assert call("text.lines", data=b"x\n", path="./-").stdout == "b\na\n"
    assert call("text.lines", path="./-", sort="a-z", in_place=True).exit_code == 0
    assert (folder / "-").read_text() == "a\nb\n"


def test_a_pattern_takes_in_the_files_of_a_folder_as_a_shell_does(call: Call, folder: Path) -> None:
    for name, text in (("b.log", b"b1\nb2"), ("a.log", BOM + b"a1\r\n"), (".c.log", b"c\n")):
        (folder / name).write_bytes(text)
    (folder / "d.log").mkdir()
    assert call("text.lines", path="*.log").stdout == "a1\nb1\nb2\n"
    assert call("text.lines", path=".*.log").stdout == "c\n"
    assert call("text.lines", path=f"{folder}/?.log", count=True).stdout == "3\n"
    assert call("text.lines", path="*.log", to="all.txt").exit_code == 0
    assert (folder / "all.txt").read_bytes() == BOM + b"a1\r\nb1\r\nb2\r\n"
    (folder / "*.log").write_text("star\n")
    assert call("text.lines", path="*.log").stdout == "star\n"  # it is there by this very name
    assert call("text.lines", path="*.nix").stderr == "nothing matches *.nix\n"


@pytest.mark.parametrize("mark", [b"\f", b"\v", b"\x1c", b"\x85", "\u2028".encode(), "\x85".encode(), b"\r"])
def test_only_a_newline_ends_a_line(call: Call, folder: Path, mark: bytes) -> None:
    (folder / "t.txt").write_bytes(b"b" + mark + b"c\na\n")
    assert call("text.lines", path="t.txt", count=True).stdout == "2\n"
    assert call("text.lines", path="t.txt", sort="a-z", in_place=True).exit_code == 0
    assert (folder / "t.txt").read_bytes() == b"a\nb" + mark + b"c\n"


# --- what is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "args", "after"),
    [
        (b"b\na", {"sort": "a-z"}, b"a\nb\n"),  # a last line without an end gets one: b would join it
        (b"b\r\na\r\n\r\n", {"sort": "a-z", "drop_blank": True}, b"a\r\nb\r\n"),
        (b"b\r\na\nc\n", {"sort": "a-z"}, b"a\nb\nc\n"),  # as most lines end
        (BOM + b"b\na\n", {"sort": "a-z"}, BOM + b"a\nb\n"),  # the mark is no part of b
        (BOM + b"b\na\n", {"with": "^b", "regex": True}, BOM + b"b\n"),
        (b"\xe9t\xe9\nA\xff\n\xe9t\xe9\n", {"unique": True, "sort": "reverse"}, b"A\xff\n\xe9t\xe9\n"),
        (b"\xe9a\n", {"case": "upper"}, b"\xe9A\n"),
        (b"a \t\na\n  a\n", {"unique": True}, b"a \t\n  a\n"),  # as it stood, and a first blank counts
        (b"milk\nMilk 2\nbread\n", {"without": "milk"}, b"bread\n"),
        (b"milk\n", {"without": "milk"}, b""),  # the last thing is taken off the list
        (b"a\nb\na\nBob\n", {"not_in": "paid.txt"}, b"a\nb\na\n"),  # the file keeps what it has twice
        (b"anna\nx\nanna\nBob\n", {"also_in": "paid.txt"}, b"anna\nanna\nBob\n"),
        (b"anna\nx\nanna\nBob\n", {"also_in": "paid.txt", "unique": True}, b"anna\nBob\n"),
        (b"a\nb\na\nb\na\nc\n", {"occurs": "several"}, b"a\nb\n"),
        (b"B1\nb2\nc\n", {"with": "b", "sort": "reverse", "first": 1, "case": "upper"}, b"B2\n"),
        ("王\n李\n王\n".encode(), {"unique": True}, "王\n李\n".encode()),
    ],
)
def test_it_is_written_back(call: Call, folder: Path, before: bytes, args: JsonObject, after: bytes) -> None:
    file = folder / "f.txt"
    file.write_bytes(before)
    file.chmod(0o640)
    outcome = call("text.lines", path="f.txt", in_place=True, **args)
    now = "1 line" if after.count(b"\n") == 1 else f"{after.count(10)} lines"
    assert outcome.stdout == f"f.txt has {now} now, {len(before.splitlines())} before\n"
    assert file.read_bytes() == after and stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"with": "a"}, "every line of f.txt has a"),
        ({"without": "milc", "sort": "z-a"}, "no line of f.txt has milc"),
        ({"not_in": "f.txt"}, "compared with itself"),
        ({"without": "milc"}, "no line of f.txt has milc"),
        # A slip of the keyboard must not empty the file.
        ({"with": "bananna"}, "no line of f.txt fits"),
        ({"also_in": "paid.txt"}, "no line of f.txt fits"),
        ({"occurs": "several"}, "no line of f.txt fits"),
        ({"with": "(", "regex": True}, "( is no regular expression"),
        ({"without": "a{99999999999}", "regex": True}, "is no regular expression"),
        ({"not_in": "gone.txt"}, "gone.txt: No such file"),
        ({"also_in": "nul.bin"}, "nul.bin is no text"),
        ({"not_in": "."}, "Is a directory"),
    ],
)
def test_a_slip_leaves_the_file_untouched(call: Call, folder: Path, args: JsonObject, why: str) -> None:
    file = folder / "f.txt"
    file.write_bytes(b"banana\r\nsalad")
    (folder / "nul.bin").write_bytes(b"a\0b\n")
    outcome = call("text.lines", path="f.txt", in_place=True, **args)
    assert outcome.exit_code == 1 and why in outcome.stderr and outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1 and file.read_bytes() == b"banana\r\nsalad"


def test_files_that_are_no_text_or_not_there_are_told(call: Call, folder: Path) -> None:
    (folder / "nul.bin").write_bytes(b"a\0b\n")
    (folder / "empty.txt").touch()
    assert call("text.lines", path="nul.bin").stderr == "nul.bin is no text\n"
    assert "No such file" in call("text.lines", path="gone.txt").stderr
    assert "No such file" in call("text.lines", path="gone/*.txt", sort="a-z").stderr
    assert ". is a folder" in call("text.lines", path=".").stderr
    os.mkfifo(folder / "pipe.txt")
    assert "no regular file" in call("text.lines", path="pipe.txt").stderr
    (folder / "wide.txt").write_text("a\n", encoding="utf-16")
    assert "iconv -f utf-16" in call("text.lines", path="wide.txt").stderr
    assert call("text.lines", path="empty.txt", sort="a-z").stdout == "There are no lines.\n"
    assert call("text.lines", path="empty.txt", count=True).stdout == "0\n"
    nothing = call("text.lines", path="empty.txt", in_place=True, **{"with": "a"})
    assert nothing.stderr == "no line of empty.txt has a, so nothing was changed\n"
    assert "*.txt is a pattern" in call("text.lines", path="*.txt", sort="a-z", in_place=True).stderr
    assert (folder / "n.txt").read_text() == NAMES


def test_a_new_file_is_written_and_an_old_one_only_if_it_is_said(call: Call, folder: Path) -> None:
    told = {"path": "n.txt", "with": "bob"}
    assert call("text.lines", **told, to="new/deep/b.txt").stdout == "new/deep/b.txt has 2 lines now\n"
    assert (folder / "new/deep/b.txt").read_bytes() == b"Bob\nbob 12\n"
    assert "exists already" in call("text.lines", **told, to="paid.txt").stderr
    assert (folder / "paid.txt").read_text() == PAID
    assert call("text.lines", **told, to="paid.txt", overwrite=True).exit_code == 0
    assert (folder / "paid.txt").read_text() == "Bob\nbob 12\n"
    for place in ("new", "new/", "other/"):
        assert "is a folder" in call("text.lines", **told, to=place, overwrite=True).stderr
    assert not (folder / "other").exists()
    assert call("text.lines", **told, to="n.csv", count=True).exit_code == 0
    assert (folder / "n.csv").read_text() == "2\n"
    none = call("text.lines", path="n.txt", to="none.txt", **{"with": "nobody"})
    assert none.stdout == "none.txt has 0 lines now\n"
    assert call("text.lines", **told, to="n.txt", overwrite=True).exit_code == 0  # onto itself
    assert (folder / "n.txt").read_text() == "Bob\nbob 12\n"


def test_a_look_is_read_only_and_what_is_written_is_named(tools: Catalog, here: Context) -> None:
    a, b, c, new_one = (f"{here.cwd}/{name}.txt" for name in ("a", "b", "c", "x/y"))
    look = planned(tools, here, path="a.txt", also_in="b.txt", not_in="c.txt")
    assert look.read_only and look.whole
    assert (look.effects.reads, look.effects.writes) == ((a, b, c), ())
    piped = planned(tools, here, has_data=True, also_in="b.txt")
    assert piped.read_only and piped.effects.reads == (b,)
    back = planned(tools, here, path="a.txt", sort="a-z", in_place=True)
    assert (back.read_only, back.effects.reads, back.effects.writes) == (False, (a,), (a,))
    new = planned(tools, here, path="a.txt", to="x/y.txt")
    assert (new.read_only, new.effects.writes, len(new.steps)) == (False, (new_one,), 2)


def test_the_command_says_what_was_told_to_the_letter(tools: Catalog, here: Context) -> None:
    """A person consents to it: v1.0 is not v1, and what goes without saying would hide the rest."""
    told = planned(tools, here, path="a b.txt", without="v1.0", ignore_case=False, in_place=True)
    assert told.command == "text.lines 'path=a b.txt' without=v1.0 ignore_case=False in_place=True"
    assert planned(tools, here, path="a", **{"with": "any"}).command == "text.lines path=a with=any"


@pytest.mark.parametrize("more", [{"to": "b.txt"}, {"count": True}, {"path": "-"}, {"path": None}])
def test_only_one_file_is_written_back(tools: Catalog, here: Context, more: JsonObject) -> None:
    with pytest.raises(UsageError, match="in_place"):
        planned(tools, here, has_data=True, **{"path": "a.txt", "in_place": True, **more})


def test_the_file_itself_as_the_new_one_is_the_same_as_in_place(call: Call, folder: Path) -> None:
    (folder / "m.txt").write_text("b\na\n")
    slip = call("text.lines", path="m.txt", to="m.txt", overwrite=True, **{"with": "typo"})
    assert slip.exit_code == 1 and (folder / "m.txt").read_text() == "b\na\n"
    assert call("text.lines", path="m.txt", to="m.txt", overwrite=True, sort="a-z").exit_code == 0
    assert (folder / "m.txt").read_text() == "a\nb\n"


def test_a_pattern_does_not_take_in_what_is_written(call: Call, folder: Path) -> None:
    (folder / "p1.lst").write_text("a\n")
    (folder / "p2.lst").write_text("b\n")
    for _ in range(2):
        call("text.lines", path="*.lst", to="pall.lst", overwrite=True)
        assert (folder / "pall.lst").read_text() == "a\nb\n"


@pytest.mark.parametrize(
    ("pattern", "left"), [("^[[:space:]]*$", "x1 ä\n"), ("[[:alpha:]]", " \n"), ("[^[:alnum:]_]", "")]
)
def test_classes_of_grep_are_known(call: Call, folder: Path, pattern: str, left: str) -> None:
    (folder / "c.txt").write_text("x1 ä\n \n")
    call("text.lines", path="c.txt", without=pattern, regex=True, to="c2.txt")
    assert (folder / "c2.txt").read_text() == left


_LINE = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\ufeff"), max_size=3)
_ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_FEW = st.lists(st.sampled_from(["a", "A", "b", "b ", "", "-1", "1"]), max_size=12) | st.lists(
    _LINE, max_size=12
)


def written(folder: Path, source: list[str], **args: Any) -> list[str]:
    """The lines of the new file, by the program in this process."""
    (folder / "s.txt").write_text("".join(f"{line}\n" for line in source), newline="")
    place = {"path": str(folder / "s.txt"), "name": "s.txt", "to": str(folder / "t.txt"), "to_name": "t.txt"}
    said = {"occurs": "any", "case": "keep", "sort": "none", "overwrite": True, **args}
    assert lines.main(defaultdict(lambda: None, place | said)) == 0
    return (folder / "t.txt").read_bytes().decode().split("\n")[:-1]


@_ANY
@given(source=_FEW)
def test_each_line_once_keeps_the_order(folder: Path, source: list[str]) -> None:
    once = written(folder, source, unique=True)
    kept = dict.fromkeys(line.rstrip() for line in source)
    assert [line.rstrip() for line in once] == list(kept) and set(once) <= set(source)


@_ANY
@given(source=_FEW, other=_FEW)
def test_two_lists_part_the_lines(folder: Path, source: list[str], other: list[str]) -> None:
    (folder / "o.txt").write_text("".join(f"{line}\n" for line in other), newline="")
    both, left = (written(folder, source, **{name: str(folder / "o.txt")}) for name in ("also_in", "not_in"))
    assert {line.rstrip() for line in both} == set(map(str.rstrip, source)) & set(map(str.rstrip, other))
    assert Counter(both + left) == Counter(written(folder, source, unique=True))


@_ANY
@given(source=_FEW, order=st.sampled_from(["a-z", "z-a", "0-9", "9-0", "reverse"]))
def test_sorted_lines_are_the_same_lines(folder: Path, source: list[str], order: str) -> None:
    ordered = written(folder, source, sort=order)
    assert Counter(ordered) == Counter(source)
    assert written(folder, ordered, sort=order) == (source if order == "reverse" else ordered)
