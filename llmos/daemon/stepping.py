"""A request in several steps: what came of its calls goes back, and what comes then is looked at warily.

    call -> outcome -> next calls, judged and asked about -> ... bounded in steps, time and money

A backend says that it wants to see outcomes. A model on this machine cannot; it is asked again where the
sentence names more steps than it made calls for (`planner.steps`).

Each step is on disk (`steplog`), so that the request can go on after the daemon was killed over it. An
outcome holds what programs, files and pages say, so whatever is proposed after it was read is asked about,
even where the policy would allow it: an instruction that stands in a file is nobody's request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmos.daemon.hands import Judged
from llmos.daemon.steplog import Step
from llmos.messages import Decision, JsonObject, Outcome, Taken, Thought, Verdict
from llmos.planner.steps import left, looks_back

RESUME_TOOL = "resume"
ALONE = frozenset({"answer", "ask"})  # tools that end a request
NOT_KNOWN = (
    "The daemon ended while this ran: it may have taken effect, wholly or in part."
    " It is not run again; yes goes on from here."
)
_REPEAT = "It was cut off before, so it may have been done already. Look at what is there first."
_UNKNOWN = (
    "unknown: the daemon was stopped while this ran. It may have taken effect wholly, in part or not at all."
    " Look at what is there before anything else; do not simply repeat it."
)
HEAD_CHARS, TAIL_CHARS, ERROR_CHARS = 3000, 1000, 1000
_LEFT_OUT = re.compile(r"^\[(\d+) characters left out\]$", re.MULTILINE)
_WARY = Verdict(
    decision=Decision.ASK,
    rule="heard",
    reason="It was proposed after reading what came of earlier calls, which may hold others' words.",
)


def taken(steps: Sequence[Step]) -> tuple[Taken, ...]:
    """The steps so far, as they are told to the model."""
    return tuple(Taken(call=step.call, outcome=step.outcome or _UNKNOWN) for step in steps)


def open_ended(thought: Thought, text: str, steps: Sequence[Step] = ()) -> Thought:
    """The same; a local one is to see outcomes where the sentence names steps beyond its calls and these."""
    if thought.route != "local" or any(call.tool in ALONE for call in thought.calls):
        return thought
    calls = (*(step.call for step in steps), *thought.calls)
    return thought.model_copy(update={"more": bool(left(text, calls))})


def first_look(thought: Thought, text: str) -> Thought:
    """Of a local one whose first call is a look: that one alone, where the rest speaks of what it finds."""
    if thought.route != "local" or not looks_back(text):
        return thought
    return open_ended(thought.model_copy(update={"calls": thought.calls[:1]}), text)


def repeats(thought: Thought, steps: Sequence[Step]) -> bool:
    """Whether a local model has nothing to add to what was done: a small one says so by saying it again."""
    return thought.route == "local" and all(call in [step.call for step in steps] for call in thought.calls)


def trimmed(outcome: Outcome) -> str:
    """Exit code, and the ends of what was printed; what is left out is said."""
    text = f"exit code {outcome.exit_code}\n{_ends(outcome.stdout, HEAD_CHARS, TAIL_CHARS)}"
    if outcome.stderr:
        text += f"\nstderr:\n{_ends(outcome.stderr, 0, ERROR_CHARS)}"
    return text


def _ends(text: str, head: int, tail: int) -> str:
    left_out = len(text) - head - tail
    return text if left_out <= 0 else f"{text[:head]}\n[{left_out} characters left out]\n{text[-tail:]}"


def not_read(steps: Sequence[Step]) -> str:
    """What a person is to know of an answer in words after these: how much of each outcome was left out."""
    left_out = ((n, _LEFT_OUT.findall(step.outcome or "")) for n, step in enumerate(steps, 1))
    parts = [
        f"{sum(map(int, counts)):,} characters of step {number}" for number, counts in left_out if counts
    ]
    return f"(The model did not read {', '.join(parts)}.)" if parts else ""


def wary(judged: Judged) -> Judged:
    """The same, asked about where it would have been allowed. An answer in words does nothing."""
    if judged.plan.reply is not None or judged.verdict.decision is not Decision.ALLOW:
        return judged
    return Judged(judged.plan, _WARY)


def places(steps: Sequence[Step]) -> tuple[str, ...]:
    """All that the calls so far read or wrote."""
    return tuple(dict.fromkeys(path for step in steps for path in step.places))


# --- after a daemon was killed over it -----------------------------------------------------------


def cut_off(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Steps that change something and of which nobody knows how they ended."""
    return tuple(step for step in steps if step.outcome is None and not step.read_only)


def wary_of_repeats(judged: Judged, steps: Sequence[Step], *, somebody_there: bool) -> Judged:
    """A call that was cut off before runs again by a person's word at the terminal alone."""
    if judged.verdict.decision is Decision.DENY or judged.plan.call not in [s.call for s in cut_off(steps)]:
        return judged
    decision = Decision.ASK if somebody_there else Decision.DENY
    return Judged(judged.plan, Verdict(decision=decision, rule="cut-off", reason=_REPEAT))


def question(request_id: str, unknown: Sequence[Step]) -> JsonObject:
    """The data of the `approval` event: whether to go on although an outcome is not known."""
    named = "; ".join(step.command for step in unknown)
    return {
        "tool": RESUME_TOOL,
        "call": {"tool": RESUME_TOOL, "args": {"of": request_id}},
        "command": f"go on after: {named}",
        "effects": {},
        "verdict": "ask",
        "rule": "cut-off",
        "reason": NOT_KNOWN,
    }


def told(steps: Sequence[Step]) -> str:
    """What a person hears of the steps that are behind them."""
    named = ", ".join(
        f"{number} ({step.command})" + ("" if step.outcome is not None else ", which was cut off")
        for number, step in enumerate(steps, 1)
    )
    return f"Going on after: {named}." if named else "Going on; nothing had been done yet."
