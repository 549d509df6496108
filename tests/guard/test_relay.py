"""A call held to named machines reaches these and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmos.errors import CallFailed
from llmos.guard import carry, hosts, machine, reach, relay
from llmos.messages import Outcome, Run
from tests.guard.boxes import PYTHON, Bench, permit

SAY = """
import socket, sys
for target in sys.argv[1:]:
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 5) as s:
            s.sendall(b"hello" * 100000); s.shutdown(socket.SHUT_WR)
            said = b""
            while data := s.recv(65536): said += data
            print(len(said), said[:5].decode())
    except OSError as error:
        print(type(error).__name__)
"""


def _echo(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            said = b""
            while data := client.recv(65536):
                said += data
            client.sendall(said.upper())


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Two servers of the machine's own, on its loopback interface."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    threads = [threading.Thread(target=_echo, args=(server,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    yield [server.getsockname()[1] for server in servers]
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def _run(bench: Bench, granted: tuple[str, ...], *argv: str) -> Outcome:
    step = Run(argv=argv, timeout_s=20)
    one = permit(step, cwd=bench.folder, network=True, hosts=granted, caller=bench.caller)
    return asyncio.run(bench.spawner.run(one))


@pytest.mark.sandbox
def test_only_what_is_granted_answers(bench: Bench, ports: list[int]) -> None:
    granted, other = ports
    targets = (f"127.0.0.1:{granted}", f"localhost:{granted}", f"127.0.0.1:{other}", "192.0.2.1:80")
    outcome = _run(bench, (f"localhost:{granted}",), PYTHON, "-I", "-c", SAY, *targets)
    said = outcome.stdout.splitlines()
    assert said[:2] == ["500000 HELLO", "500000 HELLO"], outcome.stderr
    assert said[2] == "ConnectionRefusedError"
    assert said[3] in ("OSError", "ConnectionRefusedError")  # there is no way out of this network


@pytest.mark.sandbox
def test_the_network_is_its_own_and_names_are_in_a_file(bench: Bench, ports: list[int]) -> None:
    outcome = _run(
        bench,
        (f"127.0.0.1:{ports[0]}",),
        *("/bin/sh", "-c"),
        "readlink /proc/self/ns/net; wc -l < /proc/net/tcp; echo x >> /etc/hosts; grep -c local /etc/hosts",
    )
    own, sockets, known = outcome.stdout.splitlines()
    assert own != os.readlink("/proc/self/ns/net")
    assert int(sockets) == 2  # a heading and the one that listens
    assert int(known) >= 1


@pytest.mark.sandbox
def test_a_name_without_an_address_is_said_before_anything_runs(own_bench: Bench) -> None:
    with pytest.raises(CallFailed, match="cannot be found"):
        _run(own_bench, ("no-such-machine.invalid:80",), "/bin/true")


@pytest.mark.sandbox
def test_a_call_that_never_connects_leaves_no_descriptor(own_bench: Bench, ports: list[int]) -> None:
    _run(own_bench, (f"127.0.0.1:{ports[0]}",), "/bin/true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        _run(own_bench, (f"127.0.0.1:{ports[0]}",), "/bin/true")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("host", "address", "fit"),
    [
        ("example.org", "93.184.215.14", True),
        ("example.org", "10.1.2.3", True),
        ("example.org", "127.0.0.1", False),
        ("example.org", "169.254.169.254", False),
        ("example.org", "::ffff:127.0.0.1", False),
        ("example.org", "fe80::1%eth0", False),
        ("example.org", "0.0.0.0", False),
        ("169.254.169.254", "169.254.169.254", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("localhost", "169.254.169.254", False),
    ],
)
def test_a_name_does_not_lead_to_the_machine_itself(host: str, address: str, fit: bool) -> None:
    assert relay.is_fit(host, address) is fit


def test_what_is_looked_up_stands_in_the_hosts_file() -> None:
    reach = asyncio.run(relay.look_up(("127.0.0.1:8080", "[::1]:22", "localhost")))
    assert {("127.0.0.1", 8080), ("::1", 22), ("127.0.0.1", 443)} <= set(reach.routes)
    assert "127.0.0.1\tlocalhost" in reach.hosts_file.splitlines()
    with pytest.raises(CallFailed, match="more than one call"):
        asyncio.run(relay.look_up([f"127.0.0.{n}" for n in range(1, 60)]))


def test_one_unknown_machine_makes_it_the_whole_network() -> None:
    assert hosts.named(("example.org", "example.org", "b:22")) == ("example.org", "b:22")
    assert hosts.named(("example.org", "*")) == ()
    assert hosts.named(()) == ()


@pytest.mark.root  # who may set up an interface
def test_a_taken_port_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(carry.Amiss, match=f"reach: 127.0.0.1 port {port}: Address already in use"):
            carry.prepare(reach.listening([("127.0.0.1", port)]), [-1] * machine.MAX_REGISTERS)
