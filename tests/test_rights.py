"""A thread acts as somebody else: what a socket's peer, a file and the other threads see of it."""

from __future__ import annotations

import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmos import rights
from llmos.guard.caller import as_caller
from llmos.messages import Caller

pytestmark = pytest.mark.root
NOBODY = 65534


def in_thread(work: object, *args: object) -> object:
    """Ids belong to a thread: one of its own leaves the test's alone, whatever goes wrong."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *args).result(10)  # type: ignore[arg-type]


def test_a_peer_sees_the_caller_and_afterwards_root_again(short_dir: Path) -> None:
    place = str(short_dir / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        os.chmod(place, 0o666)
        os.chmod(short_dir, 0o755)
        server.listen()

        def connect() -> None:
            for uid in (NOBODY, 0):
                with rights.acting_as(uid), socket.socket(socket.AF_UNIX) as client:
                    client.connect(place)

        in_thread(connect)
        seen = []
        for _ in range(2):
            peer, _ = server.accept()
            with peer:
                seen.append(
                    struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
                )
    assert seen == [NOBODY, 0]


def test_only_this_thread_changes_and_files_are_the_callers(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    inside, looked = threading.Event(), threading.Event()

    def act() -> bool:
        with rights.acting_as(NOBODY):
            inside.set()
            looked.wait(10)
            try:
                secret.read_text()
            except PermissionError:
                return os.geteuid() == NOBODY and os.getgroups() == [NOBODY]
        return False

    with ThreadPoolExecutor(1) as pool:
        acted = pool.submit(act)
        assert inside.wait(10) and os.geteuid() == 0 and secret.read_text() == "x"
        looked.set()
        assert acted.result(10)
        assert pool.submit(lambda: (os.geteuid(), secret.read_text())).result(10) == (0, "x")


def test_the_callers_file_rights_come_back_too(tmp_path: Path) -> None:
    """A planner looks up a unit while it looks at files as the caller."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)

    def plan() -> str:
        with as_caller(Caller(uid=NOBODY, gid=NOBODY)):
            with rights.acting_as(NOBODY):
                pass
            try:
                return secret.read_text()
            except PermissionError:
                return "refused"

    assert in_thread(plan) == "refused" and in_thread(secret.read_text) == "x"


def test_an_error_inside_gives_the_ids_back() -> None:
    def fail() -> int:
        try:
            with rights.acting_as(NOBODY):
                raise ValueError
        except ValueError:
            return os.geteuid()

    assert in_thread(fail) == 0
