"""Finds secrets by name below the folders a call works in, and what there leads out of them.

Bounded in entries, depth and time, and remembered: a folder whose time of change is the same is not read
again, and for `FRESH_S` seconds the answer is not looked at again at all. Certificates and public keys stay
readable: of `*.pem`, `*.key` and JSON files only those that hold a private key are secrets.
Named pipes and sockets are found too: whoever listens at their other end is not in the sandbox.
What it does not protect against: a secret under a name that says nothing, or beyond the bounds.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmos.guard.landmarks import SECRET_FOLDERS

FRESH_S = 2.0
MAX_FOLDERS = 3000
MAX_ENTRIES = 30_000
MAX_DEPTH = 8
MAX_FOUND = 300
MAX_SCAN_S = 0.4  # of processor time: a busy machine must not hide a secret from us
_HEAD_BYTES = 1 << 14
_SETTLED_NS = 50_000_000

OPEN_ENDINGS = (".example", ".sample", ".template", ".dist", ".schema", ".defaults")
_SECRET = re.compile(
    r"\.env|\.env\..+|\.envrc|\.netrc|_netrc|\.git-credentials|\.pgpass|\.my\.cnf|\.htpasswd|\.vault_pass"
    r"|\.vault-token|\.dockercfg|\.s3cfg|\.boto|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|master\.key|wallet\.dat"
    r"|.+\.(kdbx?|p12|pfx|jks|keystore|ppk|ovpn|agekey|kubeconfig)|kubeconfig",
    re.IGNORECASE,
)
_PERHAPS = re.compile(
    r".+\.(pem|key)|.*(service.?account|credential|secret|firebase|gcp|google|adminsdk|key).*\.(json|csv|ini)"
    r"|credentials",
    re.IGNORECASE,
)
_PRIVATE = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|\"(private_key|client_secret)\"\s*:|aws_secret_access_key",
    re.IGNORECASE,
)
# Large, made by programs, and holding nobody's secrets; `.git` is masked where its secrets lie, by name.
_SKIPPED = frozenset((
    "node_modules", ".git", ".hg", ".svn", "__pycache__", "site-packages", ".venv", "venv", ".tox", ".nox",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".cache", ".npm", ".cargo", ".rustup", ".gradle", ".m2",
    "target", "dist-packages", "vendor", ".local", ".pyenv", ".nvm", ".steam", "snap",
))  # fmt: skip
_OWN = ("/proc", "/sys", "/dev", "/run")  # a sandbox has its own


@dataclass(frozen=True, slots=True)
class _Folder:
    """What one folder held when it was last read."""

    changed_ns: int
    found: tuple[str, ...]
    below: tuple[str, ...]
    entries: int


class Scanner:
    """Remembers folders between calls; safe to use from several threads."""

    def __init__(self) -> None:
        self._folders: dict[str, _Folder] = {}
        self._answers: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._lock = threading.Lock()

    def remembered(self, tops: Iterable[str]) -> tuple[str, ...] | None:
        """The secrets below `tops`, when all of them were looked at a moment ago."""
        found: list[str] = []
        for top in tops:
            seen_s, secrets = self._answers.get(top, (-FRESH_S, ()))
            if time.monotonic() - seen_s > FRESH_S:
                return None
            found += secrets
        return tuple(found)

    def scan(self, tops: Iterable[str]) -> tuple[str, ...]:
        found: list[str] = []
        with self._lock:
            for top in tops:
                secrets = tuple(self._below(top))
                self._answers[top] = (time.monotonic(), secrets)
                found += secrets
            if len(self._folders) > 4 * MAX_FOLDERS:
                self._folders.clear()
            if len(self._answers) > MAX_FOUND:
                self._answers.clear()
        return tuple(found)

    def _below(self, top: str) -> Iterator[str]:
        """Breadth first, so that what lies near is found before a bound is met."""
        deadline, folders, entries, found = time.thread_time() + MAX_SCAN_S, 0, 0, 0
        waiting = deque([(top, 0)])
        while waiting and folders < MAX_FOLDERS and entries < MAX_ENTRIES and time.thread_time() < deadline:
            path, depth = waiting.popleft()
            folder = self._look(path)
            folders, entries = folders + 1, entries + folder.entries
            for secret in folder.found:
                if (found := found + 1) > MAX_FOUND:
                    return
                yield secret
            if depth < MAX_DEPTH:
                waiting.extend((below, depth + 1) for below in folder.below)

    def _look(self, path: str) -> _Folder:
        try:
            # Not the time of modification: a command could set that back over a secret made since.
            changed_ns = os.lstat(path).st_ctime_ns
            known = self._folders.get(path)
            if known is None or known.changed_ns != changed_ns:
                known = _read(path, changed_ns)
                # A folder may change again within one tick of its clock.
                if time.time_ns() - changed_ns > _SETTLED_NS:
                    self._folders[path] = known
            return known
        except OSError:
            return _Folder(0, (), (), 1)


def _read(path: str, changed_ns: int) -> _Folder:
    found, below, entries = [], [], 0
    with os.scandir(path) as listing:
        for entry in listing:
            if (entries := entries + 1) > MAX_ENTRIES:
                break
            if entry.is_dir(follow_symlinks=False):
                if entry.name in SECRET_FOLDERS:
                    found.append(entry.path)
                elif entry.name not in _SKIPPED and entry.path not in _OWN:
                    below.append(entry.path)
            elif not entry.is_symlink() and (not entry.is_file(follow_symlinks=False) or _is_secret(entry)):
                found.append(entry.path)
    return _Folder(changed_ns, tuple(found), tuple(below), entries)


def _is_secret(entry: os.DirEntry[str]) -> bool:
    if entry.name.endswith(OPEN_ENDINGS):
        return False
    return bool(_SECRET.fullmatch(entry.name)) or (
        bool(_PERHAPS.fullmatch(entry.name)) and _holds_private_key(entry.path)
    )


def _holds_private_key(path: str) -> bool:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return bool(_PRIVATE.search(os.read(fd, _HEAD_BYTES)))
        finally:
            os.close(fd)
    return True  # what we cannot look into is nothing to show
