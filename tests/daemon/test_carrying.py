"""How bytes reach a backend: by TLS under certificates of one's own, through a proxy, with a key from a file.

All of it for real: a TLS server with a certificate made here, a proxy that speaks CONNECT and notes what it
was told, the daemon and its courier.
"""

from __future__ import annotations

import base64
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cloud.backend import Backend, calls
from tests.daemon.test_offload import KEY, Asked

LIST = calls(("shell.run", {"command": "ls"}))


def _pump(one: socket.socket, other: socket.socket) -> bytes:
    """Carry bytes both ways until a side ends; what the first one said."""
    said = b""
    while True:
        for ready in select.select([one, other], [], [], 30)[0]:
            if not (data := ready.recv(65536)):
                return said
            said += data if ready is one else b""
            (other if ready is one else one).sendall(data)


def listening(serve: Callable[[socket.socket], None]) -> int:
    """A port; each client that comes to it is served in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


class Proxy:
    """CONNECT (RFC 9110, 9.3.6), to one place whatever name was asked for. `refuse`: a status instead."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.heads: list[bytes] = []
        self.carried = b""
        self.refuse = b""
        self.port = listening(self._serve)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.heads.append(head)
            client.sendall(b"HTTP/1.1 " + (self.refuse or b"200 Fine") + b"\r\n\r\n")
            if not self.refuse:
                self.carried += _pump(client, server)


class Tls:
    """TLS in front of a server that speaks plain HTTP."""

    def __init__(self, port: int, folder: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._context, self._port = context, port
        self.port = listening(self._serve)

    def _serve(self, client: socket.socket) -> None:
        try:
            with self._context.wrap_socket(client, server_side=True) as safe:
                self._carry(safe)
        except OSError:
            client.close()  # a client that does not trust us leaves

    def _carry(self, safe: ssl.SSLSocket) -> None:
        with socket.create_connection(("127.0.0.1", self._port)) as server:
            threading.Thread(target=_forward, args=(safe, server), daemon=True).start()
            _forward(server, safe)


def _forward(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass


@pytest.fixture(scope="module")
def lab() -> Iterator[Backend]:
    made = Backend(LIST)
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=cloud.example",
         "-addext", "subjectAltName=DNS:cloud.example,IP:127.0.0.1",
         "-keyout", place / "key.pem", "-out", place / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    for name, mode in (("good.key", 0o600), ("open.key", 0o644)):
        (place / name).write_text(KEY + "\n")
        (place / name).chmod(mode)
    return place


@pytest.fixture(scope="module")
def proxy(lab: Backend, folder: Path) -> Proxy:
    return Proxy(Tls(lab.port, folder).port)


@pytest.fixture(scope="module")
def ask(lab: Backend, proxy: Proxy, folder: Path, make_home: Callable[[], dict[str, str]]) -> Iterator[Asked]:
    tls = Tls(lab.port, folder).port
    free = {"model": "m", "price_in": 0, "price_out": 0}
    ours = {**free, "ca_file": str(folder / "cert.pem")}
    here = f"https://127.0.0.1:{tls}/v1"
    far = {
        **ours,
        "url": "https://cloud.example/v1",
        "proxy": f"http://ann:pass%20word@127.0.0.1:{proxy.port}",
    }
    credentials = folder / "credentials"
    credentials.mkdir()
    (credentials / "lab").write_text(KEY)
    started = Asked(
        make_home() | {"CREDENTIALS_DIRECTORY": str(credentials)},
        {**ours, "name": "own", "url": here, "key_file": str(folder / "good.key")},
        {**free, "name": "strange", "url": here},
        {**far, "name": "far", "key_credential": "lab"},
        {**ours, "name": "open", "url": here, "key_file": str(folder / "open.key")},
        {**ours, "name": "gone", "url": here, "key_credential": "nowhere"},
        offload={"retries": 0, "breaker_failures": 100},
    )
    yield started
    started.close()


def test_certificates_of_ones_own_are_trusted_where_they_are_named_and_nowhere_else(
    ask: Asked, lab: Backend
) -> None:
    assert ask("hard", route="cloud", backend="own", mode="plan")["route"] == "cloud:own"
    sent = {name.lower(): value for name, value in lab.headers[-1].items()}
    assert sent["authorization"] == f"Bearer {KEY}"
    heard = len(lab.requests)
    strange = ask("hard", route="cloud", backend="strange", mode="plan")
    assert "certificate" in strange["message"].lower() and len(lab.requests) == heard


def test_a_proxy_is_told_the_place_and_sees_nothing_of_what_is_said(
    ask: Asked, lab: Backend, proxy: Proxy
) -> None:
    assert ask("hard", route="cloud", backend="far", mode="plan")["route"] == "cloud:far"
    head = proxy.heads[-1].decode()
    assert head.startswith("CONNECT cloud.example:443 HTTP/1.1\r\n")
    assert f"Basic {base64.b64encode(b'ann:pass word').decode()}" in head
    assert KEY.encode() not in proxy.carried and b"hard" not in proxy.carried
    assert b"hard" in lab.raw


def test_what_a_proxy_refuses_goes_nowhere_else(ask: Asked, lab: Backend, proxy: Proxy) -> None:
    proxy.refuse, heard = b"407 Who are you", len(lab.requests)
    try:
        refused = ask("hard", route="cloud", backend="far", mode="plan")
    finally:
        proxy.refuse = b""
    assert "proxy" in refused["message"] and "407" in refused["message"], refused
    assert "pass" not in refused["message"] and len(lab.requests) == heard


def test_keys_are_read_from_their_places_and_stand_on_no_command_line(ask: Asked) -> None:
    problems = {one["name"]: one["problem"] for one in ask.client.result("backend.list")["backends"]}
    assert not problems["own"] and not problems["far"] and not problems["strange"]
    assert "others can read" in problems["open"]
    assert "nowhere" in problems["gone"]
    said = ask("hard", route="cloud", backend="open", mode="plan")["message"]
    assert "others can read" in said and KEY not in said
    broker = psutil.Process(ask.daemon.process.pid)
    for process in (broker, *broker.children(recursive=True)):
        assert KEY not in " ".join(process.cmdline())
    assert KEY not in ask.daemon.log_text()
