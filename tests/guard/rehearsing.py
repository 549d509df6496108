"""Helpers for the tests of effects: commands rehearsed in a folder, committed and taken back, for real."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path

from llmos.guard import changes, commit, staging, turning, undostore
from llmos.guard.commit import Rehearsed
from llmos.guard.permit import Permit, mint
from llmos.guard.staging import Stage
from llmos.messages import Effects, Outcome, Plan, Shell, ToolCall, new_id
from tests.guard.boxes import VERDICT, Bench

Picture = dict[str, tuple[object, ...]]


def permit(bench: Bench, stage: Stage | None, *texts: str) -> Permit:
    steps = tuple(Shell(text=text, timeout_s=30) for text in texts)
    plan = Plan(call=ToolCall(tool="shell.run"), command=" ; ".join(texts), effects=Effects(), steps=steps,
                read_only=False)  # fmt: skip
    return mint(
        plan, VERDICT, bench.caller, request_id=new_id(), cwd=str(bench.folder),
        write_roots=stage.write_roots if stage else (str(bench.folder),),
        stage=str(stage.folder) if stage else "",
    )  # fmt: skip


def rehearse(bench: Bench, *texts: str, roots: tuple[Path, ...] = ()) -> tuple[Permit, Rehearsed, Outcome]:
    """Run shell texts on a stage and look at what they changed."""
    time.sleep(0.02)  # what was made in the same tick of the clock counts as made meanwhile
    started = commit.now_ns()
    stage = staging.create(new_id(), [str(root) for root in roots or (bench.folder,)])
    granted = permit(bench, stage, *texts)
    outcome = asyncio.run(bench.spawner.run(granted))
    return granted, Rehearsed(stage, changes.find(stage), started, {}), outcome


def change(bench: Bench, *texts: str, roots: tuple[Path, ...] = ()) -> str:
    """Rehearse and commit; the undo id."""
    granted, rehearsed, outcome = rehearse(bench, *texts, roots=roots)
    assert outcome.exit_code == 0, outcome
    try:
        return commit.commit(granted, rehearsed)
    finally:
        rehearsed.stage.discard()


def entry(undo_id: str) -> undostore.Entry:
    return next(found for found in undostore.entries() if found.header.id == undo_id)


def turn(bench: Bench, undo_id: str) -> None:
    """Undo, or redo what was undone."""
    turning.turn(permit(bench, None), turning.reversal(entry(undo_id)))


def picture(folder: Path, *, inodes: bool = True) -> Picture:
    """Everything about everything in a folder, that a person or a program could miss."""
    found: Picture = {}
    for top, folders, files in os.walk(os.fsencode(folder)):
        for name in (b"", *folders, *files):
            place = os.path.join(top, name)
            seen = os.lstat(place)
            kind = stat.S_IFMT(seen.st_mode)
            xattrs: dict[str, bytes] = {}
            content = b""
            if kind == stat.S_IFREG:
                content = _read(place) if seen.st_size < 1 << 20 else b"%d" % seen.st_size
            if kind in (stat.S_IFREG, stat.S_IFDIR):
                xattrs = {key: os.getxattr(place, key) for key in os.listxattr(place)}
            if kind == stat.S_IFLNK:
                content = os.readlink(place)
            number = seen.st_ino if inodes and kind != stat.S_IFDIR else 0
            links = seen.st_nlink if kind == stat.S_IFREG else 0
            found[os.fsdecode(place)] = (
                kind, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, content,
                sorted(xattrs.items()), number, links,
            )  # fmt: skip
    return found


def _read(place: bytes) -> bytes:
    with open(place, "rb") as file:
        return file.read()
