"""Other readings of a request: where the likeliest one failed without a trace, the next ones are tried.

A small model is often wrong where it was unsure, and then its second choice is often right: a folder's other
file, another tool. What failed must have left nothing behind, a look never becomes a change, and each reading
is judged and asked about as the first one was.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence

from llmos.daemon.carrying import SURE_ENOUGH, Ended, Item
from llmos.daemon.clock import Clock
from llmos.daemon.routing import Routing
from llmos.errors import CallFailed, NotUnderstood, UsageError
from llmos.messages import Think, Thought

ASKS_SURELY = 0.985  # measured: questions back that were right were surer, the one that was wrong less so
SURE = 0.99  # measured: of the replies above it one in forty is wrong
MAX_READINGS = 3  # after the likeliest one
LIKELY = 0.5  # of a reading, given that the first one was wrong

Failure = Ended | NotUnderstood | CallFailed | UsageError


def may_be_misread(thought: Thought | None, failure: Failure, items: Sequence[Item], *, asked: bool) -> bool:
    """Whether the model here was unsure of what failed (or it cannot be), and nothing is left of that.

    A change that was tried and failed is read otherwise only where a person is `asked` about each: "delete
    the *.~" that matched nothing must not become "delete the *.bak".
    """
    if thought is None or not thought.calls or thought.route != "local":
        return False
    if isinstance(failure, Ended):
        least = {"failed": SURE, "needs_input": ASKS_SURELY}.get(failure.status, 0.0)  # else a verdict
    else:
        least = math.inf if isinstance(failure, NotUnderstood) else SURE
    tried = any(item.outcome and not item.judged.plan.read_only for item in items)
    return thought.confidence < least and all(map(left_nothing, items)) and (asked or not tried)


def asks(ended: Failure) -> bool:
    return isinstance(ended, Ended) and ended.status == "needs_input"


def left_for_others(failure: Failure, confidence: float) -> float:
    """How likely it is that the first reading was wrong. One that failed was; one that was only held back,
    because nobody was sure enough of it, may have been right.
    """
    return 1 - confidence if asks(failure) and confidence < SURE_ENOUGH else 1.0


def left_nothing(item: Item) -> bool:
    """Whether all is as if the call had never been; one that was stopped is not tried in another form."""
    outcome = item.outcome
    if outcome is None:
        return True
    if outcome.timed_out or outcome.cancelled:
        return False
    return item.judged.plan.read_only or (item.changes is not None and not item.undo_id)


async def others(
    think: Think, routing: Routing, clock: Clock, cancel: asyncio.Event
) -> AsyncIterator[Thought]:
    """What else the model here takes the words for, likeliest first; nothing that only talks."""
    for attempt in range(1, MAX_READINGS + 1):
        try:
            thought = await routing.otherwise(think, attempt, cancel=cancel)
        except NotUnderstood:
            return
        clock.thought(thought.timing)
        if thought.confidence < LIKELY:
            return
        if all(call.tool != "answer" for call in thought.calls):
            yield thought
