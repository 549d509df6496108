"""What one user may hold of the broker, over all their connections, where several users share it.

Each connection may hold some megabytes: a frame half received, requests at work, replies unread. Their sums
are bounded for each user, so that one who floods it is refused and the others notice nothing. Users take
turns with the event loop as well: a few frames of each at a time, from however many connections they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from llmos.errors import Overloaded

MAX_HELD_BYTES = 48 << 20  # of one user, in frames that are not answered yet: four whole ones
MAX_UNREAD_BYTES = 64 << 20  # of one user, in replies they do not take
MAX_WORKING = 1024  # requests and questions of one user at a time
_A_LITTLE = 1 << 16  # unread on one connection: not worth summing up


class Holder(Protocol):
    """What a share must know of a connection."""

    @property
    def unread_bytes(self) -> int: ...


class Share:
    """One user's. `bounded` is False for who need not share: root, and the owner of a daemon of their own."""

    def __init__(self, *, bounded: bool) -> None:
        self.connections: set[Holder] = set()
        self.working = 0
        self._bounded = bounded
        self._held_bytes = 0
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """For a few frames: others' events come before this user's next ones."""
        async with self._turn:
            yield
            await asyncio.sleep(0)

    def hold(self, more_bytes: int) -> None:
        """Count what is held from now on (or, negative, no more). Raises Overloaded where it is too much."""
        self._held_bytes += more_bytes
        if self._bounded and more_bytes > 0 and self._held_bytes > MAX_HELD_BYTES:
            raise Overloaded(
                f"your connections hold more than {MAX_HELD_BYTES >> 20} MiB of unanswered frames",
                "Send one after the other.",
            )

    def check_working(self) -> None:
        """Whether one more may be worked on. Raises Overloaded."""
        if self._bounded and self.working >= MAX_WORKING:
            raise Overloaded(f"{self.working} of your requests are at work", "Wait for some to finish.")

    def reads_too_little(self, connection: Holder) -> bool:
        """Whether this connection is one of those by which a user holds too much unread."""
        if not self._bounded or connection.unread_bytes < _A_LITTLE:
            return False
        return sum(one.unread_bytes for one in self.connections) > MAX_UNREAD_BYTES


class Shares:
    """By user, for as long as they have a connection."""

    def __init__(self) -> None:
        self._of: dict[int, Share] = {}

    def of(self, uid: int, *, bounded: bool) -> Share:
        if uid not in self._of:
            self._of[uid] = Share(bounded=bounded)
        return self._of[uid]

    def count(self, uid: int) -> int:
        share = self._of.get(uid)
        return len(share.connections) if share else 0

    def left(self, uid: int, connection: Holder) -> None:
        share = self._of[uid]
        share.connections.discard(connection)
        if not share.connections and not share.working:
            del self._of[uid]


def too_many(own: int, everybody: int, most: int) -> bool:
    """Whether one user may not have one more of `most` places: they leave as many free as they have.

    However many users take all they can, somebody who comes later finds places: of n users who do, each has
    one part of n + 1, and one part is left.
    """
    return own >= most - everybody
