"""Commands on a copy-on-write view: they see their changes, the real folder does not."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos.errors import NoPreview
from llmos.guard import staging
from llmos.guard.permit import mint
from llmos.guard.staging import Stage
from llmos.messages import Effects, Outcome, Plan, Shell, ToolCall, new_id
from tests.guard.boxes import VERDICT, Bench


@pytest.fixture
def stage(bench: Bench, isolated_home: Path) -> Iterator[Stage]:
    made = staging.create(new_id(), [str(bench.folder)])
    yield made
    made.discard()


def run(bench: Bench, stage: Stage, *texts: str) -> Outcome:
    steps = tuple(Shell(text=text, timeout_s=20) for text in texts)
    plan = Plan(call=ToolCall(tool="x"), command="x", effects=Effects(), steps=steps, read_only=False)
    granted = mint(
        plan, VERDICT, bench.caller, request_id=new_id(), cwd=str(bench.folder),
        write_roots=stage.write_roots, stage=str(stage.folder),
    )  # fmt: skip
    return asyncio.run(bench.spawner.run(granted))


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about everything in a folder."""
    found = {}
    for top, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            place = os.path.join(top, name)
            seen = os.lstat(place)
            content = Path(place).read_bytes() if os.path.isfile(place) and not os.path.islink(place) else b""
            found[place] = (
                seen.st_ino,
                seen.st_mode,
                seen.st_uid,
                seen.st_mtime_ns,
                seen.st_ctime_ns,
                content,
            )
    return found


@pytest.mark.sandbox
def test_the_command_sees_its_changes_and_the_folder_stays_as_it_was(bench: Bench, stage: Stage) -> None:
    bench.make("notes.txt", "one\n")
    bench.make("old/x", "x")
    before = snapshot(bench.folder)
    outcome = run(
        bench,
        stage,
        "echo two >> notes.txt; rm -r old; mkdir new; echo hi > new/f; chmod 600 notes.txt; ln -s /etc new/l",
        "cat notes.txt new/f; ls; touch again",
    )
    assert (outcome.exit_code, outcome.stdout) == (0, "one\ntwo\nhi\nnew\nnotes.txt\n"), outcome.stderr
    assert snapshot(bench.folder) == before
    upper = stage.upper(0)
    assert sorted(os.listdir(upper)) == ["again", "new", "notes.txt", "old"]
    # On disk, what was written is the caller's own, root's not the stand-in's.
    assert {os.lstat(upper / name).st_uid for name in ("again", "new", "notes.txt")} == {bench.caller.uid}


@pytest.mark.sandbox
def test_a_write_root_that_is_a_file_opens_that_file_alone(bench: Bench, isolated_home: Path) -> None:
    file = bench.make("only.txt", "one\n")
    bench.make("other.txt", "x\n")
    stage = staging.create(new_id(), [str(file)])
    outcome = run(bench, stage, "echo two >> only.txt; cat only.txt; echo y >> other.txt")
    assert outcome.stdout == "one\ntwo\n" and "Read-only" in outcome.stderr
    assert file.read_text() == "one\n"
    assert os.listdir(stage.upper(0)) == ["only.txt"]
    stage.discard()


@pytest.mark.sandbox
def test_names_that_overlayfs_would_parse_are_only_names(bench: Bench, isolated_home: Path) -> None:
    folder = bench.folder / "a:b,lowerdir=c\\d\ne"
    folder.mkdir()
    bench.own()
    stage = staging.create(new_id(), [str(folder)])
    assert run(bench, stage, f"echo x > '{folder}/f'").exit_code == 0
    assert os.listdir(folder) == [] and os.listdir(stage.upper(0)) == ["f"]
    stage.discard()


@pytest.mark.root
@pytest.mark.sandbox
def test_hard_links_stay_one_file_in_the_view(own_bench: Bench, isolated_home: Path) -> None:
    file = own_bench.make("a", "one\n")
    os.link(file, own_bench.folder / "b")
    stage = staging.create(new_id(), [str(own_bench.folder)])
    assert run(own_bench, stage, "echo two >> a; cat b").stdout == "one\ntwo\n"
    assert file.read_text() == "one\n"
    stage.discard()


def test_a_stage_is_gone_when_discarded_and_a_forgotten_one_at_the_next_start(
    tmp_path: Path, isolated_home: Path
) -> None:
    mine = staging.create("mine", [str(tmp_path)])
    forgotten = staging.create("forgotten", [str(tmp_path)])
    (forgotten.upper(0) / "locked").mkdir(mode=0)
    os.close(forgotten.lock_fd)
    assert staging.clear_forgotten() == 1
    assert [place.name for place in staging.stages_dir().iterdir()] == ["mine"]
    mine.discard()
    mine.discard()
    assert not list(staging.stages_dir().iterdir())


def test_what_has_no_view_says_why(isolated_home: Path) -> None:
    with pytest.raises(NoPreview, match="/proc/self/fd"):
        staging._root("/proc/self/fd")
    with pytest.raises(NoPreview, match="nonexistent"):
        staging.create("x", ["/nonexistent/place"])


@pytest.mark.root
def test_a_read_only_file_system_has_no_stage(isolated_home: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], check=True)
    try:
        with pytest.raises(NoPreview, match="read-only"):
            staging.create("mine", [str(tmp_path)])
    finally:
        subprocess.run(["umount", tmp_path], check=True)
