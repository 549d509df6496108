"""Every error llmos reports, in one tree.

    LlmosError
    ├── UsageError          2  a wrong flag, an empty or unusable request
    │   ├── ConfigError     2  a typo in a config file, manifest or policy: names file, line and key
    │   └── TooLong         2  the request does not fit the model's window; it is never cut in silence
    ├── Denied              3  the policy refuses
    ├── NeedsApproval       4  nobody was there to say yes
    ├── CallFailed          5  a step of the work failed
    │   ├── Cancelled       5  by the person
    │   ├── ModelError      5  weights missing, corrupt, unsupported
    │   ├── Drifted         5  what a pinned call depends on is no longer so
    │   ├── PlannerDied     5  the planner process was killed or crashed
    │   ├── CloudError      5  no backend gave an answer in time
    │   └── DiskFull        5  no space left where we must write
    ├── NotUnderstood       6  the model could not make a call of the request
    ├── DaemonUnreachable   7  nobody answers on the socket
    │   ├── WireError       7  the peer broke the protocol
    │   └── Overloaded      7  bounded queues are full; retry later
    ├── SandboxUnavailable  8  a layer of the sandbox cannot be had; never a weaker run instead
    │   └── NoPreview       8  the effects of a call cannot be shown before it runs, nor be taken back
    └── OverBudget          9  a money or token cap was reached

Each error says what happened (`str(error)`) and what to do next (`next_step`); the number is the
process's exit code (the command line contract). Over the socket an error travels as a JSON-RPC
error object: code -32000 - exit_code, data {"kind", "next_step"}.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class LlmosError(Exception):
    """Base of all reported errors. `next_step` is one imperative sentence for the person."""

    exit_code: ClassVar[int] = 5

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step

    @property
    def kind(self) -> str:
        return type(self).__name__

    def to_rpc(self) -> dict[str, object]:
        """The JSON-RPC 2.0 error object (https://www.jsonrpc.org/specification#error_object)."""
        data = {"kind": self.kind, "next_step": self.next_step}
        return {"code": -32000 - self.exit_code, "message": str(self), "data": data}


class UsageError(LlmosError):
    exit_code = 2


class ConfigError(UsageError):
    """A file a person wrote is wrong. `where` reads `FILE:LINE: key`."""

    def __init__(self, message: str, next_step: str = "", *, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message, next_step)
        self.where = where


class TooLong(UsageError):
    pass


class Denied(LlmosError):
    exit_code = 3


class NeedsApproval(LlmosError):
    exit_code = 4


class CallFailed(LlmosError):
    exit_code = 5


class Cancelled(CallFailed):
    pass


class ModelError(CallFailed):
    pass


class Drifted(CallFailed):
    pass


class PlannerDied(CallFailed):
    pass


class CloudError(CallFailed):
    pass


class DiskFull(CallFailed):
    pass


class NotUnderstood(LlmosError):
    exit_code = 6


class DaemonUnreachable(LlmosError):
    exit_code = 7


class WireError(DaemonUnreachable):
    pass


class Overloaded(DaemonUnreachable):
    pass


class SandboxUnavailable(LlmosError):
    exit_code = 8


class NoPreview(SandboxUnavailable):
    pass


class OverBudget(LlmosError):
    exit_code = 9


def _walk(cls: type[LlmosError]) -> dict[str, type[LlmosError]]:
    found = {cls.__name__: cls}
    for sub in cls.__subclasses__():
        found |= _walk(sub)
    return found


def unwritten(error: OSError, message: str, next_step: str) -> CallFailed:
    """What to raise where a file of ours cannot be written: a full disk or quota is told apart."""
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else CallFailed
    return kind(message, next_step)


def kinds() -> dict[str, type[LlmosError]]:
    """Every error that is reported, by the name that goes over the socket."""
    return _walk(LlmosError)


def from_rpc(error: dict[str, object]) -> LlmosError:
    """Rebuild the error a peer sent as a JSON-RPC error object; unknown kinds become the nearest base."""
    data = error.get("data")
    data = data if isinstance(data, dict) else {}
    message = str(error.get("message", "unknown error"))
    next_step = str(data.get("next_step", ""))
    kind = kinds().get(str(data.get("kind")), WireError)
    return kind(message, next_step)
