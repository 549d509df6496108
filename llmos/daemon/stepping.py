"""A request in several steps: what came of its calls goes back, and what comes then is looked at warily.

    call -> outcome -> next calls, judged and asked about -> ... bounded in steps, time and money

An outcome holds what programs, files and pages say, so whatever is proposed after it was read is asked
about, even where the policy would allow it: an instruction that stands in a file is nobody's request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmos.daemon.carrying import Item
from llmos.daemon.hands import Judged
from llmos.messages import Decision, Outcome, Verdict

if TYPE_CHECKING:
    from llmos.cloud.frames import Taken

HEAD_CHARS, TAIL_CHARS, ERROR_CHARS = 3000, 1000, 1000
_WARY = Verdict(
    decision=Decision.ASK,
    rule="heard",
    reason="It was proposed after reading what came of earlier calls, which may hold others' words.",
)


def taken(items: Sequence[Item]) -> tuple[Taken, ...]:
    """The steps so far, as they are told to the model."""
    from llmos.cloud.frames import Taken  # only where something leaves

    return tuple(
        Taken(call=item.judged.plan.call, outcome=trimmed(item.outcome))
        for item in items
        if item.outcome is not None
    )


def trimmed(outcome: Outcome) -> str:
    """Exit code, and the ends of what was printed; what is left out is said."""
    text = f"exit code {outcome.exit_code}\n{_ends(outcome.stdout, HEAD_CHARS, TAIL_CHARS)}"
    if outcome.stderr:
        text += f"\nstderr:\n{_ends(outcome.stderr, 0, ERROR_CHARS)}"
    return text


def _ends(text: str, head: int, tail: int) -> str:
    left_out = len(text) - head - tail
    return text if left_out <= 0 else f"{text[:head]}\n[{left_out} characters left out]\n{text[-tail:]}"


def wary(judged: Judged) -> Judged:
    """The same, asked about where it would have been allowed. An answer in words does nothing."""
    if judged.plan.reply is not None or judged.verdict.decision is not Decision.ALLOW:
        return judged
    return Judged(judged.plan, _WARY)


def places(items: Sequence[Item]) -> tuple[str, ...]:
    """All that the calls so far read or wrote."""
    effects = [item.judged.plan.effects for item in items]
    return tuple(dict.fromkeys(path for one in effects for path in (*one.reads, *one.writes)))
