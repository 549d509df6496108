"""A long text that stays on this machine, read by the local model in pieces, and the pieces combined.

    a question   passages -> how much each makes one ask it, piece by piece -> the likeliest -> one answer
    a summary    pieces -> one line about each -> one line about these lines

Nothing is left out in silence: what is too long is refused with its size, and what the time did not do for
is named. An answer comes with the lines it was read from, since a small model misreads. To count, to sort or
to find a word there are tools, which the model calls instead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from llmos.errors import TooLong
from llmos.messages import Think, Thought
from llmos.planner.route import MAX_PIECES, PIECE_CHARS, kind_of

PASSAGE_CHARS = 320
BEST = 6  # passages that the answer is read from
QUOTED = 3  # of these are shown
TIME_S = 600.0
LINE_CHARS = 300
_SUMMARY = re.compile(r"(?i)\b(?:summar|tl;?dr|in (?:short|brief)|gist|overview)|总结|概括|摘要")
_EACH = "Say in one short sentence what this part of the text is about."
_ALL = "These are notes on the parts of one text, in order. Say in one sentence what the whole text is about."

Read = Callable[[Think], Awaitable[Thought]]
Progress = Callable[[str], None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Passage:
    """Some lines of the text, or a part of a long one. `line` is the first one's number."""

    line: int
    text: str


def asks_for_summary(text: str) -> bool:
    return bool(_SUMMARY.search(text))


def are_read_whole(request: str) -> bool:
    """Whether piped data goes to a backend as a whole: where the request is about what it says."""
    from llmos.explain import quoting

    kind = kind_of(request, has_data=True)
    return kind == "document" or (kind == "question" and quoting.asks(request))


def passages(text: str, most_chars: int = PASSAGE_CHARS) -> list[Passage]:
    """The whole text, cut between lines, and within a line only where it is longer than a passage."""
    found: list[Passage] = []
    held: list[str] = []
    start = 1
    for number, line in enumerate(text.splitlines(), 1):
        for part in _cut(line, most_chars):
            if held and sum(map(len, held)) + len(part) > most_chars:
                found.append(Passage(start, "\n".join(held)))
                held = []
            if not held:
                start = number
            held.append(part)
    if held:
        found.append(Passage(start, "\n".join(held)))
    return [one for one in found if one.text.strip()]


def _cut(line: str, most_chars: int) -> list[str]:
    """A line in parts, cut at the ends of sentences or words where there are any."""
    parts = []
    while len(line) > most_chars:
        head = line[:most_chars]
        at = max(head.rfind(". ") + 1, head.rfind("。") + 1)
        at = at if at > most_chars // 2 else head.rfind(" ") if head.rfind(" ") > 0 else most_chars
        parts.append(line[:at])
        line = line[at:].lstrip()
    return [*parts, line]


class Pieces:
    """One text. `read` has the local model think; `progress` tells the person how far it is."""

    def __init__(self, job_id: str, text: str, read: Read, progress: Progress) -> None:
        self._id, self._text, self._read, self._progress = job_id, text, read, progress
        self._until = time.monotonic() + TIME_S

    async def answer(self, question: str) -> str:
        """Raises TooLong before anything is read, Cancelled, and what the planner raises."""
        pieces = _grouped(passages(self._text))
        weighed: list[tuple[float, Passage]] = []
        done = 0
        for piece in self._in_time(pieces):
            told = await self._think("weigh", question, passages=tuple(one.text for one in piece))
            weighed += zip(told.weights, piece, strict=True)
            done += 1
        best = sorted(weighed, key=lambda one: -one[0])[:BEST]
        places = [one for _, one in best]
        said = await self._think(
            "tell", question, data_head="\n".join(one.text for one in sorted(places, key=lambda p: p.line))
        )
        quoted = "\n".join(f"line {one.line}: {_line(one.text)}" for one in places[:QUOTED])
        return f"{said.said}\nRead from these places, the likeliest first:\n{quoted}{_left(done, pieces)}"

    async def summary(self) -> str:
        """Raises as `answer` does."""
        pieces = passages(self._text, PIECE_CHARS)
        notes: list[tuple[int, str]] = []
        for piece in self._in_time(pieces):
            notes.append((piece.line, (await self._think("tell", _EACH, data_head=piece.text)).said))
        if len(notes) == 1:
            return notes[0][1]
        whole = await self._think("tell", _ALL, data_head=_within([note for _, note in notes]))
        parts = "\n".join(f"from line {line}: {note}" for line, note in notes)
        return f"{whole.said}\n{parts}{_left(len(notes), pieces)}"

    def _in_time(self, pieces: Sequence[_T]) -> Iterator[_T]:
        """One after the other, as long as there is time."""
        if len(pieces) > MAX_PIECES:
            raise TooLong(
                f"the text has {len(self._text):,} characters, {len(pieces)} pieces, and at most"
                f" {MAX_PIECES} are read on this machine",
                "Narrow it first (grep, head, tail), or let a backend read it: --cloud",
            )
        for number, piece in enumerate(pieces, 1):
            if time.monotonic() > self._until:
                return
            self._progress(f"reading piece {number} of {len(pieces)}")
            yield piece

    async def _think(
        self,
        mode: Literal["weigh", "tell"],
        text: str,
        *,
        passages: tuple[str, ...] = (),
        data_head: str = "",
    ) -> Thought:
        return await self._read(
            Think(id=f"{self._id}.{mode}", text=text, mode=mode, passages=passages, data_head=data_head)
        )


def _grouped(found: Sequence[Passage]) -> list[list[Passage]]:
    """Passages in pieces of about `PIECE_CHARS`."""
    pieces: list[list[Passage]] = []
    size = PIECE_CHARS
    for one in found:
        if size + len(one.text) > PIECE_CHARS:
            pieces.append([])
            size = 0
        pieces[-1].append(one)
        size += len(one.text)
    return pieces


def _within(notes: Sequence[str]) -> str:
    """A line for each note; a model that rambles is held to a share for each, so that none is left out."""
    share = 2 * PIECE_CHARS // len(notes)
    return "\n".join(note if len(note) <= share else f"{note[: share - 2]} …" for note in notes)


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]} …"


def _left(done: int, pieces: Sequence[object]) -> str:
    if done == len(pieces):
        return ""
    return f"\n(Only the first {done} of {len(pieces)} pieces were read in {TIME_S:g} s; the rest was not.)"
