"""What the unfinished frames of one user may hold of the broker's memory, over all their connections.

Each connection may have one frame half received, of some megabytes. Where several users share the daemon,
their sum is bounded for each of them, so that one who floods it is refused and the others notice nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from llmos.errors import Overloaded

MAX_PENDING_BYTES = 48 << 20  # of one user: four whole frames


class Shares:
    def __init__(self, max_bytes: int = MAX_PENDING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held: Counter[int] = Counter()

    def holder(self, uid: int) -> Callable[[int], None]:
        """For one connection: called with how many bytes it holds now; raises Overloaded."""
        before = 0

        def hold(num_bytes: int) -> None:
            nonlocal before
            self._held[uid] += num_bytes - before
            before = num_bytes
            if num_bytes and self._held[uid] > self._max_bytes:
                raise Overloaded(
                    f"your connections hold more than {self._max_bytes >> 20} MiB of unfinished frames",
                    "Send one after the other.",
                )

        return hold
