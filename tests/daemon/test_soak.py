"""A short sample of the soak of `tests.bench.load`: a thousand calls leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import daemon, load

SANDBOXED, CHEAP = 100, 900
MOST_MORE_THREADS = 4  # a pool that has a few more of its bounded number
MOST_MORE_MB = 8.0  # caches fill up; at 10^5 calls the whole is not much more


@pytest.mark.sandbox
def test_a_thousand_calls_leave_nothing_behind(short_dir: Path) -> None:
    with daemon.running(short_dir) as (process, sock):
        daemon.wait_for_parts(sock)
        found = load.soaked(str(short_dir / "s.sock"), str(short_dir), SANDBOXED, CHEAP, process.pid)
    assert found["soak_failed"] == 0
    more = found["soak_more"]
    assert more.pop("threads") <= MOST_MORE_THREADS
    assert {name: count for name, count in more.items() if count > 0} == {}
    first, *_, last = found["soak_resident_mb"]
    assert last - first < MOST_MORE_MB
