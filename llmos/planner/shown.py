"""Tables that were to be shown, where the model would write them over themselves.

`text.export` is near to `text.query`, and a model that has learnt both now and then takes the one that
changes something. Two things tell it from a file that was really to be changed: nobody said that it may be
replaced, so the call could only fail; or the sentence hardly wants a change of anything (see `llmos.hints`).
"""

from __future__ import annotations

from collections.abc import Sequence

from llmos import hints
from llmos.messages import ToolCall

WRITES, LOOKS = "text.export", "text.query"
_SURELY_NOT = 0.1  # below it: a twentieth of the sentences that want a table changed, half of the others


def as_shown(calls: Sequence[ToolCall], said: str) -> tuple[ToolCall, ...]:
    """The same calls, with a table shown that would be written over itself for no reason."""
    return tuple(_shown(call) if _is_only_shown(call, said) else call for call in calls)


def _is_only_shown(call: ToolCall, said: str) -> bool:
    if call.tool != WRITES or call.args.get("to") != call.args.get("path"):
        return False
    return not call.args.get("overwrite") or hints.wants_change(said) < _SURELY_NOT


def _shown(call: ToolCall) -> ToolCall:
    args = {name: value for name, value in call.args.items() if name not in ("to", "overwrite")}
    return ToolCall(tool=LOOKS, args=args)
