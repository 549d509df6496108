"""Calls that are valid and still cannot be what was meant: what a small model gets wrong again and again.

Nothing is allowed because of this. What is found here is read otherwise, asked about, or asked back.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePath

from llmos import hints
from llmos.daemon import measures, spared
from llmos.messages import ToolCall

EVEN_ODDS = 0.0
ONLY_LOOKS = "your words sound as if something is only to be looked at, and this call changes something"

_SETTINGS = frozenset({".yaml", ".yml", ".json", ".toml", ".ini", ".conf", ".cfg", ".env", ".properties"})
_KEY = re.compile(r"[A-Za-z][\w.-]*")
_VALUE = re.compile(r"(?i)true|false|on|off|yes|no|null|none|-?\d+(?:\.\d+)?|[:=]?")


def misfit(call: ToolCall) -> str:
    """Why nobody means this call; empty where somebody may.

    `debug: true` in which debug becomes false is `false: true`: what was meant is the setting's value.
    """
    if call.tool != "text.replace" or PurePath(str(call.args.get("path", ""))).suffix not in _SETTINGS:
        return ""
    find, replace = str(call.args.get("find", "")), str(call.args.get("replace", ""))
    if not _KEY.fullmatch(find) or _VALUE.fullmatch(find) or not _VALUE.fullmatch(replace):
        return ""
    return f"it would put {replace!r} in the place of the name {find!r}, and not set its value"


def doubt(
    text: str, call: ToolCall, touched: Collection[str] | None = None, others: Collection[ToolCall] = ()
) -> str:
    """What in a person's words speaks against a call that changes something; empty where nothing does.

    `touched`: the paths that it changed when it was tried, where it was; `others`: the request's other calls.
    """
    # The same call without that word only shows: it is too easily said in passing.
    in_passing = call.tool == "text.lines" and call.args.get("in_place")
    if hints.only_looks(text, EVEN_ODDS if in_passing else hints.SURELY_LOOKS):
        return ONLY_LOOKS
    if call.tool in ("file.delete", "file.trash") and spared.turned_round(text, call):
        return "your words sound as if what it would leave is what is to go"
    if said := measures.neglected(text, call, touched, others):
        return f"you said {said!r}, and this call takes no account of it"
    if kind := measures.of_any_kind(text, call, touched, others):
        return f"you spoke of {kind!r}, and this call takes whatever is there"
    if name := spared.forgotten(text, call, touched, others):
        return f"you named an exception ({name}), and this call knows of none"
    return ""
