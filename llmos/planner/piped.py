"""Calls for what was piped in, where the model made up a file's name for it.

"I'm pasting in my messages: how many cancel?" has no file, but nearly all that the model learnt from has one,
so it writes `messages.txt`. A file that nobody named and that the folder has not got is the piped data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmos.messages import Think, ToolCall
from llmos.planner.copying import strings

_READ_DATA = frozenset({"text.columns", "text.count", "text.lines", "text.query", "text.search"})
_DATA = "-"
_NAME = re.compile(r"[^-.~/*?][^/*?]*")  # of a file right here
_MOST = 40  # entries that are told (daemon.request): there may be more of them


def of_data(calls: Sequence[ToolCall], think: Think) -> tuple[ToolCall, ...]:
    """The same calls, with the piped data in the place of a file that is made up; unchanged without data."""
    if think.data_head is None:
        return tuple(calls)
    meant: list[ToolCall] = []
    for call in calls:
        made_up = _is_made_up(call, think) and not any(
            call.args["path"] in strings(one.args.values()) for one in meant
        )
        meant.append(call.model_copy(update={"args": {**call.args, "path": _DATA}}) if made_up else call)
    return tuple(meant)


def _is_made_up(call: ToolCall, think: Think) -> bool:
    path = call.args.get("path")
    if call.tool not in _READ_DATA or not isinstance(path, str) or not _NAME.fullmatch(path):
        return False
    if len(think.entries) >= _MOST or path in {entry.rstrip("/") for entry in think.entries}:
        return False
    said = path.casefold() in think.text.casefold()  # "this shopping list" is no file's name
    return not said or "." not in path
