"""Files as a set, their permissions and links: judged by what is in the folder afterwards."""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from pathlib import Path

import pytest

from llmos.errors import CallFailed, UsageError
from llmos.messages import Caller, Change, ToolCall
from llmos.toolbox import attributes, links
from llmos.toolbox.catalog import Catalog
from llmos.toolbox.context import Context

from .conftest import Call

ME = Caller(uid=os.geteuid(), gid=os.getegid())


@pytest.fixture
def folder(here: Context) -> Path:
    return Path(here.cwd)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(name)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# --- rename ----------------------------------------------------------------------------------------


def test_names_are_changed_and_the_contents_go_along(call: Call, folder: Path) -> None:
    fill(folder, "a b.txt", "-c d.txt", "new\nline x.txt", ".h x.txt", "other")
    told = call("file.rename", path="*.txt", find=" ", replace="_")
    assert told.exit_code == 0 and r"new\nline x.txt -> new\nline_x.txt" in told.stdout
    assert names(folder) == {"a_b.txt", "-c_d.txt", "new\nline_x.txt", ".h x.txt", "other"}
    assert (folder / "a_b.txt").read_text() == "a b.txt"


def test_a_preview_changes_nothing_and_is_read_only(call: Call, tools: Catalog, here: Context) -> None:
    folder = Path(here.cwd)
    fill(folder, "a1")
    args = {"path": "*", "find": "1", "replace": "2", "preview": True}
    assert "a1 -> a2" in call("file.rename", **args).stdout and names(folder) == {"a1"}
    assert tools.plan(ToolCall(tool="file.rename", args=args), here).read_only
    args["preview"] = False
    assert not tools.plan(ToolCall(tool="file.rename", args=args), here).read_only


@pytest.mark.parametrize(
    ("find", "replace", "regex", "told"),
    [
        (r"\d", "", True, "would both be called"),
        ("n1", "n2", False, "would replace what is there already: n2.jpg"),
        ("n1.jpg", "", False, "no name for a file"),
        ("n", "a/b", False, "no name for a file"),
        ("n1", "x" * 300, False, "no name for a file"),
        ("zzz", "", False, "None of 3 names has"),
        ("(", "", True, "no regular expression"),
        ("n", r"\9", True, "no regular expression"),
    ],
)
def test_what_cannot_be_is_refused_whole(
    call: Call, folder: Path, find: str, replace: str, regex: bool, told: str
) -> None:
    fill(folder, "n1.jpg", "n2.jpg", "n3.jpg")
    outcome = call("file.rename", path="*.jpg", find=find, replace=replace, regex=regex)
    assert outcome.exit_code == 1 and told in outcome.stderr, outcome
    assert names(folder) == {"n1.jpg", "n2.jpg", "n3.jpg"}


def test_names_may_move_up_one_and_groups_are_taken_over(call: Call, folder: Path) -> None:
    fill(folder, "a", "aa", "aaa")
    assert call("file.rename", path="*", find="^(a+)$", replace="$1a", regex=True).exit_code == 0
    assert {name: (folder / name).read_text() for name in names(folder)} == {
        "aa": "a",
        "aaa": "aa",
        "aaaa": "aaa",
    }
    (folder / "sub").mkdir()
    fill(folder / "sub", "x1")
    assert call("file.rename", path="sub", find="x", replace="y").exit_code == 0  # what is in the folder
    assert call("file.rename", path="su*", find="sub", replace="top").exit_code == 0  # the folder itself
    assert names(folder / "top") == {"y1"}
    assert "Nothing matches" in call("file.rename", path="*.png", find="a", replace="b").stderr
    with pytest.raises(UsageError, match="find"):
        call("file.rename", path="*", find="", replace="b")


# --- duplicates, checksums, folders ----------------------------------------------------------------


def test_duplicates_are_found_by_content_largest_first(call: Call, folder: Path) -> None:
    (folder / "deep").mkdir()
    big, other = b"x" * 100_000, b"x" * 99_999 + b"y"
    for name, content in (("big1", big), ("deep/big 2\n", big), ("other", other), ("s1", b"a"), ("s2", b"a")):
        (folder / name).write_bytes(content)
    (folder / "empty1").touch()
    (folder / "empty2").touch()
    os.link(folder / "other", folder / "second name")
    (folder / "broken").symlink_to("nowhere")
    lines = call("file.duplicates").stdout.splitlines()
    assert lines[:3] == ["2 × 97.7K", "  big1", r"  deep/big 2\n"] and lines[3:6] == [
        "2 × 1 B",
        "  s1",
        "  s2",
    ]
    assert "2 duplicates" in lines[6] and len(lines) == 7
    assert "  s1" not in call("file.duplicates", larger_than="1K").stdout
    assert call("file.duplicates", path="deep").stdout == "No two files have the same content.\n"
    assert call("file.duplicates", path="nowhere").exit_code == 2


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5", "blake2"])
def test_checksums_are_computed_and_compared(call: Call, folder: Path, kind: str) -> None:
    fill(folder, "-a\nb")
    right = hashlib.new(kind.replace("blake2", "blake2b"), b"-a\nb").hexdigest()
    assert call("file.checksum", path="-a\nb", algorithm=kind).stdout.startswith(right)
    for expect in (right, right[:12].upper(), f"{kind}:{right}"):
        outcome = call("file.checksum", path="-a\nb", algorithm=kind, expect=expect)
        assert outcome.exit_code == 0 and "matches" in outcome.stdout
    wrong = call("file.checksum", path="-a\nb", algorithm=kind, expect="0" * len(right))
    assert wrong.exit_code == 1 and "DIFFERS" in wrong.stdout
    assert "matches" in call("file.checksum", path="-a\nb", expect=right).stdout  # its length says which
    with pytest.raises(UsageError, match="hexadecimal"):
        call("file.checksum", path="-a\nb", expect="hello")


def test_folders_are_made_and_those_above(call: Call, folder: Path) -> None:
    assert call("file.mkdir", path="-a/b c").stdout == "created -a/b c\n" and (folder / "-a/b c").is_dir()
    assert "exists already" in call("file.mkdir", path="-a").stdout
    fill(folder, "file")
    assert call("file.mkdir", path="file/x").exit_code == 1


# --- permissions and owners ------------------------------------------------------------------------


def test_permissions_are_shown_with_owner_and_set(call: Call, folder: Path) -> None:
    fill(folder, "-x.sh", "b.sh")
    (folder / "b.sh").chmod(0o640)
    (folder / "to b").symlink_to("b.sh")
    me = pwd.getpwuid(os.geteuid()).pw_name
    (line,) = call("file.permissions", path="b.sh").stdout.splitlines()
    assert line.split()[:3] == ["640", "-rw-r-----", me]
    assert "to b -> b.sh" in call("file.permissions", path=".", recursive=True).stdout
    call("file.permissions", path="*.sh", mode="u+x,go-rwx")
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("-x.sh", "b.sh")} == {
        0o700,
        0o744 & 0o700,
    }
    assert "so already" in call("file.permissions", path="b.sh", mode="u+x").stdout
    (folder / "d").mkdir()
    fill(folder / "d", "f")
    call("file.permissions", path="d", mode="750", recursive=True)
    assert stat.S_IMODE((folder / "d/f").stat().st_mode) == 0o750
    with pytest.raises(CallFailed, match="No such file"):
        call("file.permissions", path="missing")


@pytest.mark.parametrize(
    "mode", ["4755", "u+s", "2755", "888", "executable", "--reference=x", "-R", "7" * 9, ""]
)
def test_no_other_mode_is_taken(call: Call, folder: Path, mode: str) -> None:
    fill(folder, "a")
    with pytest.raises(UsageError, match=r"file\.permissions"):
        call("file.permissions", path="a", mode=mode)


@pytest.mark.root
def test_an_owner_is_given_and_given_back(folder: Path, tools: Catalog, here: Context) -> None:
    (folder / "d").mkdir()
    fill(folder, "d/f", "outside")
    (folder / "d/link").symlink_to("../outside")
    args = {"path": "d", "owner": "nobody", "recursive": True}
    (step,) = tools.plan(ToolCall(tool="file.permissions", args=args), here).steps
    assert isinstance(step, Change)
    done = attributes.change_owner(step.args, ME)
    nobody = pwd.getpwnam("nobody").pw_uid
    assert {(folder / name).lstat().st_uid for name in ("d", "d/f", "d/link")} == {nobody}
    assert (folder / "outside").stat().st_uid == 0
    (back,) = done.reverse
    assert isinstance(back, Change)
    attributes.change_owner(back.args, ME)
    assert {(folder / name).lstat().st_uid for name in ("d", "d/f", "d/link")} == {0}
    with pytest.raises(CallFailed, match="administrator"):
        attributes.change_owner(step.args, Caller(uid=4242, gid=4242))


# --- links -----------------------------------------------------------------------------------------


def test_a_link_leads_where_it_was_said_from_wherever_it_lies(call: Call, folder: Path) -> None:
    fill(folder, "-a")
    assert call("file.link", target="-a", link="deep/er/l").exit_code == 0
    assert (folder / "deep/er/l").read_text() == "-a" and os.readlink(folder / "deep/er/l") == "../../-a"
    assert call("file.link", target="-a", link="deep/").exit_code == 0 and (folder / "deep/-a").exists()
    assert "exists already" in call("file.link", target="-a", link="deep").stderr
    assert "broken" in call("file.link", target="missing", link="b").stdout
    assert (
        call("file.link", target="/etc", link="etc").exit_code == 0 and os.readlink(folder / "etc") == "/etc"
    )


def test_a_hard_link_is_a_name_more_and_is_taken_back_while_it_is_one(folder: Path) -> None:
    fill(folder, "a", "b")
    args = {"target": str(folder / "a"), "link": str(folder / "l")}
    (back,) = links.change_hard_link(args, ME).reverse
    assert (folder / "l").samefile(folder / "a")
    assert isinstance(back, Change)
    (again,) = links.change_hard_link(back.args, ME).reverse
    assert not (folder / "l").exists() and isinstance(again, Change)
    links.change_hard_link(again.args, ME)
    (folder / "l").unlink()
    os.link(folder / "b", folder / "l")
    for wrong in (back.args, args, {**args, "target": str(folder)}, {**args, "target": "/nowhere"}):
        with pytest.raises(CallFailed):
            links.change_hard_link(wrong, ME)
    assert (folder / "l").samefile(folder / "b")
