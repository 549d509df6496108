"""One booted machine for all tests of this folder (of one worker)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from . import machine as machines


@pytest.fixture(scope="session")
def machine() -> Iterator[machines.Machine]:
    if os.geteuid() != 0:
        pytest.skip("needs root. Run: sudo ./test.sh")
    if reason := machines.missing():
        pytest.skip(reason)
    booted = machines.boot()
    yield booted
    booted.stop()
