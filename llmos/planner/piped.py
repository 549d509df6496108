"""Calls for what was piped in, where the model made up a file's name for it.

"I'm pasting in my messages: how many cancel?" has no file, but nearly all that the model learnt from has one,
so it writes `messages.txt`. A file that nobody named and that the folder has not got is the piped data.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmos.messages import Think, ToolCall

_READ_DATA = frozenset({"text.columns", "text.count", "text.lines", "text.query", "text.search"})
_DATA = "-"


def of_data(calls: Sequence[ToolCall], think: Think) -> tuple[ToolCall, ...]:
    """The same calls, with the piped data in the place of a file that is made up; unchanged without data."""
    if think.data_head is None:
        return tuple(calls)
    return tuple(
        call.model_copy(update={"args": {**call.args, "path": _DATA}}) if _is_made_up(call, think) else call
        for call in calls
    )


def _is_made_up(call: ToolCall, think: Think) -> bool:
    path = call.args.get("path")
    if call.tool not in _READ_DATA or not isinstance(path, str) or path == _DATA:
        return False
    if path.partition("/")[0] in {entry.rstrip("/") for entry in think.entries}:
        return False
    said = path.casefold() in think.text.casefold()  # "this shopping list" is no file's name
    return not said or not set("./") & set(path)
