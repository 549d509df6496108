"""Daemons for the tests of this folder; each is stopped at the end, whatever the test did to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import support


@pytest.fixture
def start_daemon(short_dir: Path, isolated_home: Path) -> Iterator[Callable[..., support.Daemon]]:
    """Start daemons with a home of their own; arguments as `support.start`, less the folder."""
    started: list[support.Daemon] = []

    def start(script: dict[str, Any] | None = None, **settings: Any) -> support.Daemon:
        started.append(support.start(short_dir, script, settings))
        return started[-1]

    yield start
    for daemon in started:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


@pytest.fixture
def daemon(start_daemon: Callable[..., support.Daemon]) -> support.Daemon:
    """A daemon whose planner understands nothing."""
    return start_daemon()
