"""What came of requests since the daemon was started: how they ended and were judged, how long they took.

Counted from the events that go to clients, so nothing else has to remember to count. In memory alone: who
wants to look further back asks the journal.
"""

from __future__ import annotations

from collections import Counter

from llmos.messages import Event, JsonObject

BUCKETS_S = (0.05, 0.25, 1.0, 5.0, 30.0, 120.0)


class Counts:
    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._judged: Counter[str] = Counter()
        self._within: Counter[float] = Counter()
        self._seconds = 0.0

    def heard(self, event: Event, age_s: float) -> None:
        """`age_s`: how long its request has been running."""
        if event.kind == "call":
            self._judged[str(event.data.get("verdict", ""))] += 1
        elif event.kind == "finished":
            self._ended[str(event.data.get("status", ""))] += 1
            self._seconds += age_s
            for most in BUCKETS_S:
                self._within[most] += age_s <= most

    def told(self) -> JsonObject:
        return {
            "ended": dict(self._ended),
            "judged": dict(self._judged),
            "seconds": round(self._seconds, 3),
            "within": [[most, self._within[most]] for most in BUCKETS_S],
        }
