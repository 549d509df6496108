"""Archives there and back, and hostile ones: refused before anything is written."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmos.errors import UsageError
from llmos.toolbox.context import Context

from .conftest import Call

MEGA = 1 << 20


@pytest.fixture
def folder(here: Context) -> Path:
    return Path(here.cwd)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, target, mode, kind == tarfile.REGTYPE
    return info


def tar(path: Path, *members: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w") as packed:
        for info in members:
            packed.addfile(info, io.BytesIO(b"x"))


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, target)


def left(folder: Path) -> list[str]:
    """Everything that an extraction left, in or beside the folder it was for."""
    out = folder / "out"
    beside = {path.name for path in folder.parent.iterdir()} - {"here", "home"}
    return [*(str(path) for path in out.rglob("*")), *beside] if out.exists() else [*beside]


# --- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".tar", ".tgz", ".tar.bz2", ".txz", ".tar.zst", ".zip"])
def test_a_folder_goes_there_and_back_with_odd_names_modes_and_holes(
    call: Call, folder: Path, ending: str
) -> None:
    source = folder / "in put"
    (source / "deep").mkdir(parents=True)
    for name in ("-dash", "new\nline", "日本 語", "q'uo\"te"):
        (source / "deep" / name).write_text(name)
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "to run").symlink_to("run")
    assert call("file.archive", action="create", archive=f"a{ending}", path="in put").exit_code == 0
    listing = call("file.archive", action="list", archive=f"a{ending}").stdout
    assert r"new\nline" in listing and "entries" in listing.splitlines()[-1]
    outcome = call("file.archive", action="extract", archive=f"a{ending}", to="out")
    assert (outcome.exit_code, outcome.stderr) == (0, ""), outcome
    back = folder / "out/in put"
    assert {path.name for path in (back / "deep").iterdir()} == {p.name for p in (source / "deep").iterdir()}
    assert os.access(back / "run", os.X_OK) and os.readlink(back / "to run") == "run"
    assert abs((back / "run").stat().st_mtime - (source / "run").stat().st_mtime) <= 2


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_one_file_is_compressed_and_back(call: Call, folder: Path, ending: str) -> None:
    (folder / "a.log").write_text("line\n" * 1000)
    assert call("file.archive", action="create", archive=f"a.log{ending}", path="a.log").exit_code == 0
    assert (folder / "a.log").exists() and (folder / f"a.log{ending}").stat().st_size < 500
    again = call("file.archive", action="create", archive=f"a.log{ending}", path="a.log")
    assert again.exit_code == 1 and "exists already" in again.stderr
    assert call("file.archive", action="extract", archive=f"a.log{ending}", to="out").exit_code == 0
    assert (folder / "out/a.log").read_text() == "line\n" * 1000
    (folder / "sub").mkdir()
    folded = call("file.archive", action="create", archive=f"sub{ending}", path="sub")
    assert folded.exit_code != 0 and not (folder / f"sub{ending}").exists()


def test_a_sparse_file_stays_sparse(call: Call, folder: Path) -> None:
    with (folder / "disk.img").open("wb") as file:
        file.truncate(128 * MEGA)
        file.seek(64 * MEGA)
        file.write(b"data")
    assert call("file.archive", action="create", archive="d.tar", path="disk.img").exit_code == 0
    assert (folder / "d.tar").stat().st_size < MEGA
    outcome = call("file.archive", action="extract", archive="d.tar", to="out")
    assert outcome.exit_code == 0, outcome
    out = (folder / "out/disk.img").stat()
    assert out.st_size == 128 * MEGA and out.st_blocks * 512 < 4 * MEGA


def test_the_content_tells_the_kind_not_the_name(call: Call, folder: Path) -> None:
    (folder / "f").write_text("text")
    tar(folder / "really-a-tar.zip", member("f"))
    assert "1 entry" in call("file.archive", action="list", archive="really-a-tar.zip").stdout
    refused = call("file.archive", action="list", archive="f")
    assert refused.exit_code == 1 and "no archive of a known kind" in refused.stderr


def test_set_id_bits_and_the_rights_of_others_are_dropped_and_said(call: Call, folder: Path) -> None:
    tar(folder / "s.tar", member("suid", mode=0o6777), member("unreadable", mode=0))
    outcome = call("file.archive", action="extract", archive="s.tar", to="out")
    assert outcome.exit_code == 0 and "1 file would have run as its owner" in outcome.stdout
    assert stat.S_IMODE((folder / "out/suid").stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "out/unreadable").stat().st_mode) == 0o600


def test_links_within_an_archive_are_kept(call: Call, folder: Path) -> None:
    hard = member("second", tarfile.LNKTYPE, "a/file")
    tar(folder / "l.tar", link("first", "a/file"), member("a/file"), hard, link("a/up", "../first"))
    assert call("file.archive", action="extract", archive="l.tar", to="out").exit_code == 0
    out = folder / "out"
    assert (out / "second").samefile(out / "a/file") and (out / "a/up").read_text() == "x"


# --- hostile ---------------------------------------------------------------------------------------

HOSTILE: dict[str, tuple[tarfile.TarInfo, ...]] = {
    "an absolute name": (member("good"), member("/tmp/evil")),
    "dots": (member("good"), member("a/../../evil")),
    "a link out": (member("good"), link("l", "../..")),
    "an absolute link": (member("good"), link("l", "/etc")),
    "through a link": (link("d", "/tmp"), member("d/evil")),
    "through a link inside": (member("e/f"), link("d", "e"), member("d/evil")),
    "a chain of links": (member("x/y/z"), link("q", "x/y"), link("b", "q/../../..")),
    "a link to itself": (link("b", "b/../.."),),
    "a hard link out": (member("good"), member("h", tarfile.LNKTYPE, "../../etc/passwd")),
    "a hard link to a link": (link("l", "good"), member("good"), member("h", tarfile.LNKTYPE, "l")),
    "a device": (member("good"), member("sda", tarfile.BLKTYPE)),
    "a pipe": (member("good"), member("pipe", tarfile.FIFOTYPE)),
    "a name twice": (link("a", "b"), member("a")),
    "a file as a folder": (member("a"), member("a/b")),
}


@pytest.mark.parametrize(
    ("what", "ending"),
    [*((what, ".tar") for what in HOSTILE), ("a link out", ".tar.zst"), ("through a link", ".tar.zst")],
)
def test_a_hostile_tar_writes_nothing(call: Call, folder: Path, what: str, ending: str) -> None:
    tar(folder / "evil.tar", *HOSTILE[what])
    if ending == ".tar.zst":
        subprocess.run(("zstd", "-q", folder / "evil.tar"), check=True)
    outcome = call("file.archive", action="extract", archive=f"evil{ending}", to="out")
    assert outcome.exit_code == 1 and outcome.stderr.startswith(f"evil{ending}: "), outcome
    assert not left(folder) and not os.path.lexists("/tmp/evil")


def test_a_zst_that_is_a_bomb_or_cut_short_writes_nothing(call: Call, folder: Path) -> None:
    with (folder / "zeros").open("wb") as file:
        file.truncate(300 << 20)
    subprocess.run(("zstd", "-q", folder / "zeros"), check=True)
    (folder / "zeros").write_bytes(os.urandom(300_000))
    subprocess.run(("zstd", "-q", folder / "zeros", "-o", folder / "cut.zst"), check=True)
    os.truncate(folder / "cut.zst", 200_000)
    (folder / "zeros").unlink()
    (folder / "junk.tar.zst").write_text("junk")
    for name, said in (("zeros.zst", "a bomb"), ("cut.zst", "premature end"), ("junk.tar.zst", "zstd:")):
        outcome = call("file.archive", action="extract", archive=name, to="out")
        assert outcome.exit_code == 1 and said in outcome.stderr and not left(folder), outcome
    assert call("file.archive", action="list", archive="cut.zst").exit_code == 1


def test_a_hostile_zip_writes_nothing(call: Call, folder: Path) -> None:
    leaf = zipfile.ZipInfo("l")
    leaf.external_attr = (stat.S_IFLNK | 0o777) << 16
    entries: list[tuple[str | zipfile.ZipInfo, str]] = [("../evil", "x"), ("/evil", "x"), (leaf, "/etc")]
    for entry, content in entries:
        with zipfile.ZipFile(folder / "e.zip", "w") as packed:
            packed.writestr("good", "x")
            packed.writestr(entry, content)
        outcome = call("file.archive", action="extract", archive="e.zip", to="out")
        assert outcome.exit_code == 1 and not left(folder), outcome


def test_a_link_that_was_there_before_is_not_written_through(call: Call, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/d").symlink_to(folder.parent)
    tar(folder / "e.tar", member("d/evil"))
    outcome = call("file.archive", action="extract", archive="e.tar", to="out")
    assert outcome.exit_code == 1 and not (folder.parent / "evil").exists()


def _zeros(stream: io.BufferedIOBase | gzip.GzipFile | object, megabytes: int) -> None:
    for _ in range(megabytes):
        stream.write(bytes(MEGA))  # type: ignore[union-attr]


def _gz(path: Path) -> None:
    with gzip.open(path, "wb", 1) as packed:
        _zeros(packed, 80)


def _tgz(path: Path) -> None:
    zeros = member("zeros")
    zeros.size = 80 * MEGA
    with tarfile.open(path, "w:gz", compresslevel=1) as packed:
        packed.addfile(zeros, io.BytesIO(bytes(80 * MEGA)))


def _zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(80 * MEGA))


@pytest.mark.parametrize(("name", "make"), [("b.gz", _gz), ("b.tgz", _tgz), ("b.zip", _zipped)])
def test_a_bomb_is_refused_until_somebody_says_how_much_it_may_take(
    call: Call, folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(folder / name)
    refused = call("file.archive", action="extract", archive=name, to="out")
    assert refused.exit_code == 1 and "as a bomb does" in refused.stderr and not left(folder)
    small = call("file.archive", action="extract", archive=name, to="out", limit="10M")
    assert small.exit_code == 1 and "more than 10.0M" in small.stderr and not left(folder)
    assert call("file.archive", action="extract", archive=name, to="out", limit="100M").exit_code == 0
    assert max(path.stat().st_size for path in (folder / "out").iterdir()) == 80 * MEGA


def test_damaged_and_missing_archives_are_said_in_a_sentence(call: Call, folder: Path) -> None:
    (folder / "big").write_bytes(os.urandom(MEGA))
    for name in ("a.tgz", "a.zip", "a.tar.zst"):
        call("file.archive", action="create", archive=name, path="big")
        (folder / name).write_bytes((folder / name).read_bytes()[: MEGA // 2])
        outcome = call("file.archive", action="extract", archive=name, to="out")
        assert outcome.exit_code == 1 and "Traceback" not in outcome.stderr and not left(folder), outcome
    missing = call("file.archive", action="list", archive="none.zip")
    assert missing.exit_code == 1 and missing.stderr == "none.zip: there is no such file\n"


def test_what_stands_there_is_named_and_nothing_is_extracted(call: Call, folder: Path) -> None:
    tar(folder / "a.tar", member("one"), member("two"))
    (folder / "two").write_text("mine")
    outcome = call("file.archive", action="extract", archive="a.tar")
    assert outcome.exit_code == 1 and "two" in outcome.stderr and "already" in outcome.stderr
    assert (folder / "two").read_text() == "mine" and not (folder / "one").exists()


@pytest.mark.parametrize("ending", [".tar.gz", ".zip", ".tar.zst"])
def test_what_stands_there_with_the_very_content_is_left_as_it_is(
    call: Call, folder: Path, ending: str
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/one").write_text("1\n")
    (folder / "sub/two").write_text("2\n")
    assert call("file.archive", action="create", archive=f"a{ending}", path="sub").exit_code == 0
    (folder / "sub/two").unlink()
    before = (folder / "sub/one").stat().st_ino
    outcome = call("file.archive", action="extract", archive=f"a{ending}")
    assert outcome.exit_code == 0 and "1 file stood there already" in outcome.stdout, outcome
    assert (folder / "sub/two").read_text() == "2\n" and (folder / "sub/one").stat().st_ino == before
    (folder / "sub/one").write_text("x\n")
    assert call("file.archive", action="extract", archive=f"a{ending}").exit_code == 1
    assert (folder / "sub/one").read_text() == "x\n"


def test_an_archive_without_a_name_is_named_after_what_goes_in(call: Call, folder: Path) -> None:
    (folder / "dump.sql").write_text("select 1;\n" * 100)
    assert call("file.archive", action="create", path="dump.sql").stdout == "created dump.sql.gz\n"
    (folder / "site").mkdir()
    (folder / "site/index").write_text("hello")
    assert call("file.archive", action="create", path="site/").stdout == "created site.tar.gz\n"
    found = call("file.archive", action="create", path="*.sql", archive="dumps.zip")
    assert found.stdout == "created dumps.zip\n"
    assert "site/index" in call("file.archive", action="list", archive="site.tar.gz").stdout
    again = call("file.archive", action="create", path="dump.sql")
    assert again.exit_code == 1 and "exists already" in again.stderr
    for args in ({"action": "create", "path": "*.txt"}, {"action": "extract"}):
        with pytest.raises(UsageError, match="`archive`: it is missing"):
            call("file.archive", **args)
