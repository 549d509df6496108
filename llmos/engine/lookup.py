"""Guesses what comes next by where the same few tokens stood before: in the prompt, the reply, or a hint.

Prompt look-up (Saxena 2023): a call copies paths, names and numbers from the request. Hints are texts that
the caller thinks a reply may contain, worked examples for instance; there one token is enough to go by. A
guess costs little, as reading a few tokens takes not much longer than reading one, and changes nothing:
`generate` keeps of it only what the model chooses by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST, _SHORTEST = 4, 2  # tokens that must be the same


class Lookup:
    """The text so far by its short sequences; later occurrences hide earlier ones, hints the prompt's."""

    def __init__(self, ids: Sequence[int], hints: Sequence[Sequence[int]] = ()) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], tuple[list[int], int]] = {}
        self.extend(ids)
        for hint in hints:
            text: list[int] = []
            self._note(text, hint, shortest=1)

    def extend(self, ids: Sequence[int]) -> None:
        self._note(self._ids, ids, shortest=_SHORTEST)

    def _note(self, text: list[int], ids: Sequence[int], *, shortest: int) -> None:
        for token in ids:
            # What ends here is followed by `token`. Noted only now, so that an ending never finds itself.
            end = len(text)
            for length in range(shortest, min(_LONGEST, end) + 1):
                self._after[tuple(text[end - length :])] = (text, end)
            text.append(token)

    def guess(self, limit: int) -> list[int]:
        """At most `limit` tokens that may follow; empty when nothing like the end was seen before."""
        end = len(self._ids)
        for length in range(min(_LONGEST, end), 0, -1):
            if (found := self._after.get(tuple(self._ids[end - length :]))) is not None:
                text, place = found
                return text[place : place + limit]
        return []
