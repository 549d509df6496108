"""Secrets below the working folder: found by name and content, within bounds, and closed to commands."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from llmos.guard import hidden, secretscan
from llmos.guard.secretscan import Scanner
from tests.guard.boxes import Bench

PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
PUBLIC = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
SECRETS = {
    ".env": "KEY=1", "app/.env.production": "KEY=1", "deep/er/.envrc": "x", "keys/id_ed25519": PRIVATE,
    "tls/server.pem": PRIVATE, "tls/server.key": PRIVATE, "db.kdbx": "x", "cert.p12": "x",
    "sa/gcp-service-account.json": '{"type": "service_account", "private_key": "x"}',
    "config/credentials": "[default]\naws_secret_access_key = x\n", "config/master.key": "0123",
    "home/.aws/config": "x", "home/.ssh/known_hosts": "x",
}  # fmt: skip
OPEN = {
    ".env.example": "KEY=", "app/.env.sample": "KEY=", "keys/id_ed25519.pub": "ssh-ed25519 A",
    "tls/ca.pem": PUBLIC,
    "policies/secrets.toml": "[[rule]]\n", "package.json": "{}", "keyboard.json": '{"keys": []}',
    "src/credentials.py": "x = 1\n", "node_modules/x/.env": "KEY=1", "docs/environment.md": "x",
}  # fmt: skip


def fill(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


def found(top: Path, scanner: Scanner) -> set[str]:
    return {os.path.relpath(path, top) for path in scanner.scan([str(top)])}


def test_secrets_are_found_and_what_only_looks_like_one_is_not(tmp_path: Path) -> None:
    fill(tmp_path, SECRETS | OPEN)
    expected = {name for name in SECRETS if not name.startswith("home/")} | {"home/.aws", "home/.ssh"}
    assert found(tmp_path, Scanner()) == expected


def test_pipes_and_sockets_lead_out_and_links_are_left_to_where_they_lead(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tmp_path)
        listener.bind("sock")
        (tmp_path / "link").symlink_to("fifo")
        assert found(tmp_path, Scanner()) == {"fifo", "sock"}


def test_a_new_secret_is_noticed_and_a_look_is_remembered(tmp_path: Path) -> None:
    scanner = Scanner()
    fill(tmp_path, {"a/b/.env": "x"})
    assert scanner.remembered([str(tmp_path)]) is None
    assert found(tmp_path, scanner) == {"a/b/.env"}
    fill(tmp_path, {"a/c/.env": "x"})
    assert found(tmp_path, scanner) == {"a/b/.env", "a/c/.env"}
    assert len(scanner.remembered([str(tmp_path)]) or ()) == 2


def test_a_time_set_back_hides_no_new_secret(tmp_path: Path) -> None:
    scanner, at = Scanner(), (10**18, 10**18)
    os.utime(tmp_path, ns=at)
    time.sleep(0.1)  # what changed a moment ago is not remembered
    assert found(tmp_path, scanner) == set()
    assert hidden.candidates("/", (str(tmp_path),)) == hidden.candidates("/", ())
    fill(tmp_path, {".env": "x"})
    os.utime(tmp_path, ns=at)
    assert found(tmp_path, scanner) == {".env"}
    assert str(tmp_path / ".env") in hidden.candidates("/", (str(tmp_path),))


def test_a_large_tree_costs_a_bounded_time_and_near_things_are_found(tmp_path: Path) -> None:
    for number in range(60):
        folder = tmp_path / f"{number}" / "x" / "y"
        folder.mkdir(parents=True)
        for other in range(60):
            (folder / f"{other}").touch()
    fill(tmp_path, {"z/.env": "x"})
    began = time.thread_time()
    assert found(tmp_path, Scanner()) == {"z/.env"}
    assert time.thread_time() - began < secretscan.MAX_SCAN_S + 0.2


@pytest.mark.sandbox
def test_a_command_reads_none_of_them(bench: Bench) -> None:
    fill(bench.folder, SECRETS | OPEN)
    os.mkfifo(bench.folder / "fifo")
    bench.own()
    names = " ".join(f"{name!r}" for name in SECRETS)
    outcome = bench.shell(
        f"cat {names}; echo x > fifo; mv keys/id_ed25519 k; cat k; cat tls/ca.pem .env.example"
    )
    assert outcome.stdout == PUBLIC + "KEY="
    assert (bench.folder / "keys/id_ed25519").read_text() == PRIVATE
