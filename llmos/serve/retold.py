"""A reply that is thought about twice, because the first time was lost on the way: what of it is new.

A reply has no side effects, so it may be asked for again. Whoever has seen its beginning must not see
another one.
"""

from __future__ import annotations

import secrets

from llmos.serve.asked import ChatAsked
from llmos.serve.told import ApiError
from llmos.serve.working import Began, Event


def repeatable(asked: ChatAsked) -> ChatAsked:
    """With a seed, so that whoever is asked second writes what the first one did."""
    if asked.seed is not None:
        return asked
    return asked.model_copy(update={"seed": secrets.randbelow(1 << 31)})


class Told:
    """What a client has been told, so that the second telling goes on where the first broke off."""

    def __init__(self, *, streamed: bool) -> None:
        self._streamed = streamed
        self._began, self._sent, self._heard = False, "", ""

    def again(self) -> None:
        """The reply comes once more, from its beginning."""
        self._heard = ""
        if not self._streamed:
            self._sent = ""  # nobody has seen it: it may come out otherwise

    def fresh(self, event: Event) -> list[Event]:
        """What of one event is new. Raises ApiError where the reply contradicts what was sent."""
        if isinstance(event, Began):
            first, self._began = not self._began, True
            return [event] if first else []
        if not isinstance(event, str):
            return [event]
        self._heard += event
        if self._sent.startswith(self._heard):
            return []
        if not self._heard.startswith(self._sent):
            text = "The reply was lost with the process that wrote it and came out otherwise; ask again."
            raise ApiError(503, text, kind="server_error", code="replica_lost")
        new, self._sent = self._heard[len(self._sent) :], self._heard
        return [new]
