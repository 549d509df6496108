"""A pid names the process that connected only while that process lives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from llmos.daemon.peers import Peers

CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sys.stdin.read()
"""


def test_a_process_is_there_until_it_ends_whatever_the_connection(tmp_path: Path) -> None:
    peers = Peers()
    before = set(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client = subprocess.Popen([sys.executable, "-c", CONNECT, str(tmp_path / "s")], stdin=subprocess.PIPE)
        connection, _ = listener.accept()
        with connection, peers.held(connection, client.pid):
            assert peers.is_there(client.pid)
            assert not peers.is_there(os.getpid())
            with peers.held(connection, client.pid):  # a second connection of the same process
                pass
            assert peers.is_there(client.pid)
            client.communicate()
            assert not peers.is_there(client.pid)
        assert not peers.is_there(client.pid)
    assert set(os.listdir("/proc/self/fd")) <= before
