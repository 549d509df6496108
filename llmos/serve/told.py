"""Errors in the shape of OpenAI's API, so that every client shows the sentence and knows what to retry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from llmos.messages import JsonObject


class ApiError(Exception):
    """An answer that is an error. `kind` is the API's `type`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, for it may come from another process."""
        given: dict[str, Any] = {
            "kind": self.kind,
            "param": self.param,
            "code": self.code,
            "headers": self.headers,
        }
        return partial(ApiError, **given), (self.status, str(self))

    def body(self) -> JsonObject:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def busy(status: int, message: str, code: str, after_s: float) -> ApiError:
    """Try again later; clients honour Retry-After."""
    kind = "server_error" if status == 503 else "rate_limit_error"
    return ApiError(status, message, kind=kind, code=code, headers={"Retry-After": f"{after_s:.0f}"})
