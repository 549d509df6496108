"""Guesses what comes next by looking where the same few tokens stood before, in the prompt or the reply.

Prompt look-up (Saxena 2023): a call repeats its worked examples and copies paths, names and numbers from the
request. A guess costs little, as reading a few tokens takes about as long as reading one, and changes
nothing: `generate` keeps of it only what the model chooses by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST, _SHORTEST = 4, 2  # tokens that must be the same


class Lookup:
    """The text so far by its short sequences; later occurrences hide earlier ones."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        for token in ids:
            # What ends here is followed by `token`. Noted only now, so that an ending never finds itself.
            end = len(self._ids)
            for length in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._after[tuple(self._ids[end - length :])] = end
            self._ids.append(token)

    def guess(self, limit: int) -> list[int]:
        """At most `limit` tokens that may follow; empty when nothing like the end was seen before."""
        end = len(self._ids)
        for length in range(min(_LONGEST, end), _SHORTEST - 1, -1):
            if (found := self._after.get(tuple(self._ids[end - length :]))) is not None:
                return self._ids[found : found + limit]
        return []
