"""The journal's mirror in journald, where that runs: the same entries, as structured fields.

    journalctl -t llmos LLMOS_VERDICT=deny -o verbose

Its native protocol (systemd's docs/JOURNAL_NATIVE_PROTOCOL.md) is one datagram an entry. The mirror never
blocks and never fails a call: what journald does not take at once is not mirrored. `LLMOS_SEQ` and
`LLMOS_HASH` make it a witness of how far the journal had come. Texts arrive here redacted.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from llmos.messages import JsonObject

SOCKET = Path("/run/systemd/journal/socket")
MAX_FIELD_BYTES = 4096
# journalctl MESSAGE_ID=…: one for each kind of entry, drawn once and for all.
MESSAGE_IDS = {
    "decided": "a5348bac8fd04024946d2194ffe2728f",
    "finished": "5743b82b57074211a5f7ab321c631105",
}
NOTE_ID = "71b9907f897443d492f6d935e60e8b95"
_FIELDS = ("kind", "id", "uid", "tool", "command", "cwd", "verdict", "rule", "reason", "runs", "ok",
           "exit_code", "of", "undo_id")  # fmt: skip
_PRIORITY_NOTICE, _PRIORITY_INFO = 5, 6


class Journald:
    """One datagram socket, made when first needed. Safe for threads."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def send(self, entry: JsonObject, seq: int, line_hash: str) -> bool:
        """Whether journald took it."""
        datagram = encode({**_fields(entry), "LLMOS_SEQ": str(seq), "LLMOS_HASH": line_hash})
        with suppress(OSError), self._lock:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto(datagram, self._path)
            return True
        return False


def _fields(entry: JsonObject) -> dict[str, str]:
    kind = str(entry["kind"])
    refused = entry.get("verdict") == "deny"
    named = {f"LLMOS_{name.upper()}": str(entry[name]) for name in _FIELDS if entry.get(name) is not None}
    return {
        "MESSAGE": _message(entry),
        "MESSAGE_ID": MESSAGE_IDS.get(kind, NOTE_ID),
        "PRIORITY": str(_PRIORITY_NOTICE if refused else _PRIORITY_INFO),
        "SYSLOG_IDENTIFIER": "llmos",
        **named,
    }


def _message(entry: JsonObject) -> str:
    match entry["kind"]:
        case "decided":
            return f"{entry.get('verdict')} {entry.get('tool')}: {entry.get('command')} ({entry.get('rule')})"
        case "finished":
            return f"request {entry.get('id')} ended with exit code {entry.get('exit_code')}"
        case kind:
            return f"request {entry.get('id')}: {kind}"


def encode(fields: dict[str, str]) -> bytes:
    """Fields as journald's native protocol has them; long values are cut."""
    return b"".join(part for name, value in fields.items() for part in _encoded(name.encode(), value))


def _encoded(name: bytes, value: str) -> Iterator[bytes]:
    data = value.encode("utf-8", "backslashreplace")[:MAX_FIELD_BYTES]
    if b"\n" in data:
        yield name + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    else:
        yield name + b"=" + data + b"\n"
