"""What each person's requests came to mean: pairs of a sentence and the calls that its author approved.

    approved, edited or taught -> kept -> shown to the model as worked examples for a sentence that is like it

Opt-in, per user, in one private file each (0600) of the daemon's state; nobody's pairs are looked at for
anybody else, and none leaves the machine. What was undone or refused is no example. A pair that holds what
looks like a secret is not kept at all. It proposes and approves nothing: what the model makes of an example
is judged, shown and asked about like any other call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from llmos import paths
from llmos.daemon.request import Job
from llmos.errors import LlmosError, UsageError
from llmos.guard.redaction import redact
from llmos.messages import Example, Message, ToolCall, ToolSpec, Worked, new_id
from llmos.shelf import Shelf

log = logging.getLogger(__name__)

MOST_PAIRS = 500  # of one user; the oldest go
SHOWN = 2  # in a prompt
NEAR = 0.55  # cosine; sentences that share a word or two are about something else
MAX_CHARS = 2000  # of a pair
How = Literal["approved", "edited", "taught"]


class Pair(Message):
    """`request`: where it comes from, so that an undo finds it."""

    id: str
    say: str
    calls: tuple[ToolCall, ...]
    how: How
    time: float
    request: str = ""
    undone: bool = False


class Habits(Message):
    """One user's."""

    on: bool = False
    pairs: tuple[Pair, ...] = ()


class Personal:
    """Everybody's, each apart. Blocks for as long as a small file takes; one at a time (the event loop's)."""

    def __init__(self) -> None:
        self._shelf = Shelf(paths.state_dir() / "personal", Habits, most=100_000)
        self._known: dict[int, Habits] | None = None

    def of(self, uid: int) -> Habits:
        if self._known is None:
            self._known = {int(key): one for key, one in self._shelf.all().items() if key.isdigit()}
        return self._known.get(uid, Habits())

    def switch(self, uid: int, *, on: bool) -> None:
        """Off: nothing more is kept or shown; what is kept stays until it is forgotten."""
        self._keep(uid, self.of(uid).model_copy(update={"on": on}))

    def add(self, uid: int, say: str, calls: Sequence[ToolCall], how: How, request: str = "") -> Pair:
        """Keep a pair in the place of an older one of the same words. Raises UsageError for a secret."""
        pair = Pair(id=new_id()[:6], say=say, calls=tuple(calls), how=how, time=time.time(), request=request)
        told = {"say": say, "calls": [call.model_dump(mode="json") for call in calls]}
        if len(pair.model_dump_json()) > MAX_CHARS:
            raise UsageError(
                f"more than {MAX_CHARS} characters are no phrase to remember", "Say it in fewer words."
            )
        from llmos import hints

        if redact(told) != told or any(found for text in _texts(told) for found in hints.secrets_in(text)):
            raise UsageError("it holds what looks like a secret, so it is not kept", "Say it without.")
        others = [one for one in self.of(uid).pairs if _plain(one.say) != _plain(say)]
        self._put(uid, [*others, pair][-MOST_PAIRS:])
        return pair

    def forget(self, uid: int, pair_id: str = "") -> int:
        """One pair, or all; how many. Raises UsageError for an id that is none."""
        pairs = self.of(uid).pairs
        left = [one for one in pairs if pair_id and one.id != pair_id]
        if pair_id and len(left) == len(pairs):
            raise UsageError(f"nothing with the id {pair_id} is remembered", "See: llmos tune personal list")
        self._put(uid, left)
        return len(pairs) - len(left)

    def near(self, uid: int, say: str) -> tuple[Worked, ...]:
        """The user's own examples that are like this sentence, the nearest first."""
        habits = self.of(uid)
        usable = {one.id: one for one in habits.pairs if not one.undone} if habits.on else {}
        if not usable:
            return ()
        from llmos.planner.retrieval import Retriever

        ranked = Retriever([_as_spec(one) for one in usable.values()]).ranked(say)
        found = [usable[shot.spec.name] for score, shot in ranked if score >= NEAR]
        return tuple(Worked(say=one.say, calls=one.calls) for one in found[:SHOWN])

    # --- what happens elsewhere ---

    def done(
        self, job: Job, proposed: Sequence[ToolCall], ran: Sequence[ToolCall], *, approved: bool
    ) -> None:
        """What a request came to. What cannot be kept is no matter for it."""
        edited = tuple(proposed) != tuple(ran)
        if not self.of(job.caller.uid).on or not (approved or edited):
            return
        try:
            self.add(job.caller.uid, job.text, ran, "edited" if edited else "approved", job.id)
        except LlmosError as error:
            log.info("not remembered: %s", error)

    def refused(self, uid: int, say: str) -> None:
        """The person said no to what came of these words."""
        pairs = self.of(uid).pairs
        left = [one for one in pairs if _plain(one.say) != _plain(say) or one.how == "taught"]
        if len(left) < len(pairs):
            self._put_or_log(uid, left)

    def turned(self, uid: int, request: str, *, undone: bool) -> None:
        """A change was taken back, or made again."""
        pairs = self.of(uid).pairs
        if any(one.request == request for one in pairs):
            marked = [
                one.model_copy(update={"undone": undone}) if one.request == request else one for one in pairs
            ]
            self._put_or_log(uid, marked)

    def _put_or_log(self, uid: int, pairs: Sequence[Pair]) -> None:
        try:
            self._put(uid, pairs)
        except LlmosError as error:
            log.error("%s %s", error, error.next_step)

    def _put(self, uid: int, pairs: Sequence[Pair]) -> None:
        self._keep(uid, self.of(uid).model_copy(update={"pairs": tuple(pairs)}))

    def _keep(self, uid: int, habits: Habits) -> None:
        self._shelf.put(str(uid), habits)
        assert self._known is not None
        self._known[uid] = habits


def _texts(value: Any) -> Iterator[str]:
    """The strings in it, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _plain(say: str) -> str:
    return " ".join(say.casefold().split()).rstrip(".!?。！？")


def _as_spec(pair: Pair) -> ToolSpec:
    """For the retriever, which knows examples of tools alone."""
    return ToolSpec(name=pair.id, summary="", parameters={}, examples=(Example(say=pair.say, args={}),))
