"""A bench for each kind of caller this process can serve: itself and, for root, somebody else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos.messages import Caller
from tests.guard.boxes import OTHER_UID, Bench

CALLERS = ("self", "other") if os.geteuid() == 0 else ("self",)


def _bench(caller: Caller) -> Iterator[Bench]:
    # Not tmp_path: pytest closes that to other users, and some of these tests are another user.
    top = Path(tempfile.mkdtemp(prefix="box-", dir="/tmp"))
    top.chmod(0o755)
    folder = top / "work"
    folder.mkdir()
    bench = Bench(folder, caller)
    bench.own()
    try:
        yield bench
    finally:
        bench.spawner.close()
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(params=CALLERS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    uid, gid = (os.geteuid(), os.getegid()) if request.param == "self" else (OTHER_UID, OTHER_UID)
    yield from _bench(Caller(uid=uid, gid=gid))


@pytest.fixture
def own_bench() -> Iterator[Bench]:
    yield from _bench(Caller(uid=os.geteuid(), gid=os.getegid()))
