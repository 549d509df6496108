"""What both clients do alike: find and greet the daemon, write requests, read answers."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from llmos import paths
from llmos.client.results import Approve, Event, JsonObject, Question
from llmos.errors import DaemonUnreachable, LlmosError, WireError, from_rpc
from llmos.wire import PROTOCOL_VERSION, decode

CONNECT_TIMEOUT_S = 5.0


def request_params(
    *,
    cwd: str | os.PathLike[str] | None,
    yes: bool,
    approve: Approve | None,
    data: bytes | str | None = None,
    write: Sequence[str | os.PathLike[str]] = (),
    policy: str = "",
    session: str = "",
) -> JsonObject:
    params: JsonObject = {
        "cwd": os.fspath(cwd) if cwd is not None else str(Path.cwd()),
        "id": os.urandom(6).hex(),
    }
    params["consent"] = "yes" if yes else "interactive" if approve is not None else "none"
    if data is not None:
        raw = data.encode() if isinstance(data, str) else data
        params["data_b64"] = base64.b64encode(raw).decode("ascii")
    if write:
        params["write"] = [os.fspath(path) for path in write]
    return params | ({"policy": policy} if policy else {}) | ({"session": session} if session else {})


def calls_params(tool: str, args: JsonObject | None, then: Sequence[tuple[str, JsonObject]]) -> JsonObject:
    """One call, and those after it."""
    later = [{"tool": name, "args": given} for name, given in then]
    return {"tool": tool, "args": args or {}} | ({"then": later} if later else {})


def answer(question: Question, approved: bool) -> JsonObject:
    return {"id": question.id, "decision": "yes" if approved else "no"}


def greeting(frame: JsonObject) -> JsonObject:
    """The daemon's greeting; raises what it says instead, or WireError for another protocol."""
    if isinstance(frame.get("error"), dict):
        raise from_rpc(frame["error"])
    hello = frame.get("params") if frame.get("method") == "hello" else None
    if not isinstance(hello, dict) or hello.get("protocol") != PROTOCOL_VERSION:
        raise WireError(
            f"the daemon does not speak protocol {PROTOCOL_VERSION}", "Update it: llmos daemon stop"
        )
    return hello


def outcome(frame: JsonObject) -> JsonObject:
    if isinstance(frame.get("error"), dict):
        raise from_rpc(frame["error"])
    result = frame.get("result")
    return result if isinstance(result, dict) else {"value": result}


def event_of(frame: JsonObject) -> Event | None:
    params = frame.get("params")
    if frame.get("method") != "event" or not isinstance(params, dict):
        return None
    return Event(str(params.get("id")), str(params.get("kind")), params.get("data") or {})


def _candidates(socket_path: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    return (Path(socket_path),) if socket_path is not None else paths.sockets()


def _checked_peer(sock: socket.socket, path: Path, named: bool) -> None:
    """Do not tell a stranger's daemon what we want: unless it was named, its uid must be ours or root's."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    owner = struct.unpack("3i", raw)[1]
    if not named and owner not in (0, os.getuid()):
        raise DaemonUnreachable(
            f"the process listening at {path} belongs to uid {owner}, not to you", f"Remove {path}."
        )


def connected(socket_path: str | os.PathLike[str] | None, timeout_s: float) -> socket.socket:
    named = socket_path is not None or bool(os.environ.get("LLMOS_SOCKET"))
    tried = _candidates(socket_path)
    for path in tried:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(path))
            _checked_peer(sock, path, named)
            return sock
        except OSError:
            sock.close()
        except LlmosError:
            sock.close()
            raise
    raise DaemonUnreachable(f"no llmos daemon answers at {tried[-1]}", "Start one: llmos daemon")


def parsed(frame: bytes) -> JsonObject:
    value = decode(frame)
    if not isinstance(value, dict):
        raise WireError("the daemon sent a frame that is no JSON object", "Run: llmos doctor")
    return value
