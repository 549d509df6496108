"""The journal as a daemon keeps it: whatever happens to the daemon, what has begun to run is written down."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from llmos import paths
from llmos.guard.audit import Audit

from . import support


@pytest.mark.sandbox
def test_what_runs_when_the_daemon_is_killed_is_in_the_journal(
    start_daemon: Callable[..., support.Daemon], tmp_path: Path
) -> None:
    daemon = start_daemon()
    with daemon.connect() as client:
        command = "echo up && sleep 20"
        client.send("call", tool="shell.run", args={"command": command}, cwd=str(tmp_path), consent="yes")
        while (frame := client.receive()) is not None:
            if frame.get("method") == "event" and frame["params"]["kind"] == "output":
                break
        daemon.stop(signal.SIGKILL)
    journal = Audit(paths.audit_file())
    assert [line["command"] for line in journal.lines() if line["kind"] == "decided"] == [command]
    assert journal.history(1)[0]["status"] == "interrupted"
    assert not journal.verify().problem
