"""JSON-RPC 2.0 as plain values: read a request, write a reply (https://www.jsonrpc.org/specification).

Pure. Parameters are by name only. Batches are refused with a sentence: frames are lines, so several
requests are several lines, and each is answered when it is done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llmos import wire
from llmos.errors import LlmosError, UsageError, WireError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

JsonObject = dict[str, Any]
RequestId = str | int | float | None
MAX_VALUES = 100_000  # of one frame: each takes many times its length once it is read
_SMALL = 1 << 18  # bytes; so much cannot hold too many
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
MEMBERS = frozenset({"jsonrpc", "method", "params", "id"})


class Fault(UsageError):
    """A request that JSON-RPC itself refuses; carries the specification's code.

    `request_id` is the id the reply goes to, None where it could not be read.
    """

    def __init__(self, code: int, message: str, next_step: str = "", request_id: RequestId = None) -> None:
        super().__init__(message, next_step)
        self.code = code
        self.request_id = request_id

    def to_rpc(self) -> dict[str, object]:
        data = {"kind": "WireError" if self.code == PARSE_ERROR else "UsageError"}
        return {"code": self.code, "message": str(self), "data": data | {"next_step": self.next_step}}


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    params: JsonObject
    id: RequestId
    is_notification: bool  # no id member: never answered, not even with an error


def parse(frame: bytes) -> Request:
    """Read one frame; raises Fault with the specification's code."""
    if len(frame) > _SMALL and _holds_too_many(frame):
        raise Fault(INVALID_REQUEST, f"the frame holds over {MAX_VALUES} values", "Ask for less at once.")
    try:
        value = wire.decode(frame)
    except WireError as error:
        raise Fault(PARSE_ERROR, str(error), error.next_step) from error
    if isinstance(value, list):
        raise Fault(INVALID_REQUEST, "batches are not supported", "Send one request per line.")
    if not isinstance(value, dict):
        raise Fault(INVALID_REQUEST, "the frame is not a JSON object", "Send one request object per line.")
    return _request(value)


def _holds_too_many(frame: bytes) -> bool:
    """Before it is read. Where there are many commas, those of texts are left out."""
    return frame.count(b",") > MAX_VALUES and _STRING.sub(b"", frame).count(b",") > MAX_VALUES


def _request(value: JsonObject) -> Request:
    request_id = value.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | float | None):
        raise Fault(INVALID_REQUEST, "`id` is neither a string nor a number", "Use a string or a number.")
    method, params = value.get("method"), value.get("params", {})

    def refuse(message: str, next_step: str) -> Fault:
        return Fault(INVALID_REQUEST, message, next_step, request_id)

    if value.get("jsonrpc") != "2.0":
        raise refuse('`jsonrpc` is not "2.0"', 'Add "jsonrpc": "2.0" to the request.')
    if unknown := value.keys() - MEMBERS:
        raise refuse(f"unknown member `{min(unknown)}`", f"Known: {', '.join(sorted(MEMBERS))}.")
    if not isinstance(method, str) or not method:
        raise refuse("`method` is missing", "Name a method, for instance status.")
    if not isinstance(params, dict):
        raise Fault(INVALID_PARAMS, "`params` is not an object", "Give parameters by name.", request_id)
    return Request(method, params, request_id, "id" not in value)


def unknown_method(name: str, known: str) -> Fault:
    return Fault(METHOD_NOT_FOUND, f"there is no method {name[:80]!r}", f"Known methods: {known}.")


def reply(request_id: RequestId, result: Any) -> JsonObject:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def refusal(request_id: RequestId, error: LlmosError) -> JsonObject:
    return {"jsonrpc": "2.0", "id": request_id, "error": error.to_rpc()}


def notification(method: str, params: JsonObject) -> JsonObject:
    return {"jsonrpc": "2.0", "method": method, "params": params}
